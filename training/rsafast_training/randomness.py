"""Random numbers of training: one generator for each (seed, purpose, epoch).

What a seed draws at an epoch depends on nothing that happened before, so that seeds train together
or one by one with the same draws, and a resumed run needs no stored generator state. All are drawn
on the CPU, so that every device gets the same; a step takes them through `from_host`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

Make = Callable[[], Tensor]


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose ("order", "augment", "dropout", ...) at one epoch."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def generators(seeds: Sequence[int], purpose: str, epoch: int = 0) -> list[torch.Generator]:
    """Return one generator a seed."""
    return [generator(seed, purpose, epoch) for seed in seeds]


class Tape:
    """Host values of a recorded step, in memory that stays where it is and is filled anew.

    A recorded step launches what it launched when it was recorded and runs no Python, so whatever
    it takes from the host must lie where it expects it before each replay. First `watch` a step
    that runs, then `play` to the one that is recorded, then `fill` before each replay.
    """

    def __init__(self) -> None:
        self._makes: list[Make] = []
        self._buffers: list[Tensor] = []
        self._mode: Literal["watch", "play"] = "watch"
        self._next = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Let a step draw, and remember what it drew, in which order, and where it was put."""
        self._makes, self._buffers = [], []
        with self._used("watch"):
            yield

    @contextmanager
    def play(self) -> Iterator[None]:
        """Give a step the memory of the one that was watched, and draw nothing."""
        with self._used("play"):
            yield
        if self._next != len(self._buffers):
            raise RuntimeError("a recorded step takes other host values than the one before it")

    def fill(self) -> None:
        """Draw everything again, in order."""
        for make, buffer in zip(self._makes, self._buffers, strict=True):
            buffer.copy_(make())

    def take(self, make: Make, device: torch.device) -> Tensor:
        """Return what `make` gives, or the memory that will hold it."""
        if self._mode == "watch":
            self._makes.append(make)
            self._buffers.append(make().to(device))
        self._next += 1
        return self._buffers[self._next - 1]

    @contextmanager
    def _used(self, mode: Literal["watch", "play"]) -> Iterator[None]:
        self._mode, self._next = mode, 0
        token = _tape.set(self)
        try:
            yield
        finally:
            _tape.reset(token)


_tape: ContextVar[Tape | None] = ContextVar("tape", default=None)


def from_host(make: Make, device: torch.device) -> Tensor:
    """Return the tensor that `make` draws on the CPU, on `device`.

    Where a step is recorded to be replayed, `make` runs again before every replay: it must find
    whatever changes, such as generators, when it is called.
    """
    tape = _tape.get()
    return make().to(device) if tape is None else tape.take(make, device)
