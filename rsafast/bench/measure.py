"""Check, then time: rows and their peers, one after the other in the same process."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from rsafast_kernels.device import cuda_missing

from rsafast.bench.limits import Limits, measure_limits
from rsafast.bench.results import SCHEMA, machine, now, versions
from rsafast.bench.row import Case, Peer, Row, WrongAnswer, absent
from rsafast.progress import track

_MOST, _LEAST = 30, 3
# One run of a case this slow says as much as three of a fast one.
_SLOW = 5.0
# Runnable processes per processor before the run, above which times are those of a loaded machine.
_LOADED = 0.3


def run(
    rows: Sequence[Row], *, compare: bool = False, quick: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Measure rows, and their peers if `compare`, and the limits of the machine.

    Parameters
    ----------
    rows : see `rsafast.bench.rows`.
    compare : also measure what others have, where it is installed.
    quick : 0.3 s a row in place of 1.5 s.
    progress : show a bar on stderr.

    Returns
    -------
    dict
        As docs/benchmarks.md describes. A row whose answer is wrong has "wrong" and no times.
    """
    load = _load()
    kept, left_out = _runnable(rows, compare)
    devices = sorted({row.device for row in kept})
    limits = {device: measure_limits(device, quick=quick) for device in devices}
    seconds = 0.3 if quick else 1.5
    total = sum(1 + len(_peers(row, compare)) for row in kept)
    measured = []
    with track(total, "measuring", progress) as advance:
        for row in kept:
            measured.append(_measured(row, seconds))
            advance(1, row.key)
            for peer in _peers(row, compare):
                found = _with_peer(peer, row, seconds, left_out)
                if found is not None:
                    measured[-1]["peers"].append(found)
                advance(1, f"{row.key}: {peer.name}")
    for device in devices:
        limits[device] = limits[device].best(measure_limits(device, quick=quick))
    for row, found in zip(kept, measured, strict=True):
        _place(found, row, limits[row.device])
    return {
        "schema": SCHEMA,
        "date": now(),
        "machine": machine(devices),
        "versions": versions(),
        "load": load,
        "quick": quick,
        "limits": {device: found.to_dict() for device, found in limits.items()},
        "rows": measured,
        "left_out": left_out,
    }


def _peers(row: Row, compare: bool) -> list[Peer]:
    return [p for p in row.peers if compare and absent(p.needs, p.install) is None]


def _runnable(rows: Sequence[Row], compare: bool) -> tuple[list[Row], list[dict[str, str]]]:
    """Rows that can run here, and what is left out with the reason, each reason once."""
    kept: list[Row] = []
    reasons: dict[tuple[str, str], None] = {}
    for row in rows:
        why = row.missing()
        if why is None:
            kept.append(row)
        else:
            reasons.setdefault((f"{row.kernel}, {row.device}", why), None)
        for peer in row.peers if compare and why is None else ():
            absence = absent(peer.needs, peer.install)
            if absence is not None:
                reasons.setdefault((peer.name, absence), None)
    if any(row.device == "cuda" for row in kept) and (why := cuda_missing("cupy")) is not None:
        kept = [row for row in kept if row.device != "cuda"]
        reasons[("all rows on cuda, whose limits CuPy measures", why)] = None
    return kept, [{"what": what, "why": why} for what, why in reasons]


def _measured(row: Row, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kernel": row.kernel, "name": row.name, "device": row.device, "size": row.size,
        "unit": row.unit, "items": float(row.items), "operations": float(row.work.operations),
        "bytes": float(row.work.bytes), "dtype": row.work.dtype, "peers": [],
        "quoted": [{"name": q.name, "figure": q.figure, "source": q.source} for q in row.quoted],
    }  # fmt: skip
    return found | _timed(row.prepare(), row.items, seconds, row.device)


def _with_peer(
    peer: Peer, row: Row, seconds: float, left_out: list[dict[str, str]]
) -> dict[str, Any] | None:
    try:
        timed = _timed(peer.prepare(), peer.items, seconds, row.device)
    except Exception as error:  # code of others, of any version: it must not end our run
        why = f"failed here: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        left_out.append({"what": f"{peer.name} on {row.key}", "why": why})
        return None
    return {"name": peer.name, "role": peer.role, "items": float(peer.items)} | timed


def _timed(case: Case, items: float, seconds: float, device: str) -> dict[str, Any]:
    """Error, and times of several runs; of a wrong answer only what is wrong."""
    started = time.perf_counter()
    answer = case.run()
    synchronise(device)
    first = time.perf_counter() - started
    try:
        error = case.check(answer)
    except WrongAnswer as wrong:
        return {"wrong": str(wrong)}
    del answer
    times: list[float] = []
    least = 1 if first > _SLOW else _LEAST
    while len(times) < least or (sum(times) < seconds and len(times) < _MOST):
        started = time.perf_counter()
        case.run()
        synchronise(device)
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    spread = {"min": min(times), "median": median, "max": max(times), "repeats": len(times)}
    return {"wrong": None, "error": error, "seconds": spread, "rate": items / median}


def _place(found: dict[str, Any], row: Row, limits: Limits) -> None:
    """Add the bound and the share of it that was reached, and the ratios to peers."""
    bound, seconds = limits.bound(row.work)
    found["bound"], found["bound_seconds"] = bound, seconds
    if found["wrong"] is not None:
        return
    found["fraction"] = seconds / found["seconds"]["median"]
    for peer in found["peers"]:
        if peer["wrong"] is None:
            peer["ratio"] = found["rate"] / peer["rate"]


def synchronise(device: str) -> None:
    """Wait for all that was started on the GPU."""
    if device != "cuda":
        return
    import cupy

    cupy.cuda.Device().synchronize()


def _load() -> dict[str, Any]:
    """Processes that wanted to run in the minute before: the work of others on this machine."""
    if not hasattr(os, "getloadavg"):
        return {"before": None, "loaded": None}
    before = os.getloadavg()[0]
    return {"before": round(before, 2), "loaded": before > _LOADED * (os.cpu_count() or 1)}
