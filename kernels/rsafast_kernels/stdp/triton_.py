# mypy: disallow-untyped-defs=False
"""STDP on the GPU: traces scanned inside the product of the two trains (Triton).

Each program owns a tile of synapses (output channels x inputs of a kernel window) and a share of
the positions (sample, row, column), the contracted axis. It keeps the traces of a block of
positions in registers, walks through time once, and adds two products a step,

    sums += post[t] @ pre_trace[t]^T - post_trace[t] @ pre[t]^T,

so that neither traces nor windows of the input reach memory. A second kernel adds the shares in a
fixed order and applies the bounds. A dense layer is the case of one position a sample. Time steps
are addressed with 64 bits, what is inside one with 32.

Tensor cores round every sum towards zero (Fasi et al. 2021, PeerJ Comput. Sci. 7: e330), so that
long ones drift: in an emulation of 330,000 terms to 3e-4 of LTP, where float32 units err by 9e-6.
So they add up one step of a block only, and float32 units the steps, which the same emulation finds
as good as float32 units alone. No kernel of this module has run on a GPU yet.

The order of sums, and with it every bit, depends on shapes and precision alone: tiles and shares
are no matter of the device, and what may be tuned on one (RSAFAST_TUNE=1) moves no sum.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from rsafast_kernels.errors import UnsupportedCaseError
from rsafast_kernels.stdp.geometry import Geometry
from rsafast_kernels.stdp.rule import STDP

PROGRAMS = 2 * 132  # two for each multiprocessor of an H100, where there is work for as many
# Positions of a block: more would spill registers on sm_80.
BK = {"ieee": 16, "tf32x3": 16, "bf16x3": 16, "tf32": 16, "exact": 32}
LARGEST = 2**31 - 2**16  # values of one time step; blocks may reach beyond its end


@triton.jit
def _half(x, WIDE: tl.constexpr):
    # Triton's interpreter computes wrong in bfloat16, silently, and multiplies what fits in it.
    return x if WIDE else x.to(tl.bfloat16)


@triton.jit
def _head(x):
    """The leading 8 bits of a mantissa: what bfloat16 holds."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _parts(trace, WIDE: tl.constexpr):
    """Three numbers of 8 bits whose sum is the trace, the largest first."""
    first = _head(trace)
    second = _head(trace - first)
    return _half(first, WIDE), _half(second, WIDE), _half(trace - first - second, WIDE)


@triton.jit
def _step_products(pre, post, x, y, PRECISION: tl.constexpr, WIDE: tl.constexpr):
    """One step's sums of LTP and LTD before their amplitudes, (BM, BN), on tensor cores."""
    if PRECISION == "exact":  # spikes are whole numbers up to 255, which 8 bits hold
        spikes = _half(post, WIDE)
        first, second, third = _parts(x, WIDE)
        plus = tl.dot(spikes, tl.trans(third))
        plus = tl.dot(spikes, tl.trans(second), plus)
        plus = tl.dot(spikes, tl.trans(first), plus)
        spikes = tl.trans(_half(pre, WIDE))
        first, second, third = _parts(y, WIDE)
        minus = tl.dot(third, spikes)
        minus = tl.dot(second, spikes, minus)
        minus = tl.dot(first, spikes, minus)
    else:
        plus = tl.dot(post, tl.trans(x), input_precision=PRECISION)
        minus = tl.dot(y, tl.trans(pre), input_precision=PRECISION)
    return plus, minus


