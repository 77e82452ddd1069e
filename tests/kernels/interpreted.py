"""A test module once more in a process where Triton interprets its kernels."""

import os
import subprocess
import sys


def assert_passes_interpreted(path: str, count: int) -> None:
    """Run a test module with TRITON_INTERPRET=1; all of its `count` tests there must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert f"{count} passed" in done.stdout
