"""Random numbers of training: one generator for each (seed, purpose, epoch).

What a seed draws at an epoch depends on nothing that happened before, so that seeds train together
or one by one with the same draws, and a resumed run needs no stored generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose ("order", "augment", "dropout", ...) at one epoch."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def generators(seeds: Sequence[int], purpose: str, epoch: int = 0) -> list[torch.Generator]:
    """Return one generator a seed."""
    return [generator(seed, purpose, epoch) for seed in seeds]
