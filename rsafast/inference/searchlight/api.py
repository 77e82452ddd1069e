"""`searchlight`: where in the brain is a model related to the responses around?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rsafast_kernels.pairwise import METRICS, Metric
from rsafast_kernels.tally import Alternative

from rsafast._condensed import expand
from rsafast.checks import check_integers
from rsafast.comparators import get_comparator, prepare
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.searchlight.engine import Found, Neighbourhoods, Relabellings, search
from rsafast.inference.searchlight.measured import Measured, measured, spacing_of
from rsafast.inference.searchlight.neighbourhoods import FloatArray, Grid, IntArray, grid_of
from rsafast.inference.searchlight.result import SearchlightResult
from rsafast.io.provenance import input_hashes, provenance
from rsafast.mask import check_complete
from rsafast.memory import parse_bytes
from rsafast.permutation.setup import check_choices
from rsafast.rdms import RDMs, as_rdms


def searchlight(
    models: Any,
    responses: Any,
    coordinates: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    radius: float = 3.0,
    voxel_size: ArrayLike | None = None,
    min_voxels: int | float = 10,
    metric: Metric = "correlation",
    method: str = "spearman",
    n_permutations: int = 10_000,
    alternative: Alternative = "greater",
    labels: Sequence[Any] | None = None,
    seed: int = 0,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> SearchlightResult:
    """Compare models with the RDM of the voxels around every voxel, and test where they agree.

    The null hypothesis is that no model is related to the responses around any centre: the stimulus
    labels of the models are exchangeable. The stimuli of the models are relabelled, in the same way
    for all models and centres. So the null keeps what neighbouring centres share (overlapping
    neighbourhoods, smoothing, noise that spreads), and the largest statistic anywhere holds the
    family-wise error whatever that is: no random field, no smoothness to estimate. Statistics are
    standardised with the exact mean and standard deviation of their null before the maximum is
    taken. p-values count the observed labelling, so none is 0, and P(p <= alpha) <= alpha.

    It speaks for this subject and these stimuli, never for other subjects, and never says that two
    models differ. For subjects like these, make a map for each and test the maps with
    :func:`rsafast.sign_flip_test`, whose family-wise p-values are max-T too (docs: Searchlights).

    Parameters
    ----------
    models : RDMs, array ((k, pairs), (k, n, n), (pairs,)) or rsatoolbox RDMs
        Matched with the stimuli by label where both sides have labels.
    responses : (n, voxels) or (n, X, Y, Z) array, or Responses
        One response of each voxel to each stimulus, of one subject. For ``metric="crossnobis"``
        (folds, n, voxels) or (folds, n, X, Y, Z); divide by each voxel's noise first. float32 is
        kept, as in :func:`rsafast.compute_rdms`. `Responses` bring labels, and the indices of
        their voxels where channels are called "x-y-z", as :func:`rsafast.datasets.nsd.read_nsd`
        does.
    coordinates : (voxels, 3) int, optional
        Indices of the voxels in the volume, from 0.
    mask : (X, Y, Z) bool, optional
        Which voxels count; columns of responses are in the order of ``volume[mask]``. Nothing
        outside is read: neighbourhoods end at its border.
    radius : float, default 3
        A neighbourhood is all voxels with data at most this far from its centre: in voxels, or in
        millimetres with `voxel_size`. A voxel at exactly this distance belongs to it, as in
        nilearn and CoSMoMVPA; rsatoolbox takes those nearer than its radius.
    voxel_size : (3,) in mm, or (4, 4) affine, optional
    min_voxels : int or float, default 10
        Centres with fewer voxels around them are left out, and counted. A float up to 1 is a share
        of the whole sphere, rsatoolbox's threshold (the sphere is cut to the extent of the voxels
        along each axis, so that the sphere of a single slice is a disc).
    metric : {"correlation", "cosine", "euclidean", "sqeuclidean", "cityblock", "poisson", \
"crossnobis"}
        See :func:`rsafast.compute_rdms`.
    method : pearson, spearman, rho-a, cosine, corr_cov or cosine_cov; see :func:`rsafast.compare`.
    n_permutations : int, default 10,000
        Relabellings; whole orbits of n are evaluated, so a few more, or all n! if these are no
        more. 0 leaves the test out.
    alternative : {"greater", "less", "two-sided"}
    labels : sequence of n, optional
        Stimulus ids of the responses.
    seed : int
        The same seed gives the same result for any memory budget and number of threads.
    memory_budget : bytes or a size like "2GB", for working arrays (2 GB by default)
        Neighbourhoods and RDMs are made a batch of centres at a time; up to two copies of the
        responses come on top.
    progress : show a bar on stderr after a second.

    Returns
    -------
    SearchlightResult

    Raises
    ------
    InvalidInputError
        NaN, shapes that do not fit, fewer than 4 stimuli, no centre with enough voxels, a stimulus
        with the same response in a whole neighbourhood, unmatched labels, too small a budget.
    UnsupportedCaseError
        Kendall's tau; metric "mahalanobis", which would need a precision for each neighbourhood.

    Notes
    -----
    A voxel that responds alike to all stimuli is left out first, and counted. Cost for n stimuli,
    C centres and P relabellings of M models: C RDMs and their ranks, 2C transforms, and about
    2 n M P C operations in products (n = 92, C = 30,000, P = 10,120, M = 1: 5.6e10; relabelling and
    multiplying would take n (n - 1) M P C = 2.5e12).

    References
    ----------
    Kriegeskorte, Goebel & Bandettini (2006); Nichols & Holmes (2002) and Westfall & Young (1993)
    for max-T; Etzel, Zacks & Braver (2013) for what a centre says.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> points, data = rng.normal(size=(16, 8)), rng.normal(size=(16, 9, 8, 7))
    >>> data[:, :2, :2, :2] += 2 * points.reshape(16, 2, 2, 2)
    >>> model = rf.compute_rdms(points, "euclidean")
    >>> found = rf.searchlight(model, data, radius=1.5, metric="euclidean", n_permutations=2000)
    >>> found.centres[found.p_value_fwer[0] <= 0.05].max(axis=0) <= 2
    array([ True,  True,  True])
    """
    started = time.perf_counter()
    comparator = get_comparator(method)
    if comparator.concordance:
        raise UnsupportedCaseError(
            f"method {comparator.name!r} has no searchlight; use spearman or rho-a"
        )
    _check_metric(metric)
    check_integers(n_permutations=(n_permutations, 0), whole_floats=True)
    check_choices(max(1, n_permutations), alternative, None, "auto", seed, "freedman-lane")
    budget = parse_bytes(memory_budget)
    reach = _checked_radius(radius)
    spacing, affine = spacing_of(voxel_size)
    data = measured(responses, coordinates, mask, labels, metric)
    a = _in_order(as_rdms(models, "models"), data)
    check_complete(a, np.ones(a.vectors.shape[1], bool), "models")
    if not len(data.values):
        raise InvalidInputError(f"none of the {data.n_flat} voxels varies over stimuli")
    grid = grid_of(data.coordinates, reach, spacing)
    sizes, least = grid.sizes(), _least(min_voxels, grid, metric)
    centres = np.flatnonzero(sizes >= least)
    if not len(centres):
        raise InvalidInputError(
            f"no centre is left: the largest neighbourhood of radius {reach:g} holds {sizes.max()}"
            f" voxels, min_voxels asks for {least}; raise the radius or lower min_voxels"
        )
    # Neighbourhoods of one size are worked on together.
    order = np.argsort(sizes[centres], kind="stable")
    around = Neighbourhoods(
        values=data.values, folds=data.folds, grid=grid, centres=centres[order],
        sizes=sizes[centres][order], coordinates=data.coordinates, metric=metric,
    )  # fmt: skip
    n, count = a.n_stimuli, int(n_permutations)
    plan = Relabellings.at_least(n, count, int(seed)) if count else None
    prepared = expand(prepare(comparator, a.vectors, n, a.names), n)
    found = search(prepared, comparator, around, plan, alternative, budget, progress)
    return SearchlightResult(
        **_in_voxel_order(found, order, plan),
        centres=data.coordinates[centres], n_voxels=sizes[centres], shape=data.shape,
        affine=affine, radius=reach, min_voxels=least, n_too_small=len(sizes) - len(centres),
        n_flat=data.n_flat, n_stimuli=n, n_permutations=plan.total if plan else 0,
        engine="none" if plan is None else "exact" if plan.exact else "orbit",
        alternative=alternative, metric=metric, method=comparator.name, seed=int(seed),
        model_names=a.names, subject=data.subject,
        parameters={
            "n_permutations": count,
            "min_voxels": min_voxels,
            "voxel_size": None if voxel_size is None else spacing,
            "memory_budget": budget,
        },
        provenance=provenance()
        | {"seconds": time.perf_counter() - started}
        | ({} if plan is None else {"relabelings": [plan.permuted, plan.fixed], "shifts": n})
        | input_hashes(models=a.vectors, responses=data.values, coordinates=data.coordinates),
    )  # fmt: skip


def _check_metric(metric: str) -> None:
    if metric == "mahalanobis":
        raise UnsupportedCaseError(
            "metric 'mahalanobis' would need a noise precision for every neighbourhood; divide the"
            " responses by each voxel's noise and use 'euclidean', or 'crossnobis' with folds"
        )
    if metric not in METRICS:
        raise InvalidInputError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")


def _checked_radius(radius: float) -> float:
    number = isinstance(radius, int | float | np.number) and not isinstance(radius, bool)
    if not number or not 0 < radius < float("inf"):
        raise InvalidInputError(f"radius must be a number above 0, got {radius!r}")
    return float(radius)


def _in_order(models: RDMs, data: Measured) -> RDMs:
    """Models with their stimuli in the order of the responses."""
    if models.n_stimuli != data.n_stimuli:
        raise InvalidInputError(
            f"models hold {models.n_stimuli} stimuli, responses {data.n_stimuli}"
        )
    if models.labels is None or data.labels is None:
        return models
    try:
        return models.reorder(data.labels)
    except InvalidInputError as error:
        raise InvalidInputError(f"models and responses: {error}") from None


def _least(min_voxels: int | float, grid: Grid, metric: str) -> int:
    """Voxels that a neighbourhood needs."""
    fewest = 2 if metric == "correlation" else 1
    if isinstance(min_voxels, float | np.floating):
        if not 0 <= min_voxels <= 1:
            raise InvalidInputError(
                f"min_voxels must be a whole number, or a share from 0 to 1, got {min_voxels!r}"
            )
        return max(fewest, int(np.ceil(float(min_voxels) * len(grid.steps) - 1e-9)))
    check_integers(min_voxels=(min_voxels, fewest))
    return int(min_voxels)


def _in_voxel_order(found: Found, order: IntArray, plan: Relabellings | None) -> dict[str, Any]:
    """Fields of the result, its centres in the order of the voxels given."""

    def sorted_back(values: Any) -> Any:
        out = np.empty_like(values)
        out[:, order] = values
        return out

    if plan is None:
        names = ("p_value", "p_value_fwer", "null_mean", "null_std", "null_max")
        return {"statistic": sorted_back(found.statistic)} | dict.fromkeys(names)
    return {
        "statistic": sorted_back(found.statistic),
        "p_value": sorted_back(found.exceedances / plan.total),
        "p_value_fwer": sorted_back(_family_wise(found)),
        "null_mean": sorted_back(found.null_mean),
        "null_std": sorted_back(found.null_std),
        "null_max": found.null_max,
    }


def _family_wise(found: Found) -> FloatArray:
    """Share of relabellings whose largest statistic reaches each observed one."""
    ascending = np.sort(found.null_max)
    below = np.searchsorted(ascending, found.joint, side="left")
    return (len(ascending) - below) / len(ascending)
