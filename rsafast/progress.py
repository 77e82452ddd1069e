"""Progress bars on long work: shown on stderr, after a second, with rate and time left."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PATIENCE = 1.0  # seconds of work before a bar appears


class Advance(Protocol):
    """Call it with the number of items done since its last call, and perhaps a short note."""

    def __call__(self, items: int, note: str = "") -> None:
        """Move the bar."""


@contextmanager
def track(total: int, what: str, enabled: bool) -> Iterator[Advance]:
    """Yield a function to call with the number of items done since its last call."""
    if not enabled or not sys.stderr.isatty():
        yield lambda items, note="": None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total, rate="", note="")
    start, shown, done = time.monotonic(), False, 0

    def advance(items: int, note: str = "") -> None:
        nonlocal shown, done
        done += items
        elapsed = time.monotonic() - start
        if not shown and elapsed > _PATIENCE:
            bar.start()
            shown = True
        if shown:
            bar.update(task, completed=done, rate=f"{done / elapsed:,.0f}/s", note=note)

    try:
        yield advance
    finally:
        if shown:
            bar.stop()


class Share:
    """Progress of items that are done together, told in shares of the work; one is of `items`."""

    def __init__(self, advance: Advance, items: float) -> None:
        self._advance, self._items, self._done, self._told = advance, items, 0.0, 0

    def __call__(self, share: float) -> None:
        """So much more of the work is done."""
        self._done += share * self._items
        whole = round(self._done) - self._told
        self._told += whole
        self._advance(whole)
