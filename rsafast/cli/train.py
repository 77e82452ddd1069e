"""``rsafast train``: networks that differ in their learning rule, several seeds each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsafast.cli import _common
from rsafast.device import require_training
from rsafast.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

NAME = "train"
HELP = (
    "Train networks with one or several learning rules, and keep their checkpoints: untrained, bp "
    "(backpropagation), fa (feedback alignment), pc (predictive coding), stdp, or all."
)
EXAMPLE = "Example: rsafast train --rule bp --data digits --epochs 5 --seeds 0,1 --out runs"


def command(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs, one a rule.")],
    rule: Annotated[
        list[str],
        typer.Option(help="untrained, bp, fa, pc, stdp or all; may be repeated."),
    ],
    profile: Annotated[
        str, typer.Option(help="corrected, or faithful: as published, quirks and all.")
    ] = "corrected",
    model: Annotated[str, typer.Option(help="cnn3, vgg5 or resnet50.")] = "cnn3",
    data: Annotated[
        str,
        typer.Option(help="digits, cifar10:PATH, npz:PATH or folder:PATH (also of ImageNet)."),
    ] = "digits",
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training images.")] = 40,
    seeds: Annotated[str, typer.Option(help="One network each, such as 0,1,2.")] = "0,1,2,3,4",
    checkpoints: Annotated[
        str, typer.Option(help="Epochs whose networks are kept; 0 is before training.")
    ] = "0,1,2,5,10,20,30,40",
    name: Annotated[
        str | None, typer.Option(help="Name of the run's folder.", show_default="the rule")
    ] = None,
    batch_norm: Annotated[
        str | None,
        typer.Option(
            help="loader, clean, identity, frozen or none: statistics of evaluation.",
            show_default="the rule's own",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    n_train: Annotated[
        int | None,
        typer.Option(min=1, help="Training images, drawn for each seed.", show_default="8000"),
    ] = None,
    subset: Annotated[
        str, typer.Option(help="per-seed, or shared: all seeds get the first one's images.")
    ] = "per-seed",
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment", help="Flips and shifted crops.", show_default="not for digits"
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels.", show_default="that of the data")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="torch, kaiming-normal or resnet.", show_default="the rule's own"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the rule, such as lr=1e-3; may be repeated."),
    ] = None,
    stack: Annotated[
        str,
        typer.Option(help="Seeds together, one-by-one, or auto: whichever is faster here."),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with runs in OUT.", show_default="off")
    ] = False,
    quiet: _common.Quiet = False,
    as_json: _common.AsJson = False,
) -> None:
    """Check every run, train them one after the other, print and draw what they learned."""
    require_training()
    from rsafast_training.checkpoints import metrics_table
    from rsafast_training.config import TrainConfig

    from rsafast.study.networks import train_with_bar

    rules = _rules(rule, profile)
    if name is not None and len(rules) > 1:
        raise InvalidInputError("--name names one run; leave it out with several rules")
    configs = [
        TrainConfig(
            word, profile=profile, model=model, data=data, name=name or "",  # type: ignore[arg-type]
            seeds=_common.read_integers(seeds, "--seeds"), epochs=epochs,
            checkpoints=_common.read_integers(checkpoints, "--checkpoints"),
            batch_size=batch_size, n_train=n_train, subset=subset,  # type: ignore[arg-type]
            augment=augment, batch_norm=batch_norm or "", image_size=image_size, init=init or "",
            settings=_settings(setting or []), stack=stack, device=device,  # type: ignore[arg-type]
        )
        for word in rules
    ]  # fmt: skip
    tables = []
    for config in configs:
        folder = train_with_bar(config, out, resume, quiet, _common.say)
        tables.append(metrics_table(folder))
        ctx.obj.append(_draw(tables[-1], folder))
    if as_json:
        _common.print_json([row for table in tables for row in table.to_dict("records")])
    else:
        _print(tables)
        if not quiet:
            written = ", ".join(str(path) for path in ctx.obj)
            _common.say(f"wrote {written} and the runs beside them")


def _rules(given: list[str], profile: str) -> list[str]:
    from rsafast_training.rules import RULES

    return list(RULES.get(profile, RULES["corrected"])) if given == ["all"] else given


def _settings(given: list[str]) -> dict[str, Any]:
    pairs = [text.partition("=") for text in given]
    wrong = [text for text, (name, sign, value) in zip(given, pairs, strict=True) if not value]
    if wrong:
        raise InvalidInputError(f"--set {wrong[0]}: write it as name=value, such as lr=1e-3")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _draw(table: pd.DataFrame, folder: Path) -> Path:
    from rsafast_kernels.atomic import replacing
    from rsafast_training.figures import learning_curves

    path = folder / "learning-curve.svg"
    with replacing(path) as temporary:
        learning_curves(table).savefig(temporary, format="svg", metadata={"Date": None})
    return path


def _print(tables: list[pd.DataFrame]) -> None:
    """One row a run: accuracies after the last epoch, and how far each layer moved."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title="after the last epoch, mean ± sd over seeds")
    shown.title_justify = "left"
    layers = list(dict.fromkeys(c for t in tables for c in t.columns if c.startswith("drift/")))
    for header in ("run", "seeds", "epoch", "test accuracy", *layers):
        shown.add_column(header, justify="left" if header == "run" else "right")
    for table in tables:
        last = table[table["epoch"] == table["epoch"].max()]
        spread = f" ± {last['test_accuracy'].std():.1%}" if len(last) > 1 else ""
        drifts = (f"{last[c].mean():.1%}" if c in last else "–" for c in layers)
        shown.add_row(
            str(last["run"].iloc[0]), str(len(last)), str(last["epoch"].iloc[0]),
            f"{last['test_accuracy'].mean():.1%}{spread}", *drifts,
        )  # fmt: skip
    _common.output_console().print(shown)
