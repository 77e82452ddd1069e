"""``rsafast bootstrap``: alignments with intervals, and whether rules differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast.inference.bootstrap.intervals import Interval
    from rsafast.inference.bootstrap.result import BootstrapResult

NAME = "bootstrap"
HELP = (
    "Estimate how well models align with brain RDMs, and whether they differ, with intervals that "
    "generalise to new stimuli, subjects or seeds."
)
EXAMPLE = (
    "Example: rsafast bootstrap models.h5 brain.h5 --resample stimuli,subjects --ceiling "
    "--out result.h5 --figure bars.svg"
)
FIGURES = (".svg", ".pdf", ".png")
MAX_ROWS = 60
_LABELS = "or one label an RDM, with commas between."


def command(
    ctx: typer.Context,
    models: Annotated[Path, typer.Argument(help="Model RDMs: .h5, .npy, .npz, .mat or .csv.")],
    brain: Annotated[
        list[Path],
        typer.Argument(
            help="Brain RDMs, one a subject and region; with --stream one file or several."
        ),
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", help=f"Comparator: {_common.METHODS}.")
    ] = "spearman",
    resample: Annotated[
        str, typer.Option(help="Factors to generalise over: stimuli, subjects, seeds; by commas.")
    ] = "stimuli",
    n_resamples: Annotated[
        int | None,
        typer.Option(
            "--n-resamples", "-n", help="Resamples, at least 100.",
            show_default="10,000, with --stream 1,000",
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(help=f"Descriptor of the models: rule; {_LABELS}", show_default="none"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help=f"Descriptor of the models: seed; {_LABELS}", show_default="none"),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(help=f"Descriptor of the brain RDMs: region; {_LABELS}", show_default="none"),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(help=f"Descriptor of the brain RDMs: subject; {_LABELS}", show_default="none"),
    ] = None,
    interval: Annotated[str, typer.Option(help="percentile, basic, bca or t.")] = "percentile",
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    ceiling: Annotated[
        bool,
        typer.Option(
            "--ceiling", help="Resample the noise ceiling and test against it.", show_default="off"
        ),
    ] = False,
    mask: _common.Mask = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random draws.")] = 0,
    stream: _common.Stream = False,
    more_models: Annotated[
        list[Path] | None,
        typer.Option(help="With --stream: another file of models; repeat.", show_default="none"),
    ] = None,
    resume: _common.Resume = True,
    memory: _common.Memory = None,
    cluster: _common.Cluster = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    models_key: _common.ModelsKey = None,
    brain_key: _common.BrainKey = None,
    out: _common.Out = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write the table of estimates to this .csv.", show_default="none"),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw the bars into this .svg, .pdf or .png.", show_default="none"),
    ] = None,
    as_json: _common.AsJson = False,
    quiet: _common.Quiet = False,
) -> None:
    """Check the outputs, read, resample, write, print."""
    budget = _common.parse_memory(memory)
    _common.check_output(out, "--out", (".h5", ".hdf5"))
    _common.check_output(csv, "--csv", (".csv",))
    _common.check_output(figure, "--figure", FIGURES)
    _common.check_stream(
        stream,
        refused={
            "--mask": mask, "--models-key": models_key, "--brain-key": brain_key,
            "--device cuda": device == "cuda",
        },
        needing={
            "several files": more_models or len(brain) > 1, "--cluster": cluster,
            "--no-resume": not resume,
        },
    )  # fmt: skip
    given: dict[str, Any] = {
        "method": method,
        "resample": tuple(word.strip() for word in resample.split(",")),
        "seed": seed,
        "rules": _common.labels(rules),
        "seeds": _common.labels(seeds),
        "regions": _common.labels(regions),
        "subjects": _common.labels(subjects),
        "interval": cast("Interval", interval),
        "level": level,
        "ceiling": ceiling,
        "memory_budget": budget,
        "progress": not quiet,
    }
    if n_resamples is not None:
        given["n_resamples"] = n_resamples
    if stream:
        from rsafast.ondisk.bootstrap import bootstrap_files

        result = bootstrap_files(
            [models, *(more_models or ())], brain, **given, out=out, resume=resume, cluster=cluster
        )
    else:
        from rsafast.inference.bootstrap.api import bootstrap
        from rsafast.io import read_rdms

        missing: Literal["error", "allow"] = "error" if mask is None else "allow"
        result = bootstrap(
            read_rdms(models, key=models_key, missing=missing),
            read_rdms(brain[0], key=brain_key, missing=missing),
            mask=None if mask is None else _common.read_mask(mask, "--mask"),
            device=device,
            **given,
        )
    written: list[Path] = ctx.obj
    for path in (out, csv):
        if path is not None:
            if not (stream and path == out):
                result.save(path)
            written.append(path)
    if figure is not None:
        _draw(result, figure)
        written.append(figure)
    if as_json:
        _common.print_json(_as_dict(result))
    else:
        print_result(result)
    if written and not quiet:
        _common.say(f"wrote {', '.join(map(str, written))}")


def _draw(result: BootstrapResult, path: Path) -> None:
    from matplotlib.figure import Figure
    from rsafast_kernels.atomic import replacing

    bars = len(result.rules) * len(result.regions)
    figure = Figure(figsize=(max(3.2, 0.6 * bars + 1.4), 3.2), layout="constrained")
    result.plot(figure.subplots())
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=200)


def _as_dict(result: BootstrapResult) -> dict[str, Any]:
    return {
        "method": result.method,
        "resample": list(result.resample),
        "n_resamples": result.n_resamples,
        "n_excluded": result.n_excluded,
        "n_stimuli": result.n_stimuli,
        "interval": result.interval,
        "level": result.level,
        "seed": result.seed,
        "estimates": result.to_dataframe().to_dict("records"),
        "differences": result.differences().to_dict("records"),
        "notes": list(result.notes),
        "parameters": result.parameters,
        "provenance": result.provenance,
    }


def print_result(result: BootstrapResult) -> None:
    """Print the estimates, the differences and what they speak for."""
    console = _common.output_console()
    frame = result.to_dataframe()
    headers = [result.method, "SE", f"{100 * result.level:g} % interval", "p (above 0)"]
    if result.ceiling is not None:
        headers += ["noise ceiling", "p (lower ceiling)"]
    rows = []
    for _, row in frame.iterrows():
        cells = [str(row.rule), str(row.region), f"{row.estimate:.4f}", f"{row.standard_error:.4f}"]
        cells += [f"{row.ci_low:.4f} to {row.ci_high:.4f}", f"{row.p_zero:.3g}"]
        if result.ceiling is not None:
            cells += [f"{row.ceiling_lower:.4f} to {row.ceiling_upper:.4f}", f"{row.p_ceiling:.3g}"]
        rows.append(cells)
    _print_table(console, ["rule", "region", *headers], rows, 2)
    differences = result.differences()
    if len(differences):
        rows = [
            [str(row.region), str(row.rule_a), str(row.rule_b), f"{row.difference:.4f}",
             f"{row.ci_low:.4f} to {row.ci_high:.4f}", f"{row.p_value:.3g}"]
            for _, row in differences.iterrows()
        ]  # fmt: skip
        headers = ["region", "rule", "less rule", "difference"]
        headers += [f"{100 * result.level:g} % interval", "p (two-sided)"]
        _print_table(console, headers, rows, 3)
    console.print(result.summary(), soft_wrap=True)


def _print_table(console: Any, headers: list[str], rows: list[list[str]], names: int) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, header in enumerate(headers):
        table.add_column(
            header, overflow="fold", justify="left" if place < names else "right"
        )
    for row in rows[:MAX_ROWS]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(f"{len(rows) - MAX_ROWS:,} more rows; --csv or --json writes all of them.")
