"""The training loop of seeds that train together, the same for every rule, model and profile.

Whatever a seed draws depends on the seed and the epoch alone, and weights, statistics and optimiser
are stored after every epoch, so that a killed run goes on to the same networks, bit for bit on the
same machine with the same threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rsafast_kernels.errors import InvalidInputError
from torch import Tensor

from rsafast_training import batchnorm
from rsafast_training.checkpoints import (
    RunInfo,
    checkpoint_path,
    read_metadata,
    read_metrics,
    read_tensors,
    write_metrics,
    write_tensors,
)
from rsafast_training.config import TrainConfig
from rsafast_training.data import Augment, Batches, ImageData
from rsafast_training.graphs import stepper_of
from rsafast_training.layers import Dropout
from rsafast_training.models import StackedModel
from rsafast_training.randomness import generators
from rsafast_training.rules import Rule, build_rule
from rsafast_training.rules.base import prefixed, without_prefix

_N_TRAIN = 8000  # training images where no number is asked for, as in the study


@dataclass(frozen=True, slots=True)
class Progress:
    """What the loop says while it runs.

    Attributes
    ----------
    seeds : those training now.
    epoch, epochs : counted from 1.
    done, total : batches of the whole run, all seeds.
    accuracy : mean over seeds since the epoch began, on the training batches; NaN before training.
    test_accuracy : mean over seeds at the last checkpoint, or None.
    checkpoint : whether a checkpoint was just written; else after a batch.
    """

    seeds: tuple[int, ...]
    epoch: int
    epochs: int
    done: int
    total: int
    accuracy: float
    test_accuracy: float | None
    checkpoint: bool = False


Report = Callable[[Progress], None]


def make_networks(
    config: TrainConfig, info: RunInfo, seeds: Sequence[int]
) -> tuple[StackedModel, Rule]:
    """Make the networks of these seeds, and the rule that trains them."""
    model = info.build(seeds).to(config.device)
    for norm in model.batch_norms().values():
        norm.frozen = config.batch_norm == "frozen"
    rule = build_rule(config.rule, model, seeds, config.of_rule, config.epochs, config.profile)
    return model, rule


def make_batches(config: TrainConfig, data: ImageData, seeds: Sequence[int]) -> Batches:
    """Make the batches of these seeds, each with training images of its own."""
    n = config.n_train or min(_N_TRAIN, len(data.train_images))
    of = {seed: config.seeds[0] if config.subset == "shared" else seed for seed in seeds}
    return Batches(
        data, {seed: data.subset(n, chosen) for seed, chosen in of.items()},
        batch_size=config.batch_size, augment=Augment() if config.augment else None,
        device=config.device,
    )  # fmt: skip


def start_epoch(model: StackedModel, rule: Rule, epoch: int) -> None:
    """Training mode, with everything drawn at this epoch set from the seeds and the epoch."""
    model.train()
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.generators = generators(rule.seeds, f"dropout/{name}", epoch)
    rule.start_epoch(epoch)


class Group:
    """Seeds that train together."""

    def __init__(
        self,
        config: TrainConfig,
        info: RunInfo,
        data: ImageData,
        folder: Path,
        seeds: tuple[int, ...],
        report: Report | None,
        share: tuple[int, int],
    ) -> None:
        self.config, self.info, self.folder, self.seeds = config, info, folder, seeds
        self.report, self.share = report, share
        self.batches = make_batches(config, data, seeds)
        self.model, self.rule = make_networks(config, info, seeds)
        self.step = stepper_of(self.rule, config.device)
        self.initial = {n: w.detach().clone() for n, w in self.model.weights().items()}
        self.untrained = info.build(seeds).to(config.device)
        self._control_clean: batchnorm.Statistics | None = None  # the same at every epoch
        self.rows: list[list[dict[str, float]]] = [[] for _ in seeds]
        self.test_accuracy: float | None = None
        self.state = folder / f"state-seed-{'-'.join(map(str, seeds))}.safetensors"

    def run(self) -> None:
        """Train from where the stored state stands to the last epoch."""
        for seed in self.seeds:
            (self.folder / f"seed-{seed}").mkdir(exist_ok=True)
        done = self._resume()
        if done is None:
            return
        if done < 0:
            self._begin()
        for epoch in range(max(done, 0) + 1, self.config.epochs + 1):
            started, cpu = time.perf_counter(), time.process_time()
            loss, accuracy = self._epoch(epoch)
            self._close(
                epoch, train_loss=loss, train_accuracy=accuracy,
                seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - cpu,
            )  # fmt: skip
        self.state.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Epoch 0: statistics that stay fixed are measured, the untrained networks kept."""
        if self.config.batch_norm == "frozen":
            for model in (self.model, self.untrained):
                batchnorm.set_statistics(model, self._clean_statistics(model))
        self._close(0)

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy of every seed, (S,), over the batches of an epoch."""
        start_epoch(self.model, self.rule, epoch)
        loss = torch.zeros(len(self.seeds), device=self.config.device)
        correct, seen = torch.zeros_like(loss), 0
        steps = len(self.batches)
        for step, (images, labels) in enumerate(self.batches.epoch(self.seeds, epoch), start=1):
            result = self.step(images, labels)
            loss += result.loss
            correct += result.correct
            seen += labels.shape[-1]
            if self.report is not None:  # else a GPU need not be waited for
                self._say(epoch, step, float(correct.mean()) / seen)
        self.step.end_epoch()
        if not loss.isfinite().all():
            seed = self.seeds[int((~loss.isfinite()).nonzero()[0, 0])]
            raise InvalidInputError(
                f"the loss of seed {seed} is not finite at epoch {epoch}; use a smaller lr. "
                f"Checkpoints up to the epoch before are in {self.folder}"
            )
        return loss / steps, correct / seen

    def _say(self, epoch: int, step: int, accuracy: float, checkpoint: bool = False) -> None:
        if self.report is None:
            return
        index, groups = self.share
        epochs, steps = self.config.epochs, len(self.batches)
        done = index * epochs * steps + max(epoch - 1, 0) * steps + step
        self.report(
            Progress(
                self.seeds, epoch, epochs, done, groups * epochs * steps, accuracy,
                self.test_accuracy, checkpoint,
            )
        )  # fmt: skip

    def _close(self, epoch: int, **measured: Tensor | float) -> None:
        """Keep what an epoch left: checkpoint, metrics, and last the state to resume from."""
        drift = weight_drift(self.model.weights(), self.initial)
        figures: dict[str, Tensor | float] = {**measured, **drift}
        figures |= self.rule.diagnostics() if epoch else {}
        if epoch in self.config.checkpoints:
            figures["test_accuracy"] = tested = self._checkpoint(epoch)
            self.test_accuracy = float(tested.mean())
            seen = measured.get("train_accuracy", torch.tensor(float("nan")))
            steps = len(self.batches) if epoch else 0
            self._say(epoch, steps, float(torch.as_tensor(seen).mean()), checkpoint=True)
        for index, (seed, rows) in enumerate(zip(self.seeds, self.rows, strict=True)):
            row = {n: float(v[index] if isinstance(v, Tensor) else v) for n, v in figures.items()}
            rows.append({"epoch": float(epoch), **row})
            write_metrics(self.folder / f"seed-{seed}" / "metrics.h5", rows)
        if epoch < self.config.epochs:  # else the checkpoint says that all is done
            tensors = prefixed("model", self.model.state_dict())
            tensors |= prefixed("rule", self.rule.state_tensors())
            write_tensors(self.state, tensors, epoch=epoch)

    def _resume(self) -> int | None:
        """Epoch that the stored state stands at, -1 for none, None where all is done."""
        last = self.config.epochs
        if not self.state.is_file():
            # Metrics are written after the last checkpoint: without them a kill came in between.
            kept = [
                checkpoint_path(self.folder, seed, last).is_file()
                and (self.folder / f"seed-{seed}" / "metrics.h5").is_file()
                for seed in self.seeds
            ]
            return None if all(kept) else -1
        epoch = int(read_metadata(self.state)["epoch"])
        tensors = read_tensors(self.state)
        self.model.load_state_dict(without_prefix("model", tensors))
        self.rule.load_state_tensors(without_prefix("rule", tensors))
        for index, seed in enumerate(self.seeds):
            stored = read_metrics(self.folder / f"seed-{seed}" / "metrics.h5")
            self.rows[index] = [row for row in stored if row["epoch"] <= epoch]
        if self.config.batch_norm == "frozen":
            batchnorm.set_statistics(self.untrained, batchnorm.statistics_of(self.model))
        return epoch

    def _checkpoint(self, epoch: int) -> Tensor:
        """Write the networks with the statistics of every regime; return test accuracies, (S,)."""
        own, control = self._regimes(), self._control_regimes(epoch)
        regime = self.config.batch_norm
        fixed = own.get(regime) or batchnorm.statistics_of(self.model)
        if regime == "identity":
            fixed = batchnorm.identity_statistics(self.model)
        for index, seed in enumerate(self.seeds):
            tensors = self.model.seed_state(index)
            for source, regimes in (("statistics", own), ("control", control)):
                for word, statistics in regimes.items():
                    held = {name: value[index] for name, value in statistics.items()}
                    tensors |= prefixed(f"{source}/{word}", held)
            write_tensors(
                checkpoint_path(self.folder, seed, epoch), tensors, rule=self.config.rule,
                profile=self.config.profile, seed=seed, epoch=epoch, model=self.config.model,
                batch_norm=regime,
            )  # fmt: skip
        by_batch = self.info.batch_statistics
        with batchnorm.evaluated_with(self.model, fixed, by_batch=by_batch):
            return accuracy(self.model, self.batches.clean("test"))

    @property
    def _has_choice(self) -> bool:
        """Whether a checkpoint can be evaluated under several regimes ("identity" needs none)."""
        return self.config.batch_norm not in ("frozen", "none") and bool(self.model.batch_norms())

    def _regimes(self) -> dict[str, batchnorm.Statistics]:
        """Statistics under which the networks can be evaluated, by regime."""
        if not self._has_choice:
            return {}
        loader = batchnorm.statistics_of(self.model)
        return {"loader": loader, "clean": self._clean_statistics(self.model)}

    def _control_regimes(self, epoch: int) -> dict[str, batchnorm.Statistics]:
        """Those of the untrained networks, from the same images; before training, the same."""
        if not self._has_choice or not epoch:
            return {}
        images = (x for x, _ in self.batches.epoch(self.seeds, epoch))
        loader = batchnorm.measured_statistics(self.untrained, images, momentum=0.1)
        if self._control_clean is None:
            self._control_clean = self._clean_statistics(self.untrained)
        return {"loader": loader, "clean": self._control_clean}

    def _clean_statistics(self, model: StackedModel) -> batchnorm.Statistics:
        size = self.config.batch_size
        batches = self.batches.clean_subsets(self.seeds, size)
        # Batches count alike, so that a smaller last one would count too much.
        images = (x for x, _ in batches if x.shape[1] == size)
        return batchnorm.measured_statistics(model, images, momentum=None)


@torch.no_grad()
def weight_drift(
    weights: Mapping[str, Tensor], initial: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Norm of the change of every layer's weights, (S, ...), over the norm of the initial ones."""
    return {
        f"drift/{name}": (weight - initial[name]).flatten(1).norm(dim=1).cpu()
        / initial[name].flatten(1).norm(dim=1).cpu()
        for name, weight in weights.items()
    }


@torch.no_grad()
def accuracy(model: StackedModel, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Share of images classified correctly by every seed, (S,), in the model's present mode."""
    correct, seen = torch.zeros(model.seeds, dtype=torch.int64), 0
    for images, labels in batches:
        chosen = model(images).argmax(-1)
        correct += (chosen == labels).sum(-1).cpu()
        seen += labels.shape[-1]
    return correct.double() / seen
