"""Bootstrap draws: which stimuli, subjects or seeds a resample holds, and how often."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

# Streams of the seed's random numbers, one a factor that is resampled.
STIMULI, SUBJECTS, SEEDS = 0, 1, 2
MOST_GROUPS = 128
_GROUPS_STREAM = 3_000
_CHUNK = 256  # draws that share a generator, so that any part can be drawn anywhere


def draw_counts(seed: int, stream: int, items: int, start: int, stop: int) -> Counts:
    """Counts (stop - start, items) of draws number `start` to `stop`, with replacement.

    The same numbers whatever the part asked for: chunk c is drawn by a Philox generator keyed by
    (seed, stream, items, c).
    """
    parts = [
        _chunk(seed, stream, items, chunk)
        for chunk in range(start // _CHUNK, (stop + _CHUNK - 1) // _CHUNK)
    ]
    drawn = np.concatenate(parts) if parts else np.empty((0, items), np.int64)
    first = start // _CHUNK * _CHUNK
    return drawn[start - first : stop - first]


def _chunk(seed: int, stream: int, items: int, chunk: int) -> Counts:
    keys = np.random.SeedSequence([seed, stream, items, chunk])
    drawn = np.random.Generator(np.random.Philox(keys)).integers(0, items, (_CHUNK, items))
    return counts_of(drawn, items)


def counts_of(drawn: NDArray[np.integer], items: int) -> Counts:
    """Counts (R, items) of drawn indices (R, any number)."""
    rows = np.arange(len(drawn))[:, None] * items
    return np.bincount((drawn + rows).ravel(), minlength=len(drawn) * items).reshape(-1, items)


def jackknife_counts(seed: int, items: int) -> Counts:
    """Counts (groups, items) of a jackknife: 0 for the group left out, 1 for all others.

    Each item is a group of its own; more than 128 items are dealt at random into 128 groups of
    nearly equal size, because every evaluation costs more than two resamples of a bootstrap.
    """
    groups = np.arange(items)
    if items > MOST_GROUPS:
        keys = np.random.SeedSequence([seed, _GROUPS_STREAM, items])
        order = np.random.Generator(np.random.Philox(keys)).permutation(items)
        groups = groups[order] % MOST_GROUPS
    return (np.arange(groups.max() + 1)[:, None] != groups).astype(np.int64)


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Split 0..total into parts (start, stop) of at most `size`."""
    for start in range(0, total, size):
        yield start, min(start + size, total)