@triton.jit
def _step_sums(
    pre, post, x, y, sums, sums_minus, decay_plus, decay_minus, a_plus, a_minus,
    TIE_PLUS: tl.constexpr, TIE_MINUS: tl.constexpr, NEAREST: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One time step: pre (BN, BK), post (BM, BK) and their traces x, y; returns traces and sums."""
    x_seen = x * decay_plus
    y_seen = y * decay_minus
    if NEAREST:
        x = tl.where(pre != 0, pre, x_seen)
        y = tl.where(post != 0, post, y_seen)
    else:
        x = x_seen + pre
        y = y_seen + post
    if TIE_PLUS:
        x_seen = x
    if TIE_MINUS:
        y_seen = y
    if PRECISION != "ieee":
        plus, minus = _step_products(pre, post, x_seen, y_seen, PRECISION, WIDE)
        sums += a_plus * plus
        if SPLIT:
            sums_minus += a_minus * minus
        else:
            sums -= a_minus * minus
    else:
        sums = tl.dot(post, tl.trans(a_plus * x_seen), sums, input_precision="ieee")
        if SPLIT:
            sums_minus = tl.dot(a_minus * y_seen, tl.trans(pre), sums_minus, input_precision="ieee")
        else:
            sums = tl.dot(-a_minus * y_seen, tl.trans(pre), sums, input_precision="ieee")
    return x, y, sums, sums_minus


@triton.jit
def pair_sums_kernel(
    pre_ptr, post_ptr, partial_ptr, steps, samples, blocks_per_split,
    decay_plus, decay_minus, a_plus, a_minus,
    GROUPS: tl.constexpr, C_IN: tl.constexpr, C_OUT: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, H_OUT: tl.constexpr, W_OUT: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    TIE_PLUS: tl.constexpr, TIE_MINUS: tl.constexpr, NEAREST: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Partial sums (splits, 1 + SPLIT, GROUPS * C_OUT, C_IN * KH * KW) of LTP and LTD."""
    SYNAPSES: tl.constexpr = C_IN * KH * KW
    PIXELS: tl.constexpr = H_OUT * W_OUT
    tiles_n = tl.cdiv(SYNAPSES, BN)
    group = tl.program_id(1)
    split = tl.program_id(2)
    m = tl.program_id(0) // tiles_n * BM + tl.arange(0, BM)
    n = tl.program_id(0) % tiles_n * BN + tl.arange(0, BN)
    in_m, in_n = m < C_OUT, n < SYNAPSES
    channel, kh, kw = n // (KH * KW), n // KW % KH, n % KW
    pre_step = samples.to(tl.int64) * (GROUPS * C_IN * H * W)
    post_step = samples.to(tl.int64) * (GROUPS * C_OUT * PIXELS)

    sums = tl.zeros((BM, BN), tl.float32)
    sums_minus = tl.zeros((BM, BN), tl.float32)
    for block in range(split * blocks_per_split, (split + 1) * blocks_per_split):
        k = block * BK + tl.arange(0, BK)
        sample, pixel = k // PIXELS, k % PIXELS
        in_k = sample < samples
        row = (pixel // W_OUT * STRIDE_H - PAD_H)[None, :] + kh[:, None]
        column = (pixel % W_OUT * STRIDE_W - PAD_W)[None, :] + kw[:, None]
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
        pre_at = sample[None, :] * (GROUPS * C_IN) + (group * C_IN + channel)[:, None]
        pre_at = (pre_at * H + row) * W + column
        post_at = sample[None, :] * (GROUPS * C_OUT) + (group * C_OUT + m)[:, None]
        post_at = post_at * PIXELS + pixel[None, :]
        pre_mask = inside & in_n[:, None] & in_k[None, :]
        post_mask = in_m[:, None] & in_k[None, :]
        x = tl.zeros((BN, BK), tl.float32)
        y = tl.zeros((BM, BK), tl.float32)
        for t in range(steps):
            pre = tl.load(pre_ptr + t * pre_step + pre_at, mask=pre_mask, other=0)
            post = tl.load(post_ptr + t * post_step + post_at, mask=post_mask, other=0)
            x, y, sums, sums_minus = _step_sums(
                pre.to(tl.float32), post.to(tl.float32), x, y, sums, sums_minus,
                decay_plus, decay_minus, a_plus, a_minus,
                TIE_PLUS, TIE_MINUS, NEAREST, SPLIT, PRECISION, WIDE,
            )  # fmt: skip

    SIZE: tl.constexpr = GROUPS * C_OUT * SYNAPSES
    to = partial_ptr + split.to(tl.int64) * (1 + SPLIT) * SIZE
    to += (group * C_OUT + m)[:, None] * SYNAPSES + n[None, :]
    tl.store(to, sums, mask=in_m[:, None] & in_n[None, :])
    if SPLIT:
        tl.store(to + SIZE, sums_minus, mask=in_m[:, None] & in_n[None, :])


@triton.jit
def _power(x, exponent: tl.constexpr):
    """x**exponent of x >= 0, for a positive exponent."""
    return tl.where(x > 0, tl.exp2(exponent * tl.log2(tl.maximum(x, 1e-38))), 0.0)


@triton.jit
def finish_kernel(
    partial_ptr, weight_ptr, change_ptr, splits, scale, w_min, w_max,
    SIZE: tl.constexpr, BOUNDS: tl.constexpr, MU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add the splits in order, scale, and apply the bounds; weight and change are flat (SIZE,)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < SIZE
    TERMS: tl.constexpr = 2 if BOUNDS == "soft" else 1
    total = tl.zeros((BLOCK,), tl.float32)
    minus = tl.zeros((BLOCK,), tl.float32)
    at = partial_ptr + i
    for _ in range(splits):
        total += tl.load(at, mask=mask, other=0.0)
        if BOUNDS == "soft":
            minus += tl.load(at + SIZE, mask=mask, other=0.0)
        at += TERMS * SIZE
    change = total * scale
    if BOUNDS != "none":
        w = tl.load(weight_ptr + i, mask=mask, other=0.0)
        room, height = tl.maximum(w_max - w, 0.0), tl.maximum(w - w_min, 0.0)
        if BOUNDS == "product":
            change = change * (height * room)
        if BOUNDS == "soft":
            if MU != 1:  # nor 0: that is "hard"
                room, height = _power(room, MU), _power(height, MU)
            change = room * change - height * (minus * scale)
        change = tl.minimum(tl.maximum(change, w_min - w), w_max - w)
    tl.store(change_ptr + i, change, mask=mask)


@dataclass(frozen=True, slots=True)
class Launch:
    """Tile of synapses (bm outputs x bn inputs) and of positions (bk); warps and stages of loads.

    `blocks` of positions go to each of `splits` programs.
    """

    bm: int
    bn: int
    bk: int
    blocks: int
    splits: int
    warps: int
    stages: int

    @classmethod
    def of(cls, geometry: Geometry, samples: int, precision: str) -> "Launch":
        """Return the largest tile whose registers do not spill, or less for small layers.

        Found by compiling for sm_80 and sm_90 in every precision; not yet timed on a device.
        """
        c_out, synapses = rows_and_synapses(geometry)
        bm = min(64, max(16, triton.next_power_of_2(c_out)))
        bn = min(64, max(16, triton.next_power_of_2(synapses)))
        bk = BK[precision]
        tiles = triton.cdiv(c_out, bm) * triton.cdiv(synapses, bn) * geometry.groups
        parts = triton.cdiv(samples * geometry.out_size[0] * geometry.out_size[1], bk)
        splits = max(1, min(parts, triton.cdiv(PROGRAMS, tiles)))
        blocks = triton.cdiv(parts, splits)
        warps = 8 if bm * bn == 64 * 64 else 4
        return cls(bm, bn, bk, blocks, triton.cdiv(parts, blocks), warps, 2)

    def variants(self) -> list["Launch"]:
        """Return what else may be tried: no variant changes the order of a sum."""
        return [replace(self, warps=w, stages=s) for w in (4, 8) for s in (1, 2, 3)]


def rows_and_synapses(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of the weight matrix of one group."""
    c_out, c_in, kh, kw = geometry.weight_shape
    return c_out // geometry.groups, c_in * kh * kw


def runs_on(device: str) -> bool:
    """Whether the kernels run on tensors of this device: CUDA, or any in Triton's interpreter."""
    return device == "cuda" or interpreted()


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return not isinstance(pair_sums_kernel, triton.JITFunction)


def constants(rule: STDP, geometry: Geometry, precision: str, launch: Launch) -> dict[str, object]:
    """Compile-time arguments of `pair_sums_kernel`."""
    c_out = geometry.weight_shape[0] // geometry.groups
    return {
        "GROUPS": geometry.groups, "C_IN": geometry.weight_shape[1], "C_OUT": c_out,
        "H": geometry.in_size[0], "W": geometry.in_size[1],
        "H_OUT": geometry.out_size[0], "W_OUT": geometry.out_size[1],
        "KH": geometry.weight_shape[2], "KW": geometry.weight_shape[3],
        "STRIDE_H": geometry.stride[0], "STRIDE_W": geometry.stride[1],
        "PAD_H": geometry.padding[0], "PAD_W": geometry.padding[1],
        "TIE_PLUS": rule.ties in ("both", "ltp"), "TIE_MINUS": rule.ties in ("both", "ltd"),
        "NEAREST": rule.pairing == "nearest", "SPLIT": rule.is_split,
        "PRECISION": precision, "WIDE": interpreted(),
        "BM": launch.bm, "BN": launch.bn, "BK": launch.bk,
    }  # fmt: skip


def weight_change(
    pre: Tensor,
    post: Tensor,
    weight: Tensor,
    rule: STDP,
    geometry: Geometry,
    scale: float,
    precision: str,
) -> Tensor:
    """Weight change of contiguous trains (T, N, C, H, W), uint8 or float32."""
    largest = max(pre[:1].numel(), post[:1].numel(), weight.numel())
    if largest > LARGEST:
        raise UnsupportedCaseError(
            f"a time step or weight of {largest} values exceeds the {LARGEST} that "
            "backend='triton' addresses; use smaller batches"
        )
    steps, samples = pre.shape[:2]
    rows, synapses = rows_and_synapses(geometry)
    usual = Launch.of(geometry, samples, precision)
    partial = weight.new_empty(usual.splits, 1 + rule.is_split, len(weight), synapses)

    def run(launch: Launch) -> None:
        tiles = triton.cdiv(rows, launch.bm) * triton.cdiv(synapses, launch.bn)
        pair_sums_kernel[(tiles, geometry.groups, launch.splits)](
            pre, post, partial, steps, samples, launch.blocks,
            *rule.decays, rule.a_plus, rule.a_minus,
            **constants(rule, geometry, precision, launch),
            num_warps=launch.warps, num_stages=launch.stages, enable_fp_fusion=True,
        )  # fmt: skip

    if os.environ.get("RSAFAST_TUNE") == "1":
        key = (geometry, samples, steps, precision, pre.dtype, rule.is_split, weight.device)
        run(fastest(key, usual.variants(), run))
    else:
        run(usual)
    splits = usual.splits
    weight = weight.contiguous()
    change = torch.empty_like(weight)
    block = 256
    finish_kernel[(triton.cdiv(weight.numel(), block),)](
        partial, weight, change, splits, scale, rule.w_min, rule.w_max,
        SIZE=weight.numel(), BOUNDS=rule.bounds, MU=rule.mu, BLOCK=block,
        enable_fp_fusion=True,
    )  # fmt: skip
    return change


_fastest: dict[object, Launch] = {}


def fastest(key: object, variants: list[Launch], run: Callable[[Launch], None]) -> Launch:
    """Variant that takes the least time, measured when `key` first comes up in this process.

    While a CUDA graph is captured nothing can be measured: then it is the first one.
    """
    if key in _fastest:
        return _fastest[key]
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return variants[0]
    times = {launch: triton.testing.do_bench(lambda launch=launch: run(launch), warmup=5, rep=20)
             for launch in variants}  # fmt: skip
    _fastest[key] = min(times, key=lambda launch: times[launch])
    return _fastest[key]
