"""``rsafast data``: published data sets: which there are, whether a folder is whole, fetching."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsafast.cli import _common
from rsafast.errors import InvalidInputError

if TYPE_CHECKING:
    from rsafast.datasets.download import NsdSelection, Plan
    from rsafast.datasets.verify import Row, Verification

NAME = "data"
HELP = "Published data sets: list them, verify a folder, fetch those that anyone may download."
EXAMPLE = "Example: rsafast data fetch cifar-10 --to data"

app = typer.Typer(no_args_is_help=False)


@app.callback(invoke_without_command=True)
def _help(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command("list", epilog="Example: rsafast data list --json")
def list_(as_json: _common.AsJson = False) -> None:
    """List the data sets that rsafast reads: what they are, how large, who may have them."""
    from rsafast.datasets.catalogue import CATALOGUE

    if as_json:
        _common.print_json(
            [
                {
                    "name": entry.name, "what": entry.what, "doi": entry.doi,
                    "licence": entry.licence, "size": entry.size, "access": entry.access,
                    "source": entry.source, "reader": entry.reader,
                    "fetched": entry.name == "nsd" or bool(entry.downloads),
                    "files": [
                        {"path": files.path, "holds": files.holds, "needed": files.needed}
                        for files in entry.files
                    ],
                }
                for entry in CATALOGUE.values()
            ]
        )  # fmt: skip
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("name", "what", "size", "access", "reader"):
        table.add_column(header, no_wrap=header == "name", overflow="fold")
    for entry in CATALOGUE.values():
        table.add_row(entry.name, entry.what, entry.size, entry.access, entry.reader)
    _common.output_console().print(table)


@app.command(epilog="Example: rsafast data verify /data/nsd")
def verify(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a data set, one in it, or one or two levels above.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--as", help="Data set that it is.", show_default="recognised"),
    ] = None,
    quiet: _common.Quiet = False,
    as_json: _common.AsJson = False,
) -> None:
    """Check the files of a data set: presence, size, headers. Values are not read.

    Exit code 0 where the reader can read something and no file is damaged or lacking; 1 otherwise.
    Sessions that were never begun are listed and are no problem.
    """
    from rsafast.datasets.verify import verify as verify_folder

    found = verify_folder(folder, name, progress=not quiet)
    if as_json:
        _common.print_json(found.to_dict())
    else:
        _print(found)
    if not found.ok:
        raise typer.Exit(1)


@app.command(
    epilog="Example: rsafast data fetch nsd --subject subj01 --sessions 1-3 --to /data/nsd"
)
def fetch(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Data set: see `rsafast data list`.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder; made if missing.", show_default="NAME")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="cifar-10: python or binary.", show_default="the usual one"),
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(help="nsd: such as subj01; may be repeated.")
    ] = None,
    sessions: Annotated[
        str | None, typer.Option(help="nsd: such as 1-3,7.", show_default="none")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="nsd: func1pt8mm, func1mm, nativesurface or fsaverage.", show_default="func1pt8mm"
        ),
    ] = None,
    betas: Annotated[
        str | None,
        typer.Option(
            help="nsd: betas_assumehrf, betas_fithrf or betas_fithrf_GLMdenoise_RR.",
            show_default="betas_fithrf_GLMdenoise_RR",
        ),
    ] = None,
    stimuli: Annotated[
        bool, typer.Option("--stimuli", help="nsd: also the images, 39.6 GB.", show_default="off")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask.", show_default="off")
    ] = False,
    quiet: _common.Quiet = False,
) -> None:
    """Download a data set, after saying what, how much and under which terms.

    A download that was cut off goes on where it stopped. Nothing is overwritten. For a data set
    that asks for a form or a registration, it says where a person gets it.
    """
    from rsafast.datasets import download
    from rsafast.datasets.catalogue import data_set

    entry = data_set(name)
    selection = _nsd_selection(subject, sessions, space, betas, stimuli)
    if not entry.downloads and entry.name != "nsd":
        _common.say(download.how_to_get(entry))
        raise typer.Exit(2)
    plan = download.plan(
        name, to or Path(name), variant=variant, nsd=selection, progress=not quiet
    )
    _describe(plan)
    if not plan.downloads:
        _common.say("everything is there already")
        return
    if not yes and not _confirmed():
        _common.say("nothing was downloaded")
        raise typer.Exit(1)
    ctx.obj += [plan.target / f"{d.name}.part" for d in plan.downloads[:1]]
    made = download.fetch(plan, progress=not quiet, say=_common.say)
    _common.say(
        f"fetched into {plan.target}: {made[0].name}"
        + (f" and {len(made) - 1} more" if len(made) > 1 else "")
        + f"; check with: rsafast data verify {shlex.quote(str(plan.target))}"
    )


def _nsd_selection(
    subjects: list[str] | None,
    sessions: str | None,
    space: str | None,
    betas: str | None,
    stimuli: bool,
) -> NsdSelection | None:
    from rsafast.datasets.download import NsdSelection

    chosen = {"space": space, "betas": betas}
    given = {key: value for key, value in chosen.items() if value is not None}
    if not (subjects or sessions or given or stimuli):
        return None
    return NsdSelection(
        subjects=tuple(subjects or ()), sessions=_sessions(sessions or ""), stimuli=stimuli, **given
    )


def _sessions(text: str) -> tuple[int, ...]:
    """Numbers and ranges such as 1-3,7."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise InvalidInputError(
                f"--sessions {text!r}: expected numbers and ranges, such as 1-3,7"
            )
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


