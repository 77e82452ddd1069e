"""Replayed training steps: the bits of steps that run, on a CPU that replays as a GPU would.

`Recording` stands in for a CUDA graph: it takes down every operation of torch with the memory it
reads and writes, undoes them, and repeats them at a replay without running any Python of the step.
Counters that live in Python stand still in a replay here as they would there; reading a value,
drawing a number or copying from the host while recording is refused here as it would be there.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from rsafast_kernels import stdp as stdp_kernels
from rsafast_kernels._native import native
from rsafast_kernels.predictive import checks
from rsafast_training import optimisers
from rsafast_training.graphs import WARM_UP, Stepper
from rsafast_training.loop import start_epoch
from rsafast_training.models import build_model
from rsafast_training.randomness import Tape, from_host
from rsafast_training.rules import Rule, StepResult, build_rule, default_regime, rule_settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SEEDS = (3, 8)
NATIVE = [n for n in dir(native) if n.startswith(("predictive_", "lif_"))]
CPU = torch.device("cpu")


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Recording(TorchDispatchMode):
    """`host`: tensors that a rule keeps on the CPU on purpose, and may read."""

    def __init__(self, host: list[Tensor]) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []
        self.kept: dict[int, tuple[Any, Any]] = {}
        self.made: list[Tensor] = []
        self.host = {t.data_ptr() for t in host}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        reads = name == "_local_scalar_dense" and args[0].data_ptr() not in self.host
        if reads or name in ("lift_fresh", "nonzero") or kwargs.get("generator") is not None:
            raise RuntimeError(f"{name} is not permitted when stream is capturing")
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            self.kept.setdefault(storage.data_ptr(), (storage, storage.clone()))
        out = func(*args, **kwargs)
        self.made += tensors(out)  # memory that is used again would be taken for that of an input

        def again() -> None:
            for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)

        if name != "_local_scalar_dense":
            self.calls.append(again)
        return out

    def undo(self) -> None:
        for storage, before in self.kept.values():
            storage.copy_(before)


class CpuRecorder:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: list[Tensor]) -> None:
        self.monkeypatch, self.host, self.recorded, self.replayed = monkeypatch, host, 0, 0

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, work: Callable[[], StepResult]) -> Callable[[], StepResult]:
        self.recorded += 1
        recording = Recording(self.host)
        try:
            with self.monkeypatch.context() as patch, recording:
                for name in NATIVE:
                    patch.setattr(native, name, self._noted(getattr(native, name), recording))
                result = work()
        finally:
            recording.undo()
        def replay() -> StepResult:
            self.replayed += 1
            with torch.no_grad():
                for call in recording.calls:
                    call()
            return result

        return replay

    @staticmethod
    def _noted(function: Any, recording: Recording) -> Any:
        def noted(*args: Any) -> None:
            function(*args)
            recording.calls.append(lambda: function(*args))

        return noted


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What reads values on the CPU alone does not; adam counts its steps in tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of layers this small, threads wait for each other most of the time
    monkeypatch.setattr(checks, "_check_labels", lambda *_: None)
    monkeypatch.setattr(stdp_kernels, "_events", lambda *_: None)
    monkeypatch.setattr(optimisers, "CAPTURABLE", ("cpu",))
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda **_: ["cpu"])
    yield
    torch.set_num_threads(threads)


def make(rule: str, profile: str = "corrected", **settings: Any) -> Rule:
    chosen = rule_settings(rule, settings, profile)
    model = build_model(
        "cnn3", SEEDS, 4, image_size=8, batch_norm=default_regime(rule, profile) != "none",
        **getattr(chosen, "model_options", {}),
    )  # fmt: skip
    return build_rule(rule, model, SEEDS, chosen, 3, profile)


def batches() -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(2)
    return [
        (torch.randn(2, n, 3, 8, 8, generator=draws), torch.randint(4, (2, n), generator=draws))
        for n in (6, 6, 6, 6, 4, 6)
    ]


def host_tensors(rule: Rule) -> list[Tensor]:
    return [layer.state["batches"] for layer in getattr(rule, "_plastic", {}).values()]


def trained(rule: Rule, recorder: Any) -> dict[str, Any]:
    """Everything that two epochs leave behind, with every loss on the way."""
    step, losses = Stepper(rule, recorder), []
    for epoch in (1, 2):
        start_epoch(rule.model, rule, epoch)
        for images, labels in batches():
            result = step(images, labels)
            losses.append(torch.stack([result.loss, result.correct]).clone())
        step.end_epoch()
    left = rule.model.state_dict() | rule.state_tensors() | rule.diagnostics()
    return {name: value.clone() for name, value in left.items()} | {"losses": torch.stack(losses)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "profile", "settings"),
    [
        ("untrained", "corrected", {}),
        ("bp", "corrected", {}),
        ("bp", "corrected", {"optimiser": "sgd"}),
        ("fa", "corrected", {}),
        ("fa", "corrected", {"variant": "dfa"}),
        ("fa", "corrected", {"variant": "sign"}),
        ("pc", "corrected", {"steps": 4}),
        ("pc", "corrected", {"schedule": "incremental", "steps": 4, "momentum": 0.1}),
        ("stdp", "corrected", {}),
        ("pc", "faithful", {"untrained_feedback": False, "unsupervised_inference": False}),
        ("stdp", "faithful", {"gap_rates": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(map(str, value.values())),
)
def test_replayed_steps_equal_steps_that_run(
    rule: str, profile: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(make(rule, profile, **settings), None)
    built = make(rule, profile, **settings)
    recorder = CpuRecorder(monkeypatch, host_tensors(built))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trained(built, recorder)
    assert recorder.recorded == 2
    assert recorder.replayed >= (4 if rule == "stdp" else 6)  # encoders are renewed at 1, 2, 4, 8
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


def test_what_cannot_be_recorded_is_said_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    built = make("bp")
    recorder = CpuRecorder(monkeypatch, [])
    learn = built.learn

    def reading(images: Tensor, labels: Tensor) -> StepResult:
        result = learn(images, labels)
        result.loss.sum().item()
        return result

    monkeypatch.setattr(built, "learn", reading)
    with pytest.warns(UserWarning, match=r"bp run kernel by kernel.*not permitted") as said:
        found = trained(built, recorder)
    assert len(said) == 1
    assert recorder.recorded == 1
    assert torch.equal(found["losses"], trained(make("bp"), None)["losses"])


def test_a_full_gpu_is_no_reason_to_go_on_without_a_recording() -> None:
    class Full(CpuRecorder):
        def record(self, work: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    step = Stepper(make("bp"), Full(pytest.MonkeyPatch(), []))
    start_epoch(step.rule.model, step.rule, 1)
    for images, labels in batches()[:WARM_UP]:
        step(images, labels)
    with pytest.raises(torch.OutOfMemoryError):
        step(*batches()[0])


def test_the_first_steps_run_whatever_their_shape() -> None:
    class Never(CpuRecorder):
        def record(self, work: Any) -> Any:
            raise AssertionError("recorded too early")

    step = Stepper(make("bp"), Never(pytest.MonkeyPatch(), []))
    start_epoch(step.rule.model, step.rule, 1)
    usual, odd = batches()[0], batches()[4]
    for images, labels in [usual] * (WARM_UP - 1) + [odd] * 4 + [usual, odd]:
        step(images, labels)
    with pytest.raises(AssertionError, match="too early"):
        step(*usual)


def test_a_tape_draws_in_order_and_notices_another_step() -> None:
    draws = np.random.default_rng(0)
    tape = Tape()

    def work(n: int) -> list[Tensor]:
        return [from_host(lambda: torch.tensor(draws.random(3)), CPU) for _ in range(n)]

    with tape.watch():
        first = work(2)
    expected = torch.tensor(np.random.default_rng(0).random((4, 3)))
    assert torch.equal(torch.stack(first), expected[:2])
    with tape.play():
        played = work(2)
    tape.fill()
    assert torch.equal(torch.stack(played), expected[2:])
    with pytest.raises(RuntimeError, match="other host values"), tape.play():
        work(1)
