"""How fast the same test runs in another installed package, measured there and then."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsafast.rdms import RDMs

_FEW, _MANY, _REPEATS = 100, 1100, 3
_BATCH = 16


@dataclass(frozen=True, slots=True)
class PeerRate:
    """The fastest way found to run one Mantel test elsewhere.

    Attributes
    ----------
    name, version : the package.
    how : function and engine.
    threads : processors it could use.
    rate : relabellings of one pair a second, set-up excluded.
    """

    name: str
    version: str
    how: str
    threads: int
    rate: float


def fastest_peer(model: RDMs, brain: RDMs) -> PeerRate | None:
    """Time the Mantel test of scikit-bio, or else a loop over rsatoolbox's ``compare``.

    Parameters
    ----------
    model, brain : one RDM each, over the same stimuli in the same order.

    Returns
    -------
    PeerRate or None
        The best of scikit-bio's engines; None where neither package is installed.
    """
    if importlib.util.find_spec("skbio") is not None:
        name, rates = "scikit-bio", _skbio_rates(model, brain)
    elif importlib.util.find_spec("rsatoolbox") is not None:
        name, rates = "rsatoolbox", {"a loop over compare": _rsatoolbox_rate(model, brain)}
    else:
        return None
    from rsafast_kernels import num_threads

    how = max(rates, key=lambda key: rates[key])
    return PeerRate(name, importlib.metadata.version(name), how, num_threads(), rates[how])


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _skbio_rates(model: RDMs, brain: RDMs) -> dict[str, float]:
    """Relabellings a second of each engine of ``skbio.stats.distance.mantel``.

    The difference of two runs leaves out what is done once: checks, ranks, compilation.
    """
    from skbio import DistanceMatrix
    from skbio.stats.distance import mantel

    x, y = (DistanceMatrix(rdm.matrices()[0]) for rdm in (model, brain))
    engines: dict[str, dict[str, Any]] = {"mantel": {}}
    if "engine" in inspect.signature(mantel).parameters:
        names = ["cython"] + ["numba"] * (importlib.util.find_spec("numba") is not None)
        engines = {f"mantel, engine {name}": {"engine": name} for name in names}
    rates = {}
    for how, options in engines.items():

        def run(permutations: int, chosen: dict[str, Any] = options) -> float:
            return _seconds(
                lambda: mantel(x, y, "spearman", permutations, "greater", seed=0, **chosen)
            )

        run(_FEW)
        few = min(run(_FEW) for _ in range(_REPEATS))
        many = min(run(_MANY) for _ in range(_REPEATS))
        rates[how] = (_MANY - _FEW) / max(many - few, 1e-9)
    return rates


def _rsatoolbox_rate(model: RDMs, brain: RDMs) -> float:
    """Relabellings a second through ``rsatoolbox.rdm.compare``, several RDMs a call."""
    from rsatoolbox.rdm import RDMs as TheirRDMs
    from rsatoolbox.rdm import compare

    generator = np.random.default_rng(0)
    matrix, other = model.matrices()[0], TheirRDMs(brain.vectors)
    rows, columns = np.triu_indices(model.n_stimuli, 1)

    def run() -> None:
        orders = [generator.permutation(model.n_stimuli) for _ in range(_BATCH)]
        shuffled = np.stack([matrix[order[rows], order[columns]] for order in orders])
        compare(TheirRDMs(shuffled), other, method="spearman")

    run()
    return _BATCH / min(_seconds(run) for _ in range(_REPEATS))
