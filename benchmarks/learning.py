"""What each rule learns on CIFAR-10: test accuracy, linear readout, drift of weights, time.

Usage: ``python benchmarks/learning.py train DATA OUT [--only bp,fa]`` (about an hour on two cores;
runs that are there are resumed), then ``report OUT``. DATA is a data set as rsafast train names
it, such as ``npz:cifar10_jpeg_origorder.npz``. The table goes to benchmarks/results/learning.md,
its rows to learning.csv beside it, and table and figure to docs/training/learning.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rsafast_training.checkpoints import Checkpoint, find_checkpoints, metrics_table, read_run
from rsafast_training.config import TrainConfig
from rsafast_training.data import ImageData, load_dataset, normalise
from rsafast_training.loop import Progress
from rsafast_training.readout import linear_readout
from rsafast_training.trainer import train

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FIGURE = HERE.parent / "docs" / "images" / "learning.svg"
PAGE = HERE.parent / "docs" / "training" / "learning.md"
SEEDS = (0, 1, 2)
READ_OUT = ("conv1", "conv3")


@dataclass(frozen=True)
class Plan:
    """One row of the table."""

    label: str
    config: dict[str, Any]


PLANS = {
    "untrained": Plan("untrained", {"rule": "untrained"}),
    "bp": Plan("backpropagation", {"rule": "bp", "epochs": 10}),
    "fa": Plan("feedback alignment, every layer", {"rule": "fa", "epochs": 30}),
    "stdp": Plan("STDP, readout by its own error", {"rule": "stdp", "epochs": 5}),
    "bp-plain": Plan(
        "backpropagation, no batch norm", {"rule": "bp", "epochs": 10, "batch_norm": "none"}
    ),
    "pc": Plan("predictive coding, no batch norm", {"rule": "pc", "epochs": 10}),
}


def config(name: str, data: str) -> TrainConfig:
    """Everything not named here is the default."""
    plan = PLANS[name].config
    last = plan.get("epochs", 0)
    return TrainConfig(
        **plan, name=name, data=data, seeds=SEEDS, checkpoints=(0, 1, 5, 10, 20, last),
        stack="one-by-one",
    )  # fmt: skip


def run(names: list[str], data: str, out: Path) -> None:
    """Train what is asked for, resuming what was begun."""

    def report(at: Progress) -> None:
        if at.checkpoint:
            tested = f"{at.test_accuracy:.3f}"
            sys.stdout.write(f"{at.seeds} epoch {at.epoch}: test {tested}\n")
            sys.stdout.flush()

    for name in names:
        sys.stdout.write(f"{name}\n")
        train(config(name, data), out, resume=True, report=report)


@torch.no_grad()
def features(checkpoint: Checkpoint, data: ImageData, split: str, rows: np.ndarray) -> Any:
    """Whole feature maps of some images, flattened, by layer."""
    model, images = checkpoint.load(), getattr(data, f"{split}_images")
    info, kept = checkpoint.info, {layer: [] for layer in READ_OUT}
    for start in range(0, len(rows), 500):
        x = torch.from_numpy(np.array(images[rows[start : start + 500]])).permute(0, 3, 1, 2)
        found = model.features(normalise(x, info.mean, info.std), READ_OUT)
        for layer, values in found.items():
            # Spatial averages over a 4 × 4 grid: the same number of numbers a channel everywhere.
            kept[layer].append(torch.nn.functional.adaptive_avg_pool2d(values[0], 4).flatten(1))
    return {layer: torch.cat(parts).numpy() for layer, parts in kept.items()}


def readouts(checkpoint: Checkpoint, data: ImageData, n_train: int) -> dict[str, float]:
    """Accuracy of the linear readout of each layer, trained on the network's own images."""
    rows, tests = data.subset(n_train, checkpoint.seed), np.arange(len(data.test_images))
    train_x, test_x = (
        features(checkpoint, data, split, index)
        for split, index in (("train", rows), ("test", tests))
    )
    return {
        f"readout/{layer}": linear_readout(
            train_x[layer], data.train_labels[rows], test_x[layer], data.test_labels
        ).accuracy
        for layer in READ_OUT
    }


