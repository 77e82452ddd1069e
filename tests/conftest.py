"""Fixtures that every layer shares."""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RandomRDM = Callable[..., np.ndarray]

# Modules whose tests share something expensive, which one worker makes for all of them. xdist has
# marks for this, which version 3.8 ignores with pytest 9.2.
TOGETHER = {
    "tests/rsafast/test_demo.py", "tests/rsafast/test_report.py", "tests/rsafast/test_study.py",
    "tests/rsafast/test_study_report.py", "tests/training/test_command_line.py",
    "tests/training/test_trainer.py",
}  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Modules of `TOGETHER` go to a worker whole, and other tests one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.split("::")[0]
            return module if module in TOGETHER else nodeid

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """What is imported to collect the tests stays: nobody looks for garbage in it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no worker is left with a long one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Fix the global generators, which some peers draw from; our own code takes generators."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_240_229)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("cannot mount a disk here: that takes root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets: RSAFAST_DATA, or ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("RSAFAST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found in {folder}; set RSAFAST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def inline() -> Iterator[Any]:
    """Client of a cluster in this process: nothing but the scheduling of a real one."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CuPy on host memory whose CUDA kernels run on the CPU; see tests/emulation.

    With RSAFAST_REAL_GPU=1 it is CuPy itself, to run the same tests on a GPU.
    """
    if os.environ.get("RSAFAST_REAL_GPU") == "1":
        import cupy

        return cupy
    from emulation.cupy_on_numpy import install

    return install(monkeypatch)


@pytest.fixture
def random_rdm(rng: np.random.Generator) -> RandomRDM:
    """Make an (n, n) RDM: ``random_rdm(n, kind="gaussian")``, a new one each call.

    Kinds: gaussian (points in a cloud), clustered (sorted clusters), line (ordered points, the
    hardest case for cyclic shifts), categories (0 within, 1 between: nearly all pairs tie).
    """

    def make(n: int, kind: str = "gaussian") -> np.ndarray:
        group = np.arange(n) * 4 // max(n, 4)
        if kind == "categories":
            return (group[:, None] != group[None, :]).astype(float)
        if kind == "gaussian":
            points = rng.standard_normal((n, 10))
        elif kind == "clustered":
            points = rng.standard_normal((4, 10))[group] * 3 + rng.standard_normal((n, 10))
        elif kind == "line":
            points = (np.arange(n) + 0.1 * rng.standard_normal(n))[:, None]
        else:
            raise ValueError(f"unknown kind {kind!r}")
        distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
        return (distance + distance.T) / 2

    return make
