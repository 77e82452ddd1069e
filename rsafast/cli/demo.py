"""``rsafast demo``: a complete analysis on simulated data, in seconds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rich.console import Console

    from rsafast.demo import Demo

NAME = "demo"
HELP = (
    "Simulate models and brain regions, test every pair, and write a result and a report "
    "(seconds; no network)."
)
EXAMPLE = "Example: rsafast demo --out rsafast-demo -n 1000000"


def command(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the files; made if it is missing.")
    ] = Path("rsafast-demo"),
    permutations: Annotated[
        int, typer.Option("--permutations", "-n", min=1, help="Relabellings a pair.")
    ] = 1_000_000,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the simulation and the relabellings.")
    ] = 0,
    peer: Annotated[
        bool,
        typer.Option("--peer/--no-peer", help="Also time the fastest other package installed."),
    ] = True,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="No progress and no messages.", show_default="off"),
    ] = False,
) -> None:
    """Run the demo and print what it found."""
    from rsafast.demo import run_demo

    demo = run_demo(
        out,
        permutations,
        seed=seed,
        measure_peer=peer,
        progress=not quiet,
        say=_quiet if quiet else _common.say,
        wrote=ctx.obj.append,
    )
    print_demo(demo, out, peer)


def _quiet(_: str) -> None:
    """Say nothing."""


def print_demo(demo: Demo, out: Path, measured: bool) -> None:
    """Print simulation, findings, speed, files and what to do next."""
    from rsafast.demo import story
    from rsafast.demo.brain import REGIONS

    console = _common.output_console()
    _heading(console, "What was simulated")
    _paragraph(console, story.data())
    for region in REGIONS:
        console.print(f"  {region.name:<6} {region.description}")
    console.print()
    _paragraph(console, f"What should be found: {story.leak()[0].lower()}{story.leak()[1:]}")
    _heading(console, "What was found")
    _findings(console, demo)
    _paragraph(console, f"Found: {story.recovery(demo.brain, demo.result)}")
    _resolution(console, demo)
    _heading(console, "What remains with the Gabor energy held constant (partial test)")
    _partial(console, demo)
    _paragraph(console, story.partial_recovery(demo.partial))
    _heading(console, "Time")
    _paragraph(console, _speed(demo))
    _paragraph(console, _peer(demo, measured))
    _heading(console, "Files and next steps")
    console.print(f"  {out / 'report.html'}  open it in a browser", soft_wrap=True)
    console.print(f"  {', '.join(path.name for path in demo.files[:-1])}\n", soft_wrap=True)
    console.print("The same steps, on these files; put yours in their place:")
    for line in next_commands(out):
        console.print(f"  {line}", soft_wrap=True)


def next_commands(out: Path) -> list[str]:
    """Commands that run as printed on the demo's files."""
    features, model, models, brain, report = (
        shlex.quote(str(out / name))
        for name in ("features.npz", "model.h5", "models.h5", "brain.h5", "test.html")
    )
    return [
        f"rsafast rdm {features} -o {model}",
        f"rsafast compare {model} {brain}",
        f"rsafast test {models} {brain} -n 1000000 --report {report}",
    ]


def _heading(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold")


def _paragraph(console: Console, text: str) -> None:
    console.print(text, width=min(console.width, 100))


def _findings(console: Console, demo: Demo) -> None:
    """Print one row a pair, a section a region."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from rsafast.demo import story
    from rsafast.demo.brain import REGIONS

    result = demo.result
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("region, model", no_wrap=True)
    table.add_column("truth", no_wrap=True)
    for header in ("true ρ", "ρ", "single", "p", "FWER p", "found"):
        table.add_column(header, justify="right", no_wrap=True)
    for j, region in enumerate(REGIONS):
        table.add_row(Text(region.name, style="bold"))
        for i, model in enumerate(result.model_names):
            found, one = bool(demo.found[i, j]), demo.single[i, j]
            right = found == bool(demo.related[i, j])
            word = "yes" if found else "no"
            table.add_row(
                f"  {model}",
                story.role(model, j),
                f"{demo.brain.truth[i, j]:.2f}" if region.sources else "",
                f"{result.statistic[i, j]:.3f}",
                f"{round(one.mean(), 3) + 0.0:.3f}",
                f"{result.p_value[i, j]:.2g}",
                f"{result.p_value_stepdown[i, j]:.2g}",
                Text(word, style="" if right else "bold red" if found else "yellow"),
            )
        table.add_section()
    console.print(table)


def _resolution(console: Console, demo: Demo) -> None:
    """Point at the p-values that a thousand relabellings could not have told apart."""
    result = demo.result
    p = result.p_value
    below = int((p < 1e-3).sum())
    between = int(((p < 1e-3) & (result.exceedances > 1)).sum())
    _paragraph(
        console,
        f"{below} pairs have a p below 0.001, the floor of 1,000 relabellings; {between} of them "
        f"are resolved above the floor of this run, {result.smallest_p:.2g}. true ρ: with the "
        "noise-free RDM of the region. single: mean ρ of the six subjects taken one by one. "
        "FWER p: family-wise, step-down max-T.",
    )


def _partial(console: Console, demo: Demo) -> None:
    from rich import box
    from rich.table import Table

    partial = demo.partial
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for name in partial.brain_names:
        table.add_column(f"{name}: r", justify="right", no_wrap=True)
        table.add_column("FWER p", justify="right", no_wrap=True)
    for i, model in enumerate(partial.model_names):
        cells = []
        for j in range(len(partial.brain_names)):
            cells += [
                f"{round(partial.statistic[i, j], 3) + 0.0:.3f}",
                f"{partial.p_value_stepdown[i, j]:.2g}",
            ]
        table.add_row(model, *cells)
    console.print(table)


def _rate(demo: Demo) -> float:
    return demo.result.n_permutations * demo.result.n_pairs / _seconds(demo)


def _seconds(demo: Demo) -> float:
    return float(demo.result.provenance["seconds"])


def _speed(demo: Demo) -> str:
    from rsafast_kernels import num_threads

    result, threads = demo.result, num_threads()
    return (
        f"{result.n_pairs} pairs × {result.n_permutations:,} relabellings of "
        f"{result.n_stimuli} stimuli took {_seconds(demo):.1f} s on {threads} "
        f"thread{'s' if threads > 1 else ''}: {_rate(demo):,.0f} a second, everything included. "
        f"The whole demo took {demo.seconds:.0f} s."
    )


def _peer(demo: Demo, measured: bool) -> str:
    peer = demo.peer
    if peer is None and not measured:
        return "No other package was timed (--no-peer)."
    if peer is None:
        return (
            "No other package with this test is installed to compare with; "
            "pip install scikit-bio, and run the demo again."
        )
    total = demo.result.n_permutations * demo.result.n_pairs / peer.rate
    times = _rate(demo) / peer.rate
    return (
        f"{peer.name} {peer.version} ({peer.how}, up to {peer.threads} threads), measured just now "
        f"on one of these pairs: {peer.rate:,.0f} relabellings a second, its set-up left out. At "
        f"that rate the same test would take {_duration(total)}, {times:,.0f}× as long, without "
        "the family-wise correction, for which one relabelling must serve all pairs."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
