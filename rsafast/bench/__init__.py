"""What `rsafast bench` measures: every kernel on stated sizes, checked before it is timed.

`rows` lists what is measured, `run` measures it here. `benchmarks/bench_*.py` time the same rows
with pytest-benchmark, so that one place says what a benchmark is.
"""

from rsafast.bench.registry import KERNELS, rows
from rsafast.bench.row import Case, Peer, Quoted, Row, Work, WrongAnswer

__all__ = ["KERNELS", "Case", "Peer", "Quoted", "Row", "Work", "WrongAnswer", "rows"]
