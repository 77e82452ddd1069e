"""``rsafast compare``: the similarity of every model RDM to every brain RDM, without inference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast.rdms import RDMs

NAME = "compare"
HELP = (
    "Compare every RDM of one file with every RDM of another; no p-values. "
    "--partial holds other RDMs constant."
)
EXAMPLE = "Example: rsafast compare models.h5 brain.h5 --method spearman --csv similarity.csv"


def command(
    ctx: typer.Context,
    models: Annotated[Path, typer.Argument(help="RDMs: .h5, .npy, .npz, .mat or .csv.")],
    brain: Annotated[Path, typer.Argument(help="RDMs to compare them with.")],
    method: Annotated[
        str, typer.Option("--method", "-m", help=f"Comparator: {_common.METHODS}.")
    ] = "spearman",
    partial: Annotated[
        Path | None,
        typer.Option(
            help="RDMs to hold constant, all at once (pearson, spearman).", show_default="none"
        ),
    ] = None,
    mask: _common.Mask = None,
    models_key: _common.ModelsKey = None,
    brain_key: _common.BrainKey = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write the table to this .csv.", show_default="none")
    ] = None,
    as_json: _common.AsJson = False,
) -> None:
    """Read, compare, print."""
    _common.check_output(csv, "--csv", (".csv",))
    from rsafast.comparison import compare
    from rsafast.io import read_rdms

    # Pairs may be missing only where a mask says so; the comparison checks that they lie outside.
    missing: Literal["error", "allow"] = "error" if mask is None else "allow"
    a = read_rdms(models, key=models_key, missing=missing)
    b = read_rdms(brain, key=brain_key, missing=missing)
    keep = None if mask is None else _common.read_mask(mask, "--mask")
    controls = None if partial is None else read_rdms(partial, missing=missing)
    similarity = compare(a, b, method=method, covariates=controls, mask=keep)
    if csv is not None:
        import pandas as pd
        from rsafast_kernels.atomic import write_text

        frame = pd.DataFrame(similarity, index=list(a.names), columns=list(b.names))
        write_text(csv, frame.to_csv(index_label="model", lineterminator="\n"))
        ctx.obj.append(csv)
        _common.say(f"wrote {csv}")
    if as_json:
        _common.print_json(
            {
                "method": method, "models": a.names, "brain": b.names,
                "covariates": None if controls is None else controls.names,
                "similarity": similarity,
            }
        )  # fmt: skip
    else:
        _print_table(a, b, similarity.tolist(), method)
        if controls is not None:
            names = ", ".join(controls.names)
            _common.output_console().print(f"Partial correlations, given {names}.", soft_wrap=True)


def _print_table(a: RDMs, b: RDMs, similarity: list[list[float]], method: str) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, title=f"{method}, {a.n_stimuli} stimuli", title_justify="left"
    )
    table.add_column("model")
    for name in b.names:
        table.add_column(str(name), justify="right")
    for name, row in zip(a.names, similarity, strict=True):
        table.add_row(str(name), *(f"{value:.4f}" for value in row))
    _common.output_console().print(table)
