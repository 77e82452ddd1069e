"""Rows of `rsafast.bench` and their peers, as parameters of pytest-benchmark modules."""

from collections.abc import Iterator
from typing import Any

import pytest

from rsafast.bench import Case, Row, rows
from rsafast.bench.measure import synchronise
from rsafast.bench.row import absent


def providers(kernel: str) -> list[Any]:
    """(row, its own case or a peer) of a kernel; the ids are the names of both."""
    return [
        pytest.param(row, provider, id=f"{row.name}, {row.device}-{name}")
        for row in rows([kernel], scale="default")
        for name, provider in _of(row)
    ]


def _of(row: Row) -> Iterator[tuple[str, Any]]:
    yield "rsafast", row
    yield from ((peer.name, peer) for peer in row.peers)


def measure(benchmark: Any, row: Row, provider: Any) -> None:
    """Check the answer, then time it; skip what cannot run here."""
    why = row.missing()
    if why is None and provider is not row:
        why = absent(provider.needs, provider.install)
    if why is not None:
        pytest.skip(why)
    case: Case = provider.prepare()

    def run() -> Any:
        answer = case.run()
        synchronise(row.device)
        return answer

    benchmark.extra_info["error"] = case.check(run())
    benchmark.pedantic(run, rounds=5)
    if benchmark.stats:
        benchmark.extra_info["rate"] = provider.items / benchmark.stats.stats.median
