"""What every permutation test starts with: checked arguments, aligned RDMs, an engine's plan."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.relabel import relabelings
from rsafast_kernels.tally import ALTERNATIVES, Alternative

from rsafast.checks import is_whole
from rsafast.comparators import FloatArray
from rsafast.comparison import align_covariates
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.permutation import moments
from rsafast.permutation.engines import (
    PILOT,
    Plan,
    count_relabelings,
    plan_direct,
    plan_exact,
    plan_orbit,
)
from rsafast.permutation.statistics import Product, Statistic
from rsafast.rdms import RDMs, align, as_rdms

__all__ = [
    "Alternative",
    "Engine",
    "NullMoments",
    "Tail",
    "aligned",
    "as_groups",
    "check_choices",
    "choose_plan",
    "null_moments",
]

Engine = Literal["auto", "orbit", "exact", "direct"]
Tail = Literal["gpd", "pearson3"]

_MOST_EXACT = 10**8  # relabellings that the exact engine accepts to enumerate
_PILOT_SEED = 0x5DEECE66D
_PILOT = 256  # relabellings that place the histogram where exact moments are not known


def check_choices(
    n_permutations: int, alternative: str, tail: str | None, engine: str, seed: int, scheme: str
) -> None:
    """Raise for counts, seeds and choices that are none."""
    if not is_whole(n_permutations) or n_permutations < 1:
        raise InvalidInputError(
            f"n_permutations must be a positive integer, got {n_permutations!r}"
        )
    if not is_whole(seed) or not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed must be an integer from 0 to 2**64 - 1, got {seed!r}")
    choices: tuple[tuple[str, str | None, tuple[str | None, ...]], ...] = (
        ("alternative", alternative, tuple(ALTERNATIVES)),
        ("tail", tail, (None, "gpd", "pearson3")),
        ("engine", engine, ("auto", "orbit", "exact", "direct")),
        ("covariate_scheme", scheme, ("freedman-lane", "raw")),
    )
    for name, value, allowed in choices:
        if value not in allowed:
            raise InvalidInputError(
                f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}"
            )


def aligned(models: Any, brain: Any, covariates: Any | None) -> tuple[RDMs, RDMs, RDMs | None]:
    """Models, brain RDMs and covariates as RDMs in one stimulus order."""
    a, b = align(as_rdms(models, "models"), as_rdms(brain, "brain"))
    return a, b, None if covariates is None else align_covariates(a, b, covariates)


def as_groups(blocks: ArrayLike | None, n: int) -> NDArray[np.int64] | None:
    """Block of every stimulus as a number; None where stimuli trade labels freely."""
    if blocks is None:
        return None
    values = np.asarray(blocks)
    if values.shape != (n,):
        raise InvalidInputError(
            f"blocks must hold one value for each of {n} stimuli, got {values.shape}"
        )
    if values.dtype.kind not in "biufSU":
        raise InvalidInputError(f"blocks must be numbers or strings, got dtype {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InvalidInputError("blocks holds NaN or infinity; give every stimulus a block")
    names, groups, sizes = np.unique(values, return_inverse=True, return_counts=True)
    if sizes.max() == 1:
        raise InvalidInputError(
            f"every one of the {len(names)} blocks holds a single stimulus: nothing can be permuted"
        )
    return groups.astype(np.int64)


def choose_plan(
    statistic: Statistic,
    n_pairs: int,
    n: int,
    n_permutations: int,
    engine: Engine,
    seed: int,
    groups: NDArray[np.int64] | None,
    budget: int,
    single: bool = False,
) -> Plan:
    """Plan of the engine asked for, or of the best one ("auto"); `single` as of `plan_orbit`."""
    possible = count_relabelings(n, groups)
    if engine == "exact" and possible > _MOST_EXACT:
        raise InvalidInputError(
            f"engine='exact' would enumerate {possible:.3g} relabellings; use engine='auto'"
        )
    if engine == "exact" or (engine == "auto" and possible <= n_permutations):
        return plan_exact(statistic, n_pairs, n, groups)
    if engine == "orbit" and groups is not None:
        raise UnsupportedCaseError("engine='orbit' cannot keep to blocks; use engine='auto'")
    if engine == "orbit" and not statistic.bilinear:
        raise UnsupportedCaseError(
            "engine='orbit' needs a statistic made of products; Kendall's tau is none: use"
            " engine='auto'"
        )
    if engine == "direct" or groups is not None or not statistic.bilinear:
        return plan_direct(statistic, n_pairs, n, n_permutations, seed, groups)
    return plan_orbit(statistic, n, n_permutations, seed, budget, single)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class NullMoments:
    """Mean and standard deviation of the null, (M, N); `exact`, or those of a pilot sample."""

    mean: FloatArray
    std: FloatArray
    exact: bool


def null_moments(
    statistic: Statistic, n: int, seed: int, groups: NDArray[np.int64] | None, budget: int
) -> NullMoments:
    """Exact moments where they are known, else those of a pilot sample."""
    if isinstance(statistic, Product) and groups is None:
        return NullMoments(*moments.mean_and_std(statistic.models, statistic.brain), exact=True)
    if statistic.bilinear and groups is None:
        # Orbits of another seed, but for the identity that they start with.
        plan = choose_plan(statistic, 1, n, _PILOT, "orbit", seed ^ _PILOT_SEED, None, budget)
        blocks = [np.moveaxis(block.values, (1, 3), (0, 1)) for block in plan.blocks()]
        pilot = np.concatenate([b.reshape(*b.shape[:2], -1) for b in blocks], axis=2)[:, :, 1:]
    else:
        pilot = statistic.evaluate(relabelings(seed, PILOT, 0, _PILOT, n, groups))
    return NullMoments(pilot.mean(axis=2), pilot.std(axis=2), exact=False)
