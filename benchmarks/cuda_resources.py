"""Registers, shared memory and spills of every CUDA kernel, by nvcc: the table of docs/gpu.md.

Usage: ``python benchmarks/cuda_resources.py`` where nvcc is; no GPU is needed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import rsafast_kernels

SOURCES = sorted(Path(rsafast_kernels.__file__).parent.glob("*/cuda.cu"))
ARCHITECTURES = ("sm_80", "sm_90")
_ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_\d+'.*?(\d+) bytes spill stores, (\d+) bytes spill"
    r" loads.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one kernel: registers a thread, bytes of shared memory a block and of spills."""

    registers: int
    shared: int
    spilled: int


def resources(source: Path, architecture: str) -> dict[str, Resources]:
    """Resources of the kernels of a source.

    Raises
    ------
    RuntimeError
        Where nvcc is not here, does not compile it, or warns.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise RuntimeError("nvcc is not here")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            nvcc, "-cubin", f"-arch={architecture}", "-O3", "-std=c++17", "-Werror=all-warnings",
            "-Xptxas=-v,-warn-spills,-warn-lmem-usage", "-o", f"{folder}/out.cubin", str(source),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "warning" in done.stderr:
        raise RuntimeError(f"{source}: {done.stderr}")
    return {
        name: Resources(int(registers), int(shared or 0), int(stored) + int(loaded))
        for name, stored, loaded, registers, shared in _ENTRY.findall(done.stderr)
    }


def main() -> None:
    """Print the table."""
    print("| kernel | registers, sm_80 / sm_90 | shared memory a block | spills |")
    print("|---|---|---|---|")
    for source in SOURCES:
        first, second = (resources(source, a) for a in ARCHITECTURES)
        for name, found in first.items():
            there = second[name]
            print(
                f"| `{name}` | {found.registers} / {there.registers} |"
                f" {max(found.shared, there.shared):,} B | {found.spilled + there.spilled} B |"
            )


if __name__ == "__main__":
    sys.exit(main())
