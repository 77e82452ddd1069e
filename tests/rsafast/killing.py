"""Runs that die: by SIGKILL at random moments, or by what a test raises in its place."""

import signal
import subprocess
import sys
import time

import numpy as np


class Killed(BaseException):
    """What a test raises in place of SIGKILL."""


def kill_at_random(program, folder, kills, window, seed):
    """Run a program into ``folder/whole``, and into ``folder/killed`` with kills before its end.

    The program is given the folder that it writes to. Kills come after a share of the time of the
    whole run that is drawn from `window`. At least one of them must have come in time.
    """
    (folder / "whole").mkdir()
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program, str(folder / "whole")], check=True)
    takes = time.monotonic() - started
    rng = np.random.default_rng(seed)
    (folder / "killed").mkdir()
    command = [sys.executable, "-c", program, str(folder / "killed")]
    killed = 0
    for _ in range(kills):
        with subprocess.Popen(command) as process:
            time.sleep(rng.uniform(*window) * takes)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True)
    assert killed > 0
