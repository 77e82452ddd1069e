"""RDMs of float32 features: distances of all pairs of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.device import to_host
from rsafast_kernels.pairwise import Metric, pairwise_distances, reference

from rsafast.bench.row import Case, Device, Peer, Row, Scale, Work, close

_CHECKED = 24  # rows whose pairs the reference does too
# Float32 products: as documented for `pairwise_distances`.
_TOLERANCE = 2e-4
# Beyond so many additions one call of a peer takes more than some seconds.
_PEER_MOST = 2e10


def _features(sets: int, n: int, p: int, device: Device) -> Any:
    x = np.random.default_rng(0).standard_normal((sets, n, p), dtype=np.float32)
    x = x if sets > 1 else x[0]
    if device == "cpu":
        return x
    import torch

    return torch.from_numpy(x).cuda()


def _rows(n: int) -> NDArray[np.intp]:
    """Some rows in order, the first and the last among them."""
    inner = np.random.default_rng(1).choice(np.arange(1, n - 1), _CHECKED - 2, replace=False)
    return np.sort(np.concatenate([[0, n - 1], inner]))


def _case(x: Any, metric: Metric, distances: Callable[[], Any]) -> Case:
    """Distances (pairs,) or (sets, pairs) or, of one set, square; some of them are checked."""
    sets = to_host(x) if x.ndim == 3 else to_host(x)[None]
    n = sets.shape[1]
    chosen = _rows(n)
    i, j = (chosen[side] for side in np.triu_indices(_CHECKED, 1))

    def check(answer: Any) -> float:
        got = to_host(answer)
        if got.shape == (n, n):
            got = got[i, j][None]
        else:
            got = got.reshape(len(sets), -1)[:, n * i - i * (i + 1) // 2 + j - i - 1]
        ends = [0, len(sets) - 1]
        expected = [reference.pairwise_distances(sets[k, chosen], metric) for k in ends]
        return close(got[ends], expected, _TOLERANCE, "distances")

    return Case(distances, check)


def _ours(shape: tuple[int, int, int], metric: Metric, device: Device) -> Case:
    x = _features(*shape, device)
    return _case(x, metric, partial(pairwise_distances, x, metric))


def _scipy(shape: tuple[int, int, int], metric: Metric) -> Case:
    from scipy.spatial.distance import pdist

    x = _features(*shape, "cpu")
    return _case(x, metric, partial(pdist, x, metric))


def _rsatoolbox(shape: tuple[int, int, int], metric: Metric) -> Case:
    import rsatoolbox

    x = _features(*shape, "cpu")
    data = rsatoolbox.data.Dataset(x)

    def run() -> NDArray[np.float64]:
        rdms: Any = rsatoolbox.rdm.calc_rdm(data, method=metric)
        found = rdms.dissimilarities[0]
        # Its "euclidean" is the squared distance over the number of channels.
        return np.sqrt(found * x.shape[1]) if metric == "euclidean" else found

    return _case(x, metric, run)


def _mne_rsa(shape: tuple[int, int, int], metric: Metric) -> Case:
    import mne_rsa

    x = _features(*shape, "cpu")
    return _case(x, metric, partial(mne_rsa.compute_rdm, x, metric=metric))


def _cdist(shape: tuple[int, int, int], metric: Metric, device: Device) -> Case:
    import torch

    x = _features(*shape, "cpu")
    rows = torch.from_numpy(x).to(device)
    p = 2.0 if metric == "euclidean" else 1.0
    return _case(x, metric, partial(torch.cdist, rows, rows, p))


def _product(shape: tuple[int, int, int], device: Device) -> Case:
    """The product of the rows with themselves, and nothing else."""
    x = _features(*shape, device)
    chosen = _rows(shape[1])
    rows = to_host(x)[chosen].astype(np.float64)

    def check(answer: Any) -> float:
        return close(to_host(answer)[np.ix_(chosen, chosen)], rows @ rows.T, 1e-4, "product")

    return Case(lambda: x @ x.T, check)


def _peers(shape: tuple[int, int, int], metric: Metric, device: Device) -> Iterator[Peer]:
    sets, n, p = shape
    if sets > 1:
        return
    pairs = n * (n - 1) / 2
    library = "BLAS" if device == "cpu" else "cuBLAS"
    if metric != "cityblock":
        yield Peer(
            f"{library} product alone", ("torch",) if device == "cuda" else ("numpy",), "torch",
            partial(_product, shape, device), pairs, role="yardstick",
        )  # fmt: skip
    if metric in ("euclidean", "cityblock"):
        cdist = partial(_cdist, shape, metric, device)
        yield Peer("torch.cdist", ("torch",), "torch", cdist, pairs)
    if device == "cuda" or pairs * p > _PEER_MOST:
        return
    yield Peer("SciPy pdist", ("scipy",), "scipy", partial(_scipy, shape, metric), pairs)
    if metric in ("correlation", "euclidean"):
        yield Peer(
            "rsatoolbox calc_rdm", ("rsatoolbox",), "rsatoolbox",
            partial(_rsatoolbox, shape, metric), pairs,
        )  # fmt: skip
    mne = partial(_mne_rsa, shape, metric)
    yield Peer("mne-rsa compute_rdm", ("mne_rsa",), "mne-rsa", mne, pairs)


def _row(shape: tuple[int, int, int], metric: Metric, scale: Scale, device: Device) -> Row:
    sets, n, p = shape
    pairs = sets * n * (n - 1) / 2
    each = 3 if metric == "cityblock" else 2  # difference, size and sum; or product and sum
    return Row(
        kernel="pairwise",
        name=f"{metric}, {f'{sets} × ' if sets > 1 else ''}{n} × {p}",
        device=device,
        size=n,
        items=pairs,
        unit="distances",
        work=Work(each * p * pairs, 4.0 * (sets * n * p + pairs), "float32"),
        prepare=partial(_ours, shape, metric, device),
        scale=scale,
        needs=("torch", "triton") if device == "cuda" else (),
        peers=tuple(_peers(shape, metric, device)),
    )


_SIZES: tuple[tuple[tuple[int, int, int], Metric, Scale], ...] = (
    ((1, 92, 1000), "correlation", "quick"),
    ((1, 720, 4096), "correlation", "quick"),
    ((1, 720, 4096), "euclidean", "default"),
    ((1, 720, 4096), "cityblock", "default"),
    ((50, 92, 1000), "correlation", "default"),
    ((1, 3000, 1000), "correlation", "default"),
    ((1, 3000, 1000), "euclidean", "default"),
    ((1, 3000, 1000), "cityblock", "default"),
    ((1, 10_000, 1000), "correlation", "default"),
    ((1, 10_000, 1000), "euclidean", "default"),
    ((200, 720, 4096), "correlation", "large"),
)
ROWS = tuple(_row(*size, device) for device in ("cpu", "cuda") for size in _SIZES)
