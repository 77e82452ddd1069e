"""``rsafast rank``: an RDM file to its average ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast.ondisk.ranks import Ranks

NAME = "rank"
HELP = "Rank an RDM on disk, exactly, whatever its size: what Spearman's correlation is made of."
EXAMPLE = "Example: rsafast rank it.h5 -o it-ranks.h5"


def command(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(help="RDM of `rsafast rdm --store float32` (or float16), .h5.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of ranks to write, .h5.")],
    store: Annotated[
        str, typer.Option(help="float32, or uint16: half the size, 65,536 equal steps.")
    ] = "float32",
    resume: Annotated[
        bool, typer.Option(help="Go on where a run that was killed stopped, or start anew.")
    ] = True,
    memory: _common.Memory = None,
    cluster: _common.Cluster = None,
    quiet: _common.Quiet = False,
) -> None:
    """Count, look up, write."""
    _common.check_output(out, "--out", (".h5", ".hdf5"))
    from rsafast.ondisk.ranks import rank_rdm_file

    ranked = rank_rdm_file(
        source, out, dtype=cast("Ranks", store), resume=resume, progress=not quiet,
        memory_budget=_common.parse_memory(memory), cluster=cluster,
    )  # fmt: skip
    ctx.obj.append(out)
    if not quiet:
        _common.say(f"wrote {out}: ranks of {len(ranked.values):,} pairs, {store}")
