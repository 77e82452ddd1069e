"""Every CUDA source compiles with nvcc without a warning, and no kernel spills registers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import rsafast_kernels
from emulation.cuda_on_cpu import KERNEL

NVCC = shutil.which("nvcc")
SOURCES = sorted(Path(rsafast_kernels.__file__).parent.glob("*/cuda.cu"))
ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for '(sm_\d+)'.*?(\d+) bytes spill stores, (\d+) bytes spill"
    r" loads.*?Used (\d+) registers[^\n]*?(?:(\d+) bytes smem)?[^\n]*\n",
    re.DOTALL,
)


def resources(source: Path, architecture: str, folder: Path) -> dict[str, tuple[int, int, int]]:
    """Registers a thread, bytes of shared memory and of spills of every kernel of a source."""
    command = [
        str(NVCC), "-cubin", f"-arch={architecture}", "-O3", "-std=c++17", "-Werror=all-warnings",
        "-Xptxas=-v,-warn-spills,-warn-lmem-usage", "-o", str(folder / "out.cubin"), str(source),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return {
        name: (int(registers), int(shared or 0), int(stored) + int(loaded))
        for name, _, stored, loaded, registers, shared in ENTRY.findall(done.stderr)
    }


def test_there_are_cuda_sources():
    assert {s.parent.name for s in SOURCES} >= {"gather", "orbit", "relabel", "tally"}


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not here; CUDA sources were not compiled")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.parent.name)
def test_compiles_without_warnings_or_spills(source, architecture, tmp_path):
    found = resources(source, architecture, tmp_path)
    kernels = KERNEL.findall(source.read_text())
    assert set(found) == set(kernels)
    for name, (registers, shared, spilled) in found.items():
        assert spilled == 0, f"{name} spills {spilled} bytes"
        assert shared <= 48 * 1024, f"{name} takes {shared} bytes of shared memory"
        assert registers <= 128, f"{name} takes {registers} registers: too few threads would run"
