"""Imports point one way, as the contracts of pyproject.toml say, and analysis needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT = which("lint-imports", path=Path(sys.executable).parent) or which("lint-imports")


@pytest.mark.skipif(LINT is None, reason="import-linter is not installed (make test)")
def test_imports_keep_to_the_layers() -> None:
    done = subprocess.run([LINT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("absent", ["torch", "cupy", "rsatoolbox", "rsafast_training"])
@pytest.mark.slow
def test_analysis_runs_without_optional_packages(absent: str) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {absent!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import rsafast as rf, rsafast.cli\n"
        "[getattr(rf, name) for name in rf.__all__]\n"
        "import numpy as np\n"
        "r = rf.compute_rdms(np.random.default_rng(0).normal(size=(2, 9, 3)), 'euclidean')\n"
        "rf.permutation_test(r[:1], r[1:], n_permutations=99)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
