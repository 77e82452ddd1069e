"""``rsafast study``: a whole study from one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    import pandas as pd

NAME = "study"
HELP = (
    "Run a study from one file: train networks, extract their features, compare them with brains, "
    "infer, and write tables and a report. What has not changed since the last run is kept."
)
EXAMPLE = "Example: rsafast study quick --out quick"


def command(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="STUDY.toml, or the name of a recipe of the package: quick, leutenegger-2604, "
            "leutenegger-2605, scholte-2024, scholte-2024-eeg."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the study.", show_default="its name"),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            help="Of a study that also says how it was published: both, corrected or published."
        ),
    ] = "both",
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps what the stages make; studies that share it do nothing twice.",
            show_default="the folder of the study",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on in a folder that holds a study.", show_default="off"
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything, say what would run, stop.", show_default="off"
        ),
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--show", help="Print the file, to begin one of your own, and stop.",
            show_default="off",
        ),
    ] = False,
    quiet: _common.Quiet = False,
    as_json: _common.AsJson = False,
) -> None:
    """Check the file and the data it names, then run or print the stages."""
    from rsafast.study.pipeline import plan_study, run_study
    from rsafast.study.recipe import recipe_text

    if show:
        print(recipe_text(recipe), end="")
        return
    chosen: Any = {"form": form, "cache": cache}  # checked by both
    if dry_run:
        plan = plan_study(recipe, out, **chosen)
        if as_json:
            _common.print_json(plan.to_dict("records"))
        else:
            _print(plan)
        return
    say = (lambda _: None) if quiet else _common.say
    root = run_study(recipe, out, **chosen, resume=resume, quiet=quiet, say=say)
    ctx.obj.append(root)
    if as_json:
        tables = sorted(str(path) for path in (root / "tables").glob("*.csv"))
        report = str(root / "report.html")
        _common.print_json({"folder": str(root), "report": report, "tables": tables})
    else:
        say(f"wrote {root / 'report.html'}, the tables in {root / 'tables'}")


def _print(plan: pd.DataFrame) -> None:
    from rich import box
    from rich.table import Table

    from rsafast.memory import format_bytes

    todo = plan[plan["state"] != "done"]
    shown = Table(box=box.SIMPLE_HEAD, title="stages, with rough estimates for two cores")
    shown.title_justify = "left"
    for header in ("stage", "state", "time", "memory", "disk"):
        shown.add_column(header, justify="left" if header in ("stage", "state") else "right")
    several = plan["form"].nunique() > 1
    for row in plan.to_dict("records"):
        known = row["state"] != "done"
        shown.add_row(
            f"{row['stage']}, {row['form']}" if several else row["stage"], row["state"],
            _duration(row["seconds"]) if known else "",
            format_bytes(row["memory"]) if known else "",
            format_bytes(row["disk"]) if known else "",
        )  # fmt: skip
    _common.output_console().print(shown)
    most = format_bytes(todo["memory"].max()) if len(todo) else "none"
    print(
        f"{len(todo)} of {len(plan)} stages to run, about {_duration(todo['seconds'].sum())},"
        f" {most} of memory and {format_bytes(todo['disk'].sum())} of disk"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
