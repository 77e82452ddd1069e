"""`run_demo`: a complete analysis of simulated brains whose truth is known, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import replacing

from rsafast.errors import InvalidInputError

if TYPE_CHECKING:
    from rsafast.demo.brain import Brain
    from rsafast.demo.peers import PeerRate
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

ALPHA = 0.05
COVARIATE = "Gabor energy"
# The simulated distances are a linear mix of the sources' distances. Ranks bend that line, and a
# partial Spearman correlation then leaves about .02 for labels in a region of Gabor energy alone.
PARTIAL_METHOD = "pearson"
PARTIAL_REGIONS = ("early", "late", "null")
_MOST_PARTIAL = 100_000


@dataclass(frozen=True, slots=True)
class Demo:
    """What `run_demo` simulated and found; arrays are (models, regions).

    Attributes
    ----------
    models : RDMs of the models.
    brain : simulated RDMs and the truth.
    single : (models, regions, subjects) Spearman of each model with each single subject.
    result : every model against the mean subject of every region.
    partial : models other than the Gabor energy, with the Gabor energy held constant.
    peer : the fastest other package here, or None.
    files : what was written.
    seconds : for everything.
    """

    models: RDMs
    brain: Brain
    single: NDArray[np.float64]
    result: PermutationResult
    partial: PermutationResult
    peer: PeerRate | None
    files: tuple[Path, ...]
    seconds: float

    @property
    def related(self) -> NDArray[np.bool_]:
        """Whether the simulation relates the pair: its noise-free RDMs correlate."""
        return self.brain.truth != 0

    @property
    def found(self) -> NDArray[np.bool_]:
        """Whether the test finds the pair at a family-wise p of at most .05 (step-down max-T)."""
        return self.result.p_value_stepdown <= ALPHA


def run_demo(
    out: str | Path,
    n_permutations: int = 1_000_000,
    *,
    seed: int = 0,
    measure_peer: bool = True,
    progress: bool = True,
    say: Callable[[str], object] = lambda _: None,
    wrote: Callable[[Path], object] = lambda _: None,
) -> Demo:
    """Simulate models and brains, test every pair, and write RDMs, results and a report.

    Nothing is loaded from a network: the stimuli are 720 digits that scikit-learn ships, the models
    are computed from them, and the "subjects" are simulated, so that the truth is known.

    Parameters
    ----------
    out : folder for the files; made if it is missing (its parent must exist).
        Written: features.npz, models.h5, brain.h5, result.h5, result.csv, report.html.
    n_permutations : relabellings of the test; the partial test takes at most 100,000.
    seed : of the simulation and of the relabellings.
    measure_peer : also time another installed package on one of the pairs.
    progress : show a bar on stderr while testing.
    say : called with a line before each step.
    wrote : called with each file once it is complete.

    Returns
    -------
    Demo

    Raises
    ------
    InvalidInputError
        `out` cannot be made or written, or a count or seed is impossible.
    """
    from rsafast.comparison import compare
    from rsafast.demo import brain as brains
    from rsafast.demo.models import digits, model_features, model_rdms
    from rsafast.demo.peers import fastest_peer
    from rsafast.permutation.api import permutation_test

    started = time.perf_counter()
    folder = _folder(Path(out))
    say("Simulating: 720 digits, 6 models, 4 regions in 6 subjects ...")
    images, classes, labels = digits()
    features = model_features(images, classes)
    models = model_rdms(features, labels)
    brain = brains.simulate(features, models, seed)
    single = compare(models, brain.subjects).reshape(models.n_rdms, -1, brains.N_SUBJECTS)

    pairs = models.n_rdms * brain.mean.n_rdms
    say(f"Testing {pairs} pairs with {n_permutations:,} relabellings ...")
    result = permutation_test(
        models, brain.mean, n_permutations=n_permutations, seed=seed, progress=progress
    )
    say(f"Testing again with {COVARIATE} held constant ...")
    partial = permutation_test(
        models.subset([name for name in models.names if name != COVARIATE]),
        brain.mean.subset(list(PARTIAL_REGIONS)),
        covariates=models.subset(COVARIATE),
        method=PARTIAL_METHOD,
        n_permutations=min(n_permutations, _MOST_PARTIAL),
        seed=seed,
        progress=progress,
    )
    peer = None
    if measure_peer:
        say("Timing the fastest other package that is installed ...")
        peer = fastest_peer(models.subset(0), brain.mean.subset(0))

    say("Writing files and the report ...")
    files = _write(folder, features, models, brain, single, result, partial, wrote)
    return Demo(models, brain, single, result, partial, peer, files, time.perf_counter() - started)


def _folder(path: Path) -> Path:
    """Make the folder, and check that it takes files, before any work."""
    from rsafast.io import check_writable

    try:
        path.mkdir(exist_ok=True)
    except FileExistsError:
        raise InvalidInputError(f"{path}: is a file, expected a folder; name another") from None
    except OSError as error:
        raise InvalidInputError(f"{path}: the folder cannot be made ({error.strerror})") from None
    check_writable(path / "report.html")
    return path


def _write(
    folder: Path,
    features: dict[str, NDArray[np.float64]],
    models: RDMs,
    brain: Brain,
    single: NDArray[np.float64],
    result: PermutationResult,
    partial: PermutationResult,
    wrote: Callable[[Path], object],
) -> tuple[Path, ...]:
    from rsafast.demo.story import about
    from rsafast.report import write_report

    labels = np.array(models.labels)
    layers = {name: features[name].astype(np.float32) for name in ("conv1", "conv2", "conv3")}
    writers: dict[str, Callable[[Path], object]] = {
        "features.npz": lambda path: _write_npz(path, {"labels": labels, **layers}),
        "models.h5": models.save,
        "brain.h5": brain.mean.save,
        "result.h5": result.save,
        "result.csv": result.save,
        "report.html": lambda path: write_report(
            path,
            result,
            models,
            brain.mean,
            title="rsafast demo: simulated brains whose truth is known",
            about=about(brain, single, result, partial),
        ),
    }
    for name, write in writers.items():
        write(folder / name)
        wrote(folder / name)
    return tuple(folder / name for name in writers)


def _write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
