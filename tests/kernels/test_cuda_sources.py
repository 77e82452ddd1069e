"""Every CUDA source compiles with nvcc without a warning, and no kernel spills registers."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from emulation.cuda_on_cpu import KERNEL

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "cuda_resources.py"


def loaded():
    spec = importlib.util.spec_from_file_location("cuda_resources", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cuda_resources = loaded()


def test_there_are_cuda_sources():
    operations = {s.parent.name for s in cuda_resources.SOURCES}
    assert operations >= {"gather", "orbit", "relabel", "resample", "tally"}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not here; CUDA sources were not compiled"
)
@pytest.mark.parametrize("architecture", cuda_resources.ARCHITECTURES)
@pytest.mark.parametrize("source", cuda_resources.SOURCES, ids=lambda source: source.parent.name)
def test_compiles_without_warnings_or_spills(source, architecture):
    found = cuda_resources.resources(source, architecture)
    assert set(found) == set(KERNEL.findall(source.read_text()))
    for name, kernel in found.items():
        assert kernel.spilled == 0, name
        assert kernel.shared <= 48 * 1024, name
        assert kernel.registers <= 128, f"{name}: too few threads would run"
