"""``rsafast ceiling``: how well any model could do, given how much the subjects agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast.inference.ceilings.api import Definition, NoiseCeiling

NAME = "ceiling"
HELP = (
    "Noise ceiling of brain RDMs, one a subject: lower and upper bound of what any model could "
    "score. The definitions in use differ; every output names its own."
)
EXAMPLE = "Example: rsafast ceiling brain.h5 --regions region --definition all --figure ceiling.svg"
DEFINITIONS = "rank-average, average, squared, leave-one-out, split-half, or all"
FIGURES = (".png", ".pdf", ".svg")


def command(
    ctx: typer.Context,
    brain: Annotated[
        list[Path],
        typer.Argument(
            help="Subjects' RDMs: .h5, .npy, .npz, .mat or .csv; with --stream one file or several."
        ),
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", help=f"Comparator: {_common.METHODS}.")
    ] = "spearman",
    definition: Annotated[
        str, typer.Option("--definition", "-d", help=f"{DEFINITIONS}.")
    ] = "rank-average",
    regions: Annotated[
        str | None,
        typer.Option(
            help="Descriptor that names the region of every RDM; or one name an RDM, with commas"
            " between.",
            show_default="none",
        ),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(
            help="The same for the subject of every RDM.", show_default="each its own"
        ),
    ] = None,
    mask: _common.Mask = None,
    splits: Annotated[int, typer.Option(min=1, help="Most splits for split-half.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random splits.")] = 0,
    brain_key: _common.BrainKey = None,
    stream: _common.Stream = False,
    memory: _common.Memory = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write the table to this .csv.", show_default="none")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Also draw it into this .png, .pdf or .svg.", show_default="none"),
    ] = None,
    as_json: _common.AsJson = False,
) -> None:
    """Check the outputs, read, compute, write, print."""
    _common.check_output(csv, "--csv", (".csv",))
    _common.check_output(figure, "--figure", FIGURES)
    budget = _common.parse_memory(memory)
    _common.check_stream(
        stream,
        refused={"--mask": mask, "--brain-key": brain_key},
        needing={"--memory": memory, "several files": len(brain) > 1},
    )
    region_of, subject_of = _common.labels(regions), _common.labels(subjects)
    wanted = _wanted(definition, method, stream)
    if stream:
        from rsafast.ondisk.ceiling import noise_ceiling_files

        results = [
            noise_ceiling_files(
                brain, cast("Any", method), name, regions=region_of, subjects=subject_of,
                memory_budget=budget,
            )
            for name in wanted
        ]  # fmt: skip
    else:
        from rsafast.inference.ceilings.api import noise_ceiling
        from rsafast.io import read_rdms

        missing: Literal["error", "allow"] = "error" if mask is None else "allow"
        rdms = read_rdms(brain[0], key=brain_key, missing=missing)
        keep = None if mask is None else _common.read_mask(mask, "--mask")
        results = [
            noise_ceiling(
                rdms, method, name, regions=region_of, subjects=subject_of, mask=keep,
                n_splits=splits, seed=seed,
            )
            for name in wanted
        ]  # fmt: skip
    written: list[Path] = ctx.obj
    if csv is not None:
        from rsafast_kernels.atomic import write_text

        write_text(csv, _table(results).to_csv(index=False, lineterminator="\n"))
        written.append(csv)
    if figure is not None:
        _draw(results, figure)
        written.append(figure)
    if as_json:
        _common.print_json(
            {
                "n_stimuli": results[0].n_stimuli,
                "ceilings": _table(results).to_dict("records"),
                "notes": [note for result in results for note in result.notes],
            }
        )
    else:
        _print(results)
    if written:
        _common.say(f"wrote {', '.join(map(str, written))}")


def _wanted(definition: str, method: str, stream: bool) -> tuple[Definition, ...]:
    """Definitions to compute; "all" are those that the comparator has, and --stream."""
    if definition != "all":
        return (cast("Definition", definition),)
    from rsafast.comparators import get_comparator
    from rsafast.inference.ceilings.api import DEFINITIONS as KNOWN
    from rsafast.inference.ceilings.api import SPLITTABLE

    splittable = get_comparator(method).name in SPLITTABLE and not stream
    return tuple(name for name in KNOWN if name != "split-half" or splittable)


def _table(results: list[NoiseCeiling]) -> Any:
    import pandas as pd

    return pd.concat([result.to_dataframe() for result in results], ignore_index=True)


def _draw(results: list[NoiseCeiling], path: Path) -> None:
    from matplotlib.figure import Figure

    from rsafast.inference.ceilings.plot import draw_ceilings

    bars = sum(len(result.regions) for result in results)
    drawing = Figure(figsize=(max(3.0, 1.1 * bars + 1.0), 3.4), layout="constrained")
    draw_ceilings(drawing.subplots(), results)
    drawing.savefig(path)


def _print(results: list[NoiseCeiling]) -> None:
    from rich import box
    from rich.table import Table

    first = results[0]
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{first.method}, {first.n_stimuli} stimuli",
        title_justify="left",
    )  # fmt: skip
    for header in ("region", "definition"):
        table.add_column(header)
    for header in ("subjects", "lower", "upper", "upper if unrelated"):
        table.add_column(header, justify="right")
    for row in _table(results).itertuples():
        bounds = (row.lower, row.upper, row.upper_unrelated)
        shown = ("–" if value != value else f"{value:.4f}" for value in bounds)
        table.add_row(str(row.region), row.definition, str(row.n_subjects), *shown)
    console = _common.output_console()
    console.print(table)
    for result in results:
        console.print(result.summary(), soft_wrap=True)
        console.print()
