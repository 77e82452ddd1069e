"""How much memory a call takes at most, in a process of its own."""

import os
import subprocess
import sys

import pytest

needs_peaks = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc"
)

_MEASURED = r"""
import re, sys
from contextlib import contextmanager
def resident(what):
    return int(re.search(what + r":\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024
@contextmanager
def measured():
    open("/proc/self/clear_refs", "w").write("5")  # the largest size so far is forgotten
    before = resident("VmRSS")
    yield
    print(resident("VmHWM") - before)
"""


def peak_of(program, *arguments):
    """Bytes that the block ``with measured():`` of a program adds at most.

    None where a memory budget was refused as too small.
    """
    command = [sys.executable, "-c", _MEASURED + program, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode and "too small" in ended.stderr:
        return None
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)
