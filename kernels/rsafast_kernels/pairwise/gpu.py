"""Batched RDMs on a GPU: what `triton_.py` is given, and in which pieces.

The metrics are the products of `pairwise_distances` on the CPU, with the same offsets, bounds and
direct recomputation of pairs that cancel. float32 rows are multiplied by tensor cores in several
products of parts (`products`), float64 rows in float64. torch works the rest out on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError
from rsafast_kernels.pairwise import triton_, undefined_row, value_error

__all__ = ["TAU", "Launch", "as_float", "as_kind_of", "distances"]

# Below this share of the two squared norms a distance is made again from the rows in float64. What
# stays has a relative error of the error of the products over the share: near 1e-4 at most (see the
# table in docs/methods.md, which tests hold). float64: as on the CPU.
TAU = {"bf16x3": 2e-2, "bf16x6": 2e-3, "tf32x3": 2e-3, "ieee": 1e-2, "float64": 1e-4}
# Rows this small beside the largest one underflow in the product.
_FLOOR = {torch.float32: 1e-30, torch.float64: 1e-280}
# Programs that keep a large GPU busy (some 130 multiprocessors, two each). A constant, so that
# results depend on the shape alone, and not on the device or on the memory left.
_PROGRAMS = 256
# Rows whose mean is taken off all rows: any common row is right, the mean makes products small.
_SAMPLE = 1024
_SETS = 65_535  # of the third dimension of a grid


@dataclass(frozen=True, slots=True)
class Launch:
    """Rows and columns of a tile, features a step, rows of tiles a band, warps a program."""

    block: int
    step: int
    band: int
    warps: int
    stages: int = 3

    @classmethod
    def of(cls, n: int, sets: int, dtype: torch.dtype, capability: int = 9) -> Launch:
        """Return the largest tile whose products and operands stay in registers.

        A tile of 128 x 128 float32 sums takes 64 registers of each of 256 threads, and the parts
        of its operands most of the others. It loads a byte for 32 operations of each bf16 product,
        where an H200 does some 200 in the time of a byte from memory: bands of 8 rows of tiles
        share what they load in the second-level cache. Steps of 32
        features keep three stages of both operands within the shared memory of sm_80; their
        products are added to the sums rounding to nearest, whatever the tensor cores do inside.
        Tiles of 64 waste less on small sets, fill the GPU when there are few, and are what the
        registers of sm_80, whose tensor cores take every operand from there, hold without spills.
        Checked by compiling for sm_80 and sm_90; not yet timed on a device.
        """
        if dtype == torch.float64:
            return cls(64, 16, 8 if n > 2048 else 1, 8)
        tiles = triton.cdiv(n, 128)
        if capability < 9 or sets * tiles * (tiles + 1) // 2 < _PROGRAMS:
            return cls(64, 32, 8 if n > 2048 else 1, 4)
        return cls(128, 32, 8 if n > 4096 else 1, 8)

    def splits(self, n: int, p: int, sets: int) -> tuple[int, int]:
        """Shares of the features, and features a share, that give the GPU enough programs."""
        tiles, steps = triton.cdiv(n, self.block), triton.cdiv(p, self.step)
        wanted = triton.cdiv(_PROGRAMS, sets * tiles * (tiles + 1) // 2)
        # At least 8 steps a share: a share costs a tile written and read again.
        share = self.step * triton.cdiv(steps, max(1, min(wanted, steps // 8)))
        return triton.cdiv(p, share), share


@dataclass(frozen=True, slots=True)
class _Form:
    """Sets of rows of a metric as inner products; see `triton_` for what the fields mean."""

    left: Tensor
    right: Tensor
    offset: Tensor
    bound: Tensor
    factor: Tensor
    source: Tensor
    width: int
    finish: str
    half: float = 1.0
    again: float = 1.0
    start: int = 0
    parts: int = 1
    form: str = "squares"
    # (k, n), (k, n), (k, n) float64: how rows of `source` are normalised; none if they are
    rows: tuple[Tensor, Tensor, Tensor] | None = None
    # pre, high, low, scale (k, n) and common (k, p): how rows of `left` are; none if they are
    affine: tuple[Tensor, ...] | None = None


def as_float(x: Any) -> Tensor:
    """A tensor that shares the memory of a GPU array; types but float32 are read as float64.

    Raises
    ------
    InvalidInputError
        For complex numbers.
    """
    tensor = x if isinstance(x, Tensor) else torch.from_dlpack(x)
    if tensor.is_complex():
        raise InvalidInputError(f"x must hold real numbers, got dtype {tensor.dtype}")
    return tensor.detach() if tensor.dtype == torch.float32 else tensor.detach().double()


def as_kind_of(x: Any, out: Tensor) -> Any:
    """The tensor as a tensor or CuPy array, as `x` is one; the memory is shared."""
    if isinstance(x, Tensor):
        return out
    import cupy

    return cupy.from_dlpack(out)


def distances(
    x: NDArray[Any] | Tensor,
    metric: str,
    whitener: NDArray[np.float64] | None,
    prior: tuple[float, float],
    products: str,
) -> NDArray[Any] | Tensor:
    """Condensed distances (k, pairs) of sets (k, n, p) or (k, folds, n, p), of the kind of `x`.

    Arrays on the host are copied to the current GPU, and the result back. float32 or float64.
    """
    n = x.shape[-2]
    shape = (len(x), n * (n - 1) // 2)
    if isinstance(x, np.ndarray):
        out = np.empty(shape, x.dtype)
        _fill(_on_host(x), torch.from_numpy(out), metric, whitener, prior, products)
        return out
    result = x.new_empty(shape)
    _fill(x, result, metric, whitener, prior, products)
    return result


def _on_host(x: NDArray[Any]) -> Tensor:
    # torch warns of arrays that may not be written to, though nothing here writes to them.
    return torch.from_numpy(np.require(x, requirements=["C", "A", "W"]))


def _device_of(x: Tensor) -> torch.device:
    interpreted = not isinstance(triton_.products_kernel, triton.JITFunction)
    return x.device if x.is_cuda or interpreted else torch.device("cuda")


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _fill(
    x: Tensor,
    out: Tensor,
    metric: str,
    whitener: NDArray[np.float64] | None,
    prior: tuple[float, float],
    products: str,
) -> None:
    """Fill `out` set by set, and row by row where a set's distances do not fit the memory."""
    device, n = _device_of(x), x.shape[-2]
    wide = metric in ("crossnobis", "poisson")
    dtype = torch.float64 if wide else x.dtype
    capability = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    launch = Launch.of(n, len(x), dtype, capability)

    def of_sets(first: int, last: int) -> None:
        rows = x[first:last].to(device).contiguous()
        _check(rows, x.shape, first, metric)
        form = _formed(rows, metric, whitener, prior, x.shape, first)

        def of_rows(top: int, bottom: int) -> None:
            start, end = (row * n - row * (row + 1) // 2 for row in (top, bottom))
            target = out[first:last, start:end]
            # Distances worked out in float64 from float32 are rounded at the end.
            direct = target.device == device and target.dtype == dtype
            values = target if direct else rows.new_empty(target.shape, dtype=dtype)
            _panel(form, values, top, bottom, launch, len(x), products)
            if not direct:
                target.copy_(values)

        if last - first > 1:
            of_rows(0, n)
        else:
            _in_halves(n, n, launch.block * launch.band, of_rows)

    with _current(device):
        if n > 1:
            _in_halves(len(x), _SETS, 1, of_sets)


def _in_halves(count: int, most: int, least: int, work: Callable[[int, int], None]) -> None:
    """Call work(first, last) over 0..count, `most` at a time, and half as many out of memory."""
    step, first = min(count, most), 0
    while first < count:
        last = min(count, first + step)
        try:
            work(first, last)
        except torch.OutOfMemoryError as error:
            if step <= least:
                raise BackendUnavailableError(
                    "the rows of one set do not fit the memory of the GPU; use device='cpu'"
                ) from error
            step = max(least, step // 2 // least * least)
            torch.cuda.empty_cache()
            _say_once()
        else:
            first = last


@cache
def _say_once() -> None:
    warnings.warn("the GPU is out of memory; RDMs are made in smaller pieces", stacklevel=2)


def _check(rows: Tensor, shape: Sequence[int], first: int, metric: str) -> None:
    """Raise what the CPU raises for values; `rows` are the sets from `first` on."""
    if metric == "poisson" and bool((rows < 0).any()):
        bad = rows < 0
    elif not bool(torch.isfinite(torch.stack(torch.aminmax(rows))).all()):
        bad = ~torch.isfinite(rows)
    else:
        return
    at = int(bad.flatten().to(torch.uint8).argmax())
    value = rows.flatten()[at].item()
    raise value_error(shape, first * rows[0].numel() + at, value)


def _formed(
    rows: Tensor,
    metric: str,
    whitener: NDArray[np.float64] | None,
    prior: tuple[float, float],
    shape: Sequence[int],
    first: int,
) -> _Form | Tensor:
    """The metric as inner products; for city block, which has none, the rows, features first."""
    if metric == "cityblock":
        return rows.transpose(1, 2).contiguous()
    if metric == "poisson":
        return _poisson(rows, *prior)
    if metric == "crossnobis":
        return _crossnobis(rows, whitener)
    if metric in ("correlation", "cosine"):
        return _unit(rows, metric, shape, first)
    return _squared(rows, metric, whitener)


def _inverse_power(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """Powers of two near 1 / magnitude, float64, that both dtypes hold; 1 for 0."""
    limit = 126 if dtype == torch.float32 else 1000
    exponent = torch.frexp(magnitude)[1].clamp(-limit, limit)
    power = ((1023 - exponent.long()) << 52).view(torch.float64)
    return torch.where(magnitude > 0, power, 1.0)


def _largest(rows: Tensor, dims: int) -> Tensor:
    """Largest magnitude over the last dimensions."""
    flat = rows.flatten(-dims)
    low, high = torch.aminmax(flat, dim=-1)
    return torch.maximum(high, -low)


def _unit(rows: Tensor, metric: str, shape: Sequence[int], first: int) -> _Form:
    """1 - cos of rows as half the squared distance of unit vectors."""
    k, n, p = rows.shape
    low, high = torch.aminmax(rows, dim=-1)
    flat = low == high if metric == "correlation" else (low == 0) & (high == 0)
    if bool(flat.any()):
        one_set, row = divmod(int(flat.flatten().to(torch.uint8).argmax()), n)
        raise undefined_row(shape, first + one_set, row, metric)
    pre = _inverse_power(torch.maximum(high, -low), rows.dtype)
    shift, scale = torch.empty_like(pre), torch.empty_like(pre)
    block = min(1024, triton.next_power_of_2(p))
    triton_.unit_kernel[(k * n,)](
        rows, pre, shift, scale, p, CENTRE=metric == "correlation", BLOCK=block
    )
    return _affine(rows, rows, (pre, shift, scale), "unit")


def _squared(rows: Tensor, metric: str, whitener: NDArray[np.float64] | None) -> _Form:
    k, n, _ = rows.shape
    pre = _inverse_power(_largest(rows, 2), rows.dtype)
    source = rows
    factor = 1.0 / pre
    if whitener is not None:
        source = _whitened(rows, whitener)
        power = _inverse_power(_largest(source, 2), torch.float64)
        source *= power[:, None, None]
        pre, factor = torch.ones_like(pre), 1.0 / power
    pre = pre[:, None].expand(k, n).contiguous()
    given = (pre, torch.zeros_like(pre), torch.ones_like(pre))
    finish = "square" if metric == "sqeuclidean" else "root"
    return _affine(source.to(rows.dtype), source, given, finish, factor)


def _whitened(rows: Tensor, whitener: NDArray[np.float64] | None) -> Tensor:
    """Rows, float64, whose squared distance is d' P d; centred first, as offsets cost digits."""
    wide = rows.double()
    if whitener is None:
        return wide
    wide = wide - wide.mean(dim=-2, keepdim=True)
    return wide @ torch.from_numpy(whitener).to(rows.device)


def _affine(
    left: Tensor,
    source: Tensor,
    given: tuple[Tensor, Tensor, Tensor],
    finish: str,
    factor: Tensor | None = None,
) -> _Form:
    """Squared distances of rows that are centred and scaled (`given`) as they are loaded."""
    k, n, p = left.shape
    pre, shift, scale = given
    high = shift.to(left.dtype)
    low = (shift - high).to(left.dtype)
    parts = (pre.to(left.dtype), high, low, scale.to(left.dtype))
    common = left.new_empty(k, p)
    triton_.common_kernel[(triton.cdiv(p, 64), k)](
        left, *parts, common, n, p, max(1, n // _SAMPLE), ROWS=32, BK=64
    )
    half = 0.5 if finish == "unit" else 1.0
    norms = left.new_empty(k, n)
    triton_.norms_kernel[(triton.cdiv(n, 32), k)](
        left, *parts, common, norms, n, p, HALF=half, ROWS=32, BK=64
    )
    return _Form(
        left, left, norms, norms, _factor(factor, left), source, p, finish, half=half,
        rows=given, affine=(*parts, common),
    )  # fmt: skip


def _factor(factor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_ones(len(like)) if factor is None else factor.to(like.dtype)


def _crossnobis(rows: Tensor, whitener: NDArray[np.float64] | None) -> _Form:
    """With S the sum of the folds, the products are S S' - sum of X_m X_m', in float64."""
    k, folds, n, p = rows.shape
    z = _whitened(rows, whitener).transpose(1, 2).reshape(k, n, folds * p)
    z = z - z.mean(dim=1, keepdim=True)
    power = _inverse_power(_largest(z, 2), torch.float64)
    z *= power[:, None, None]
    total = z.view(k, n, folds, p).sum(dim=2)
    squares, squared_total = (z * z).sum(dim=2), (total * total).sum(dim=2)
    left, right = torch.cat([total, z], dim=2), torch.cat([total, -z], dim=2)
    return _Form(
        left, right, squared_total - squares, squared_total + squares, 1.0 / power, left,
        folds * p, "square", again=1.0 / (folds * (folds - 1)), start=p, parts=folds, form="folds",
    )  # fmt: skip


def _poisson(rows: Tensor, prior_lambda: float, prior_weight: float) -> _Form:
    """Sum of (rate_i - rate_j) (log_i - log_j): products of [rate, log] with [log, rate]."""
    rates = (rows.double() + prior_lambda * prior_weight) / (1 + prior_weight)
    logs = torch.log(rates)
    rates, logs = (v - v.mean(dim=1, keepdim=True) for v in (rates, logs))
    sizes = [torch.linalg.vector_norm(v, dim=(1, 2)) for v in (rates, logs)]
    # Rates and logs of one size, so that the norms bound the products tightly.
    balance = torch.sqrt(sizes[1] / sizes[0])
    balance = torch.where((sizes[0] > 0) & (sizes[1] > 0), balance, 1.0)[:, None, None]
    rates, logs = rates * balance, logs / balance
    bound = (rates * rates + logs * logs).sum(dim=2)
    left = torch.cat([rates, logs], dim=2)
    return _Form(
        left, torch.cat([logs, rates], dim=2), (rates * logs).sum(dim=2), bound,
        _factor(None, left), left, left.shape[2], "square", half=0.5, parts=2, form="products",
    )  # fmt: skip


def _panel(
    form: _Form | Tensor,
    out: Tensor,
    top: int,
    bottom: int,
    launch: Launch,
    all_sets: int,
    products: str,
) -> None:
    """Distances (k, pairs) of the rows top..bottom with those after them."""
    k, n = out.shape[0], (form.shape[2] if isinstance(form, Tensor) else form.left.shape[1])
    tiles, high = triton.cdiv(n, launch.block), launch.block * launch.band
    first, last = top // high, triton.cdiv(bottom, high)
    cells = launch.band * sum(tiles - band * launch.band for band in range(first, last))
    first_pair = top * n - top * (top + 1) // 2
    place = (n, bottom, tiles, first, last, first_pair, out.stride(0))
    if isinstance(form, Tensor):
        p = form.shape[1]
        triton_.cityblock_kernel[(cells, 1, k)](
            form, out, n, p, *place[1:], BLOCK=min(launch.block, 64), BK=64, BAND=launch.band,
            num_warps=4,
        )  # fmt: skip
        return
    p = form.left.shape[2]
    splits, share = launch.splits(n, p, all_sets)
    near = torch.zeros((k, cells), dtype=torch.int32, device=out.device)
    partial = form.left.new_empty((k, splits, cells, launch.block**2) if splits > 1 else 1)
    options = finish_options(form.finish, form.half, form.again, out.dtype, products)
    options |= {"BOUNDED": form.bound is not form.offset, "BLOCK": launch.block}
    affine = form.affine or (form.left,) * 5
    ends = (form.offset, form.bound, form.factor, out, near)
    triton_.products_kernel[(cells, splits, k)](
        form.left, form.right, *affine, *ends, partial, n, p, *place[1:5], share, *place[5:],
        **options, AFFINE=form.affine is not None, SPLIT=splits > 1,
        PRECISION=_input_precision(products, out.dtype), BK=launch.step, BAND=launch.band,
        num_warps=launch.warps, num_stages=launch.stages,
    )  # fmt: skip
    if splits > 1:
        triton_.finish_kernel[(cells, 1, k)](
            *ends, partial, *place, splits, **options, BAND=launch.band, num_warps=8
        )
    _make_near(form, out, near, place, launch)


def finish_options(
    finish: str, half: float, again: float, dtype: torch.dtype, products: str
) -> dict[str, Any]:
    """Compile-time arguments of the end of a tile."""
    tau = TAU["float64" if dtype == torch.float64 else products]
    # Products of rates and logs do not underflow: their norms are of one size.
    return {"HALF": half, "TAU": tau, "FLOOR": _FLOOR[dtype], "AGAIN": again, "FINISH": finish}


def _input_precision(products: str, dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies; the interpreter, which has no parts of float32, takes it whole."""
    interpreted = not isinstance(triton_.products_kernel, triton.JITFunction)
    return "ieee" if interpreted or dtype == torch.float64 else products


def _make_near(
    form: _Form, out: Tensor, near: Tensor, place: tuple[int, ...], launch: Launch
) -> None:
    """Make the pairs that cancelled from their rows, in float64."""
    given = form.rows or (form.factor,) * 3
    stride, rows = form.source.shape[2], min(16, launch.block)
    triton_.near_kernel[(near.shape[1], launch.block // rows, len(near))](
        form.source[..., form.start :], *given, form.factor, out, near,
        place[0], form.width, stride, *place[1:],
        AFFINE=form.rows is not None, FORM=form.form, PARTS=form.parts, HALF=form.half,
        AGAIN=form.again, FINISH=form.finish, BLOCK=launch.block, BAND=launch.band, ROWS=rows,
        BK=16, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
