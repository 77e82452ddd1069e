"""``rsafast bench``: kernels checked, timed, and placed beside peers and this machine's limits."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast.bench.results import Change

NAME = "bench"
HELP = (
    "Measure the kernels on this machine, beside its limits and beside peers, after a check of "
    "every answer (minutes; stop other work first)."
)
EXAMPLE = "Example: rsafast bench orbit pairwise --compare --out speed"

RESULT = "bench.json"


class Where(StrEnum):
    """Devices to measure on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def command(
    ctx: typer.Context,
    kernels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KERNEL]...", help="Kernels to measure; all where none is named."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also measure the peers that are installed.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the result and its figures.")
    ] = Path("rsafast-bench"),
    against: Annotated[
        Path | None,
        typer.Option(
            help=f"An earlier {RESULT}: also print what changed.", show_default="none"
        ),
    ] = None,
    other_machine: Annotated[
        bool, typer.Option("--other-machine", help="With --against: also of another machine.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few small sizes, in under a minute.")
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="Also sizes that take minutes and gigabytes.")
    ] = False,
    device: Annotated[
        Where, typer.Option(help="auto: the CPU, and the GPU where there is one.")
    ] = Where.auto,
    quiet: _common.Quiet = False,
    as_json: _common.AsJson = False,
) -> None:
    """Measure, write the result, draw it, print it; exit with 1 if an answer was wrong."""
    from rsafast_kernels.device import resolve

    from rsafast.bench import figures, measure, results, rows

    if quick and large:
        raise typer.BadParameter("--quick and --large exclude each other")
    if other_machine and against is None:
        raise typer.BadParameter("--other-machine goes with --against")
    resolve(device.value, "cupy")
    devices = ("cpu", "cuda") if device is Where.auto else (device.value,)
    scale = "quick" if quick else "large" if large else "default"
    chosen = rows(kernels or (), scale=scale, devices=devices)  # type: ignore[arg-type]
    earlier = None if against is None else results.load(against)
    if earlier is not None and not other_machine:
        present = {row.device for row in chosen if row.missing() is None}
        results.check_machine(results.machine(present), earlier)
    path = out / RESULT
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"--out {out} is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    _common.check_output(path, "--out", (".json",))
    result = measure.run(chosen, compare=compare, quick=quick, progress=not quiet)
    results.save(result, path)
    ctx.obj.append(path)
    ctx.obj.extend(figures.draw(result, out))
    if as_json:
        _common.print_json(result)
    else:
        _print(result)
        if not quiet:
            _common.say(f"wrote {', '.join(map(str, ctx.obj))}")
    if earlier is not None:
        _print_changes(results.changes(result, earlier))
    if any(found["wrong"] for row in result["rows"] for found in (row, *row["peers"])):
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    console = _common.output_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for title in ("median", "spread", "rate", "error", "operations", "bytes", "bound", "reached"):
        table.add_column(title, justify="right", no_wrap=True)
    kernel = None
    for row in result["rows"]:
        if kernel not in (None, row["kernel"]):
            table.add_section()
        kernel = row["kernel"]
        _add(table, row)
    console.print(table)
    for line in _notes(result):
        console.print(line)


def _add(table: Any, row: dict[str, Any]) -> None:
    from rsafast.bench.results import key
    from rsafast.bench.words import duration, si, times

    work = [si(row["operations"]), si(row["bytes"], "B")]
    if row["wrong"] is not None:
        table.add_row(key(row), f"WRONG: {row['wrong']}", style="red")
    else:
        bound = f"{duration(row['bound_seconds'])} ({row['bound']})"
        reached = f"{100 * row['fraction']:.2g} %"
        table.add_row(key(row), *_times(row, row["unit"]), *work, bound, reached)
    for peer in row["peers"]:
        name = f"  {peer['name']}"
        if peer["wrong"] is not None:
            table.add_row(name, f"WRONG: {peer['wrong']}", style="red")
        else:
            ratio = times(peer["ratio"]) if "ratio" in peer else ""
            table.add_row(name, *_times(peer, ""), "", "", "", ratio, style="dim")
    for quoted in row["quoted"]:
        table.add_row(f"  quoted: {quoted['name']}: {quoted['figure']} ({quoted['source']})")


def _times(found: dict[str, Any], unit: str) -> list[str]:
    from rsafast.bench.words import duration, si

    seconds = found["seconds"]
    spread = f"{duration(seconds['min'])}–{duration(seconds['max'])}, {seconds['repeats']}"
    return [
        duration(seconds["median"]), spread, f"{si(found['rate'])} {unit}/s",
        f"{found['error']:.0e}" if found["error"] else "0",
    ]  # fmt: skip


def _notes(result: dict[str, Any]) -> list[str]:
    from rsafast.bench.words import si

    here = result["machine"]
    lines = [f"{here['processor']}, {here['threads']} threads, {result['date']}"]
    for device, limits in result["limits"].items():
        rates = [f"{name} {si(rate)} op/s" for name, rate in limits["operations"].items()]
        rates += [
            f"{si(limits['bandwidth'][k][1], 'B')}/s over {si(limits['bandwidth'][k][0], 'B')}"
            for k in (0, -1)
        ]
        lines.append(f"limits measured here, {device}: {', '.join(rates)}")
    lines.append(
        "bound: the time that the operations or the bytes take at least at these limits; reached:"
        " that time over the median. Of a peer: our rate over its."
    )
    if any(row.get("fraction", 0) > 1 for row in result["rows"]):
        lines.append(
            "More than 100 % means that other work slowed the measurement of the limits down:"
            " measure again on a quiet machine."
        )
    if result["load"]["loaded"]:
        lines.append(
            f"This machine was busy before the run (load {result['load']['before']}): do not quote"
            " these times."
        )
    lines += [f"left out: {item['what']}: {item['why']}" for item in result["left_out"]]
    return lines


def _print_changes(found: list[Change]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("now over then", overflow="fold")
    for title in ("ratio", "lowest", "highest", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for change in found:
        verdict = "" if not change.beyond_noise else "faster" if change.ratio < 1 else "slower"
        numbers = (f"{value:.2f}" for value in (change.ratio, change.lowest, change.highest))
        colour = {"faster": "green", "slower": "red"}.get(verdict)
        table.add_row(change.name, *numbers, verdict, style=colour)
    _common.output_console().print(table)
