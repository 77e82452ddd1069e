"""``rsafast test``: permutation tests of every model RDM against every brain RDM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from rsafast.cli import _common

if TYPE_CHECKING:
    from rsafast_kernels.pairwise import Metric
    from rsafast_kernels.tally import Alternative

    from rsafast.ondisk.survey import Large
    from rsafast.permutation.result import PermutationResult
    from rsafast.permutation.setup import Engine, Tail

NAME = "test"
HELP = (
    "Test every model RDM against every brain RDM by relabelling the stimuli. "
    "p-values are exact, and come with family-wise (max-T) and false-discovery correction."
)
EXAMPLE = "Example: rsafast test models.h5 brain.h5 -n 1000000 --out result.h5 --report result.html"
MAX_ROWS = 60


def command(
    ctx: typer.Context,
    models: Annotated[Path, typer.Argument(help="Model RDMs: .h5, .npy, .npz, .mat or .csv.")],
    brain: Annotated[Path, typer.Argument(help="Brain RDMs to test them against.")],
    method: Annotated[
        str, typer.Option("--method", "-m", help=f"Comparator: {_common.METHODS}.")
    ] = "spearman",
    permutations: Annotated[
        int,
        typer.Option("--permutations", "-n", min=1, help="Relabellings; p cannot be below 1/N."),
    ] = 1_000_000,
    alternative: Annotated[str, typer.Option(help="greater, less or two-sided.")] = "greater",
    covariates: Annotated[
        Path | None, typer.Option(help="RDMs to partial out of both sides.", show_default="none")
    ] = None,
    mask: _common.Mask = None,
    blocks: Annotated[
        Path | None,
        typer.Option(help="Block of every stimulus, one a line; relabel within blocks only."),
    ] = None,
    tail: Annotated[
        str | None,
        typer.Option(help="Approximate p below 1/N beside the exact one: gpd or pearson3."),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, orbit, exact or direct.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random relabellings.")] = 0,
    stream: _common.Stream = False,
    features: Annotated[
        str | None,
        typer.Option(
            help="With --stream: MODELS and BRAIN are features, and RDMs of this metric are"
            " computed wherever they are needed.",
            show_default="none",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="With --stream: print the plan and the time it takes; run nothing.",
            show_default="off",
        ),
    ] = False,
    resume: _common.Resume = True,
    memory: _common.Memory = None,
    cluster: _common.Cluster = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    keep_null: Annotated[
        bool,
        typer.Option(
            "--keep-null", help="Keep every null value in the result file.", show_default="off"
        ),
    ] = False,
    models_key: _common.ModelsKey = None,
    brain_key: _common.BrainKey = None,
    out: _common.Out = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write the table of pairs to this .csv.", show_default="none"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a self-contained report to this .html.", show_default="none"),
    ] = None,
    as_json: _common.AsJson = False,
    quiet: _common.Quiet = False,
) -> None:
    """Check the outputs, read, test, write, print."""
    budget = _common.parse_memory(memory)
    _common.check_output(out, "--out", (".h5", ".hdf5"))
    _common.check_output(csv, "--csv", (".csv",))
    _common.check_output(report, "--report", (".html", ".htm"))
    _common.check_stream(
        stream,
        refused={
            "--covariates": covariates, "--mask": mask, "--blocks": blocks, "--report": report,
            "--models-key": models_key, "--brain-key": brain_key, "--keep-null": keep_null,
            "--engine": engine != "auto", "--device cuda": device == "cuda",
        },
        needing={"--features": features, "--dry-run": dry_run},
    )  # fmt: skip
    if dry_run and cluster is not None:
        raise typer.BadParameter("--dry-run takes no --cluster: the plan is made and timed here")
    if stream:
        from rsafast.ondisk.test import permutation_test_files, plan_permutation_test_files

        given: dict[str, Any] = {
            "models": _sources(models, features),
            "brain": _sources(brain, features),
            "method": method,
            "n_permutations": permutations,
            "memory_budget": budget,
        }
        if dry_run:
            plan = plan_permutation_test_files(**given)
            _common.output_console().print(str(plan), soft_wrap=True)
            return
        result = permutation_test_files(
            **given, alternative=cast("Alternative", alternative), tail=cast("Any", tail),
            seed=seed, out=out, resume=resume, cluster=cluster, progress=not quiet,
        )  # fmt: skip
        ctx.obj += [out] if out else []
        _save(ctx.obj, result, csv)
        _show(ctx.obj, result, as_json=as_json, quiet=quiet)
        return
    from rsafast.io import read_rdms
    from rsafast.permutation.api import permutation_test

    # Pairs may be missing only where a mask says so; the test checks that they lie outside it.
    missing: Literal["error", "allow"] = "error" if mask is None else "allow"
    model_rdms = read_rdms(models, key=models_key, missing=missing)
    brain_rdms = read_rdms(brain, key=brain_key, missing=missing)
    # The casts are for the type checker: permutation_test checks the words and names the choices.
    result = permutation_test(
        model_rdms,
        brain_rdms,
        method=method,
        n_permutations=permutations,
        alternative=cast("Alternative", alternative),
        covariates=None if covariates is None else read_rdms(covariates, missing=missing),
        mask=None if mask is None else _common.read_mask(mask, "--mask"),
        blocks=None if blocks is None else _common.read_groups(blocks, "--blocks"),
        tail=cast("Tail | None", tail),
        engine=cast("Engine", engine),
        seed=seed,
        device=device,
        keep_null=keep_null,
        memory_budget=budget,
        cluster=cluster,
        progress=not quiet,
    )
    _save(ctx.obj, result, out, csv)
    if report is not None:
        from rsafast.report import write_report

        write_report(report, result, models=model_rdms, brain=brain_rdms)
        ctx.obj.append(report)
    _show(ctx.obj, result, as_json=as_json, quiet=quiet)


def _sources(path: Path, metric: str | None) -> list[Large]:
    """The RDMs of a file, or with a metric those of its features, layer by layer."""
    if metric is None:
        return [path]
    from rsafast.io import read_features
    from rsafast.ondisk.rows import lazy_rdm

    layers, labels = read_features(path)
    return [
        lazy_rdm(values, cast("Metric", metric), labels=labels, name=name)
        for name, values in layers.items()
    ]


def _save(written: list[Path], result: PermutationResult, *files: Path | None) -> None:
    """Write the result to files, and note them."""
    for path in files:
        if path is not None:
            result.save(path)
            written.append(path)


def _show(written: list[Path], result: PermutationResult, *, as_json: bool, quiet: bool) -> None:
    """Print the result, and say what was written in all."""
    if as_json:
        _common.print_json(_as_dict(result))
    else:
        print_result(result)
    if written and not quiet:
        _common.say(f"wrote {', '.join(map(str, written))}")


def _as_dict(result: PermutationResult) -> dict[str, Any]:
    return {
        "n_permutations": result.n_permutations,
        "n_stimuli": result.n_stimuli,
        "method": result.method,
        "alternative": result.alternative,
        "engine": result.engine,
        "device": result.device,
        "seed": result.seed,
        "tail": result.tail,
        "pairs": result.to_dataframe().to_dict("records"),
        "parameters": result.parameters,
        "provenance": result.provenance,
    }


def print_result(result: PermutationResult) -> None:
    """Print the pairs as a table, smallest p first, and below it what was tested."""
    from rich import box
    from rich.table import Table

    frame = result.to_dataframe().sort_values("p_value", kind="stable")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "brain"):
        table.add_column(name, overflow="fold")
    headers = [result.method, "p", "± MC error", "p family-wise (max-T step-down)", "q (BH)"]
    if result.p_tail is not None:
        headers.append(f"≈ p ({result.tail})")
    for header in headers:
        table.add_column(header, justify="right")
    for _, row in frame.head(MAX_ROWS).iterrows():
        cells = [f"{row.statistic:.4f}", f"{row.p_value:.3g}", f"{row.p_standard_error:.1g}"]
        cells += [f"{row.p_value_stepdown:.3g}", f"{row.q_value:.3g}"]
        if result.p_tail is not None:
            cells.append(f"{row.p_tail:.2g}")
        table.add_row(str(row.model), str(row.brain), *cells)
    console = _common.output_console()
    console.print(table)
    if len(frame) > MAX_ROWS:
        console.print(f"{len(frame) - MAX_ROWS:,} more pairs; --csv writes all of them.")
    console.print(result.summary(), soft_wrap=True)
    console.print(_rate(result))


def _rate(result: PermutationResult) -> str:
    """Say how long it took, where the provenance knows."""
    seconds = result.provenance.get("seconds")
    if not isinstance(seconds, int | float) or seconds <= 0:
        return ""
    rate = result.n_permutations * result.n_pairs / seconds
    return f"Took {seconds:.3g} s, {rate:,.0f} pair relabellings a second."
