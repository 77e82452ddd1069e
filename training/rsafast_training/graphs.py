"""Training steps replayed as CUDA graphs.

A small network spends most of a step launching kernels; a graph launches them all at once. The
steps of an epoch differ in their images, labels and random numbers alone, so one of them is
recorded and replayed for the others. Learning rates are part of a recording, which therefore lasts
one epoch. What a rule owes to this is said at `Rule.learn`.

The recorder is an argument: tests record on the CPU. No recording has been made on a GPU yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from rsafast_training.randomness import Tape
from rsafast_training.rules import Rule, StepResult

WARM_UP = 3  # steps that run before the first recording: kernels are compiled and chosen in them


class Recorder(Protocol):
    """Where steps run before one is recorded, and how it is."""

    def aside(self) -> AbstractContextManager[None]:
        """Where steps run that are not replayed."""

    def record(self, work: Callable[[], StepResult]) -> Callable[[], StepResult]:
        """Record what `work` launches, without running it; what is returned runs it."""


class CudaRecorder:
    """CUDA graphs, of the current device."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A stream of its own: autograd would tie work on the default one to it for good."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, work: Callable[[], StepResult]) -> Callable[[], StepResult]:
        """Capture; the result of a replay is overwritten by the next."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()

        def replay() -> StepResult:
            graph.replay()
            return result

        return replay


class Stepper:
    """Runs the steps of a rule, replayed where there is a recorder and the step allows it.

    Parameters
    ----------
    rule : its `step` is what every call does.
    recorder : None runs every step as it is, for the CPU.

    Notes
    -----
    Steps run as they are while they warm up, once at the beginning of every epoch, where the rule
    decides something on the host, and for batches of another shape than the first. Where a step
    cannot be recorded, a warning says why, and all run as they are.
    """

    def __init__(self, rule: Rule, recorder: Recorder | None) -> None:
        self.rule, self._recorder = rule, recorder
        self._tape, self._left = Tape(), WARM_UP
        self._batch: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], StepResult] | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> StepResult:
        """Learn from images (S, N, C, H, W) and labels (S, N); see `Rule.step`."""
        if self._recorder is None:
            return self.rule.step(images, labels)
        self.rule.prepare(labels.shape[-1])
        if self._batch is None:
            # Outside the recording, whose own memory is reused within it.
            self._batch = images.clone(), labels.clone()
        usual = images.shape == self._batch[0].shape
        if not usual or self.rule.decides or self._left:
            self._left = max(0, self._left - usual)
            # Memory that a recording reads from stays the one that is filled.
            watched = usual and self._replay is None
            with self._recorder.aside(), self._tape.watch() if watched else nullcontext():
                return self.rule.learn(images, labels)
        for fixed, given in zip(self._batch, (images, labels), strict=True):
            fixed.copy_(given)
        replay = self._replay or self._record(self._recorder)
        if replay is None:
            return self.rule.learn(images, labels)
        self._tape.fill()
        return replay()

    def end_epoch(self) -> None:
        """Forget the recording, and free its memory."""
        self._replay, self._left = None, max(1, self._left)

    def _record(self, recorder: Recorder) -> Callable[[], StepResult] | None:
        def work() -> StepResult:
            assert self._batch is not None
            with self._tape.play():
                return self.rule.learn(*self._batch)

        try:
            self._replay = recorder.record(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._recorder = None
            warnings.warn(
                f"steps of {self.rule.name} run kernel by kernel, because they could not be "
                f"recorded as a CUDA graph: {error}", stacklevel=3,
            )  # fmt: skip
        return self._replay


def stepper_of(rule: Rule, device: str) -> Stepper:
    """Return what runs the steps of a rule on "cpu" or "cuda"."""
    return Stepper(rule, CudaRecorder() if device == "cuda" else None)