def collect(out: Path, data: ImageData) -> pd.DataFrame:
    """One row a (run, seed): the last epoch, with readouts of the network and of its control."""
    table, rows = metrics_table(out), []
    for checkpoint in find_checkpoints(out, controls=True):
        seeds = table[(table["run"] == checkpoint.info.name) & (table["seed"] == checkpoint.seed)]
        if checkpoint.epoch != seeds["epoch"].max():
            continue
        last = {} if checkpoint.control else seeds.iloc[-1].to_dict()
        name = checkpoint.info.name + ("-control" if checkpoint.control else "")
        seconds = {} if checkpoint.control else {"seconds": seeds["cpu_seconds"].sum()}
        named = {"run": name, "seed": checkpoint.seed, "epoch": checkpoint.epoch}
        n_train = min(8000, len(data.train_images))
        rows.append({**last, **named, **seconds, **readouts(checkpoint, data, n_train)})
        sys.stdout.write(f"{name} seed {checkpoint.seed}: {rows[-1]}\n")
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, versions: dict[str, Any], data: str) -> str:
    """Mean ± sd over seeds."""
    drifts = [c for c in table.columns if c.startswith("drift/")]
    reads = [f"readout/{layer}" for layer in READ_OUT]
    lines = [
        f"{data}, 8,000 training images, all test images, mean ± sd over {len(SEEDS)} seeds;"
        f" torch {versions['torch']}, {versions['threads']} threads. Readout: ridge classifier on"
        " 4 × 4 spatial averages. Control: the untrained network, its batch norm fed by the same"
        " images.",
        "",
        "| rule | epochs | test accuracy | "
        + " | ".join(f"{c.removeprefix('readout/')}, linear readout" for c in reads)
        + " | CPU minutes a seed | "
        + " | ".join(f"{c.removeprefix('drift/')} moved" for c in drifts)
        + " |",
        "|---" * (4 + len(reads) + len(drifts)) + "|",
    ]
    for name, rows in table.groupby("run", sort=False):
        known = PLANS.get(str(name))
        label = known.label if known else f"control of {str(name).removesuffix('-control')}"
        cells = [
            label, str(int(rows["epoch"].iloc[0])), spread(rows["test_accuracy"]),
            *(spread(rows[c]) for c in reads),
            "–" if not rows["seconds"].sum() else f"{rows['seconds'].mean() / 60:.1f}",
            *("–" if rows[c].isna().any() else f"{rows[c].mean():.1%}" for c in drifts),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: pd.Series) -> str:
    """Mean ± sd in per cent."""
    return "–" if values.isna().any() else f"{values.mean():.1%} ± {values.std():.1%}"


def draw(table: pd.DataFrame, out: Path) -> None:
    """Test accuracy over epochs, and the readout beside each control's."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    metrics = metrics_table(out).dropna(subset=["test_accuracy"])
    colours = dict(zip(PLANS, ("#7f7f7f", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7"),
                       strict=True))  # fmt: skip
    for name, rows in metrics.groupby("run", sort=False):
        mean = rows.groupby("epoch")["test_accuracy"].mean()
        left.plot(mean.index, mean, "o-", color=colours[name], ms=4, label=PLANS[name].label)
    left.set(xlabel="epoch", ylabel="accuracy on test images", ylim=(0, None))
    left.legend(frameon=False, fontsize=7)
    read = f"readout/{READ_OUT[-1]}"
    names = [n for n in table["run"].unique() if not n.endswith("-control")]
    for x, name in enumerate(names):
        for run, shift, marker in ((name, -0.12, "o"), (f"{name}-control", 0.12, "x")):
            values = table.loc[table["run"] == run, read]
            right.plot([x + shift] * len(values), values, marker, color=colours[name], ms=5)
    right.set(ylabel=f"linear readout of {READ_OUT[-1]}")
    right.set_xticks(range(len(names)), names, rotation=30, ha="right")
    right.set_title("o trained, × its untrained control", fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, metadata={"Date": None})


def report(out: Path) -> None:
    """Write table, rows and figure."""
    stored = read_run(out / "bp")[1]
    data = load_dataset(TrainConfig.from_json(stored["config"]).data)
    table = collect(out, data)
    order = {n: i for i, n in enumerate(n for p in PLANS for n in (p, f"{p}-control"))}
    table = table.sort_values(["run", "seed"], key=lambda c: c.map(order).fillna(c))
    table.to_csv(RESULTS / "learning.csv", index=False, float_format="%.5g")
    text = markdown(table, stored["versions"], "CIFAR-10 (JPEG q75 copy)")
    (RESULTS / "learning.md").write_text(text)
    before, rest = PAGE.read_text().split("<!-- learning:start -->")
    after = rest.split("<!-- learning:end -->")[1]
    PAGE.write_text(f"{before}<!-- learning:start -->\n{text}<!-- learning:end -->{after}")
    draw(table, out)
    sys.stdout.write(text)


def main() -> None:
    """Train, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    training = actions.add_parser("train")
    training.add_argument("data")
    training.add_argument("out", type=Path)
    training.add_argument("--only", default=",".join(PLANS), help="runs, with commas between")
    actions.add_parser("report").add_argument("out", type=Path)
    given = parser.parse_args()
    if given.action == "train":
        run(given.only.split(","), given.data, given.out)
    else:
        report(given.out)


if __name__ == "__main__":
    main()