def _confirmed() -> bool:
    try:
        return typer.confirm("Download?", err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        raise InvalidInputError("no answer came; give --yes to download without asking") from None


def _describe(plan: Plan) -> None:
    entry = plan.data_set
    unknown = sum(size is None for size in plan.sizes)
    size = f"{plan.total / 1e9:,.3f} GB" if plan.total else "size not stated by the server"
    if plan.total and unknown:
        size += f", and {unknown} files of unknown size"
    if plan.present:
        size += f", of which {plan.present / 1e9:,.3f} GB are there"
    hashes = [d.known_hash for d in plan.downloads if d.known_hash]
    lines = [
        f"{entry.name}: {entry.what}" + (f" (doi:{entry.doi})" if entry.doi else ""),
        f"licence:  {entry.licence}",
        f"size:     {size}, {len(plan.downloads)} file{'s' * (len(plan.downloads) != 1)}",
        f"checksum: {', '.join(hashes) or 'none known here'}",
        f"into:     {plan.target}",
    ]
    if plan.done:
        lines.append(f"there:    {len(plan.done)} of them already")
    if plan.absent:
        lines.append(f"not on the server, left out: {', '.join(plan.absent)}")
    for line in lines:
        _common.say(line)


def _print(found: Verification) -> None:
    """One row a kind of files, a section a subject, then every problem."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    colours = {"complete": "green", "damaged": "bold red", "incomplete": "bold red"}
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=f"{found.data_set} in {found.folder}"
    )
    table.title_justify = "left"
    for header in ("subject", "layout", "files", "found", "missing", "state"):
        table.add_column(header, justify="right" if header == "found" else "left")
    last: tuple[str, str, str] | None = None
    for row in found.rows:
        group = (row.subject, row.layout, row.version)
        if last not in (None, group):
            table.add_section()
        shown = group != last
        last = group
        table.add_row(
            row.subject if shown else "",
            " ".join(filter(None, (row.layout, row.version))) if shown else "",
            row.holds + ("" if row.needed else " (optional)"),
            f"{row.found:,}" + (f" of {row.expected:,}" if row.expected is not None else ""),
            _missing(row),
            Text(row.state, style=colours.get(row.state, "")),
        )
    console = _common.output_console()
    console.print(table)
    for problem in found.problems:
        console.print(f"{problem.file}: {problem.what}; {problem.do}", soft_wrap=True)
    if found.readable:
        console.print(f"can be read: {'; '.join(found.readable)}", soft_wrap=True)
    else:
        console.print("nothing of it can be read yet", soft_wrap=True)


def _missing(row: Row) -> str:
    shown = ", ".join(row.missing[:3])
    return f"{shown} and {len(row.missing) - 3} more" if len(row.missing) > 3 else shown
