"""``rsafast demo``: a complete analysis on simulated data, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "demo"
HELP = "Simulate models and brain regions, test every pair, and write a result and a report."
EXAMPLE = "Example: rsafast demo --out demo -n 1000000"


def command(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the files; made if it is missing.")] = Path(
        "rsafast-demo"
    ),
    permutations: Annotated[
        int, typer.Option("--permutations", "-n", min=1, help="Relabellings a pair.")
    ] = 1_000_000,
) -> None:
    """Run the demo and say where its files are."""
    from rsafast.demo import run_demo

    run_demo(out, permutations)
