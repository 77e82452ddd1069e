# mypy: disallow-untyped-defs=False
"""Tiles of distances on the GPU (Triton): sets x upper tiles in one grid, condensed output.

A program makes one tile of products g_ij of rows z of one set, or of a share of its features, and
turns it into distances: value = (offset_i - half g_ij) + (offset_j - half g_ij). Where offset and
product cancel, what is in brackets is exact. Rows are centred and normalised as they are loaded,

    z_ik = ((x_ik pre_i - high_i) - low_i) scale_i - common_k,

with the mean of the row in two parts, so that a large offset costs no digits, and with a common row
taken off all of them, which changes no distance. Pairs that still cancel are marked (NaN) and made
again from the rows in float64 by `near_kernel`. Sets (k, n, p) are contiguous; positions in memory
are counted in 64 bits.
"""

import triton
import triton.language as tl


@triton.jit
def _tile_of(cell, tiles, top, bottom, BAND: tl.constexpr):
    """Row and column of tiles of a cell: some cells of a band lie below the diagonal.

    Bands top..bottom of BAND rows of tiles start at their diagonal; the k-th from the top and the
    k-th from the bottom are together as wide as any other two, so that division finds the place.
    Neighbouring cells share their column: rows loaded by one are found in the cache by the next.
    """
    at = cell // BAND
    width = 2 * tiles - (top + bottom - 1) * BAND
    fold, along = at // width, at % width
    upper = tiles - (top + fold) * BAND
    band = tl.where(along < upper, top + fold, bottom - 1 - fold)
    column = band * BAND + tl.where(along < upper, along, along - upper)
    return band * BAND + cell % BAND, column


@triton.jit
def _normalised(x, pre, high, low, scale):
    return ((x * pre - high) - low) * scale


@triton.jit
def _load_rows(
    x_ptr, pre_ptr, high_ptr, low_ptr, scale_ptr, common_ptr, one_set, i, k, n, p,
    AFFINE: tl.constexpr,
):  # fmt: skip
    """Rows i of one set at the features k, (rows, features); 0 beyond the last feature."""
    at = one_set.to(tl.int64) * n + i
    inside = (i < n)[:, None] & (k < p)[None, :]
    z = tl.load(x_ptr + at[:, None] * p + k[None, :], mask=inside, other=0.0)
    if AFFINE:
        pre = tl.load(pre_ptr + at, mask=i < n, other=0.0)[:, None]
        high = tl.load(high_ptr + at, mask=i < n, other=0.0)[:, None]
        low = tl.load(low_ptr + at, mask=i < n, other=0.0)[:, None]
        scale = tl.load(scale_ptr + at, mask=i < n, other=0.0)[:, None]
        common = tl.load(common_ptr + one_set.to(tl.int64) * p + k, mask=k < p, other=0.0)[None, :]
        z = tl.where((k < p)[None, :], _normalised(z, pre, high, low, scale) - common, 0.0)
    return z


@triton.jit
def _first_pair(i, n):
    """Where row i starts in squareform order, less i + 1: the pair (i, j) lies j further."""
    i = i.to(tl.int64)
    return i * n - i * (i + 1) // 2 - i - 1


@triton.jit
def _tile_at(out_ptr, one_set, first, i, j, n, first_pair, pairs):
    """Where the pairs of rows i (`first` on) and j lie: 64 bits to the first, 32 from there."""
    start = _first_pair(first, n)
    down = (_first_pair(i, n) - start).to(tl.int32)
    to = out_ptr + one_set.to(tl.int64) * pairs + (start - first_pair)
    return to + (down[:, None] + j[None, :])


@triton.jit
def _scaled(value, factor, AGAIN: tl.constexpr, FINISH: tl.constexpr):
    """The distance of a value: "root", "square" or, at most 2, "unit"."""
    if FINISH == "root":
        return tl.sqrt(tl.maximum(value, 0.0)) * factor
    if FINISH == "unit":
        return tl.minimum(value, 2.0)
    return value * factor * factor * AGAIN


@triton.jit
def _finish_half(
    g, j, offset_ptr, bound_ptr, factor_ptr, out_ptr, one_set, row, n, row_end, first_pair, pairs,
    BOUNDED: tl.constexpr, HALF: tl.constexpr, TAU: tl.constexpr, FLOOR: tl.constexpr,
    AGAIN: tl.constexpr, FINISH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the distances of rows of a tile with the rows j; whether any cancelled."""
    i = row * BLOCK + tl.arange(0, BLOCK)
    base = one_set.to(tl.int64) * n
    offset_i = tl.load(offset_ptr + base + i, mask=i < n, other=0.0)[:, None]
    offset_j = tl.load(offset_ptr + base + j, mask=j < n, other=0.0)[None, :]
    bound = offset_i + offset_j
    if BOUNDED:
        bound_i = tl.load(bound_ptr + base + i, mask=i < n, other=0.0)[:, None]
        bound = bound_i + tl.load(bound_ptr + base + j, mask=j < n, other=0.0)[None, :]
    value = (offset_i - HALF * g) + (offset_j - HALF * g)
    far = tl.abs(value) >= tl.maximum(TAU * bound, FLOOR)
    kept = (i[:, None] < j[None, :]) & (j < n)[None, :] & (i < row_end)[:, None]
    value = _scaled(value, tl.load(factor_ptr + one_set), AGAIN, FINISH)
    value = tl.where(far, value, float("nan"))
    tl.store(_tile_at(out_ptr, one_set, row * BLOCK, i, j, n, first_pair, pairs), value, mask=kept)
    return tl.max(tl.max((kept & (far == 0)).to(tl.int32), 1), 0)


@triton.jit
def _finish(
    g, offset_ptr, bound_ptr, factor_ptr, out_ptr, near_ptr, one_set, cell, row, column,
    n, row_end, first_pair, pairs,
    BOUNDED: tl.constexpr, HALF: tl.constexpr, TAU: tl.constexpr, FLOOR: tl.constexpr,
    AGAIN: tl.constexpr, FINISH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the distances of a tile of products, NaN where they cancel, and whether any did."""
    # In halves: the addresses and bounds of a whole tile do not fit the registers beside it.
    halves = tl.permute(tl.reshape(g, (BLOCK, 2, BLOCK // 2)), (0, 2, 1))
    left, right = tl.split(halves)
    j = column * BLOCK + tl.arange(0, BLOCK // 2)
    near = _finish_half(
        left, j, offset_ptr, bound_ptr, factor_ptr, out_ptr, one_set, row, n, row_end, first_pair,
        pairs, BOUNDED, HALF, TAU, FLOOR, AGAIN, FINISH, BLOCK,
    )  # fmt: skip
    near |= _finish_half(
        right, j + BLOCK // 2, offset_ptr, bound_ptr, factor_ptr, out_ptr, one_set, row, n, row_end,
        first_pair, pairs, BOUNDED, HALF, TAU, FLOOR, AGAIN, FINISH, BLOCK,
    )  # fmt: skip
    tl.store(near_ptr + one_set.to(tl.int64) * tl.num_programs(0) + cell, near)


@triton.jit
def products_kernel(
    left_ptr, right_ptr, pre_ptr, high_ptr, low_ptr, scale_ptr, common_ptr,
    offset_ptr, bound_ptr, factor_ptr, out_ptr, near_ptr, partial_ptr,
    n, p, row_end, tiles, top, bottom, share, first_pair, pairs,
    AFFINE: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BOUNDED: tl.constexpr, HALF: tl.constexpr, TAU: tl.constexpr, FLOOR: tl.constexpr,
    AGAIN: tl.constexpr, FINISH: tl.constexpr, BLOCK: tl.constexpr, BK: tl.constexpr,
    BAND: tl.constexpr,
):  # fmt: skip
    """Distances of a tile; with SPLIT the products of `share` of the features into `partial`.

    Grid (cells, splits, sets). left, right (k, n, p); pre, high, low, scale, offset, bound (k, n);
    common (k, p); factor (k,); out: sets `pairs` apart that start with the pair `first_pair`;
    near (k, cells); partial (k, splits, cells, BLOCK, BLOCK).
    """
    cell, split, one_set = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, column = _tile_of(cell, tiles, top, bottom, BAND)
    if (row > column) | (row * BLOCK >= row_end):
        return
    i = row * BLOCK + tl.arange(0, BLOCK)
    j = column * BLOCK + tl.arange(0, BLOCK)
    TYPE: tl.constexpr = left_ptr.dtype.element_ty
    g = tl.zeros((BLOCK, BLOCK), TYPE)
    for start in range(split * share, min((split + 1) * share, p), BK):
        k = start + tl.arange(0, BK)
        x = _load_rows(
            left_ptr, pre_ptr, high_ptr, low_ptr, scale_ptr, common_ptr, one_set, i, k, n, p, AFFINE
        )
        y = _load_rows(
            right_ptr, pre_ptr, high_ptr, low_ptr, scale_ptr, common_ptr, one_set, j, k, n, p,
            AFFINE,
        )  # fmt: skip
        g = tl.dot(x, tl.trans(y), g, input_precision=PRECISION, out_dtype=TYPE)
    if SPLIT:
        place = (one_set.to(tl.int64) * tl.num_programs(1) + split) * tl.num_programs(0) + cell
        within = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        tl.store(partial_ptr + place * (BLOCK * BLOCK) + within, g)
    else:
        _finish(
            g, offset_ptr, bound_ptr, factor_ptr, out_ptr, near_ptr, one_set, cell, row, column,
            n, row_end, first_pair, pairs, BOUNDED, HALF, TAU, FLOOR, AGAIN, FINISH, BLOCK,
        )  # fmt: skip


@triton.jit
def finish_kernel(
    offset_ptr, bound_ptr, factor_ptr, out_ptr, near_ptr, partial_ptr,
    n, row_end, tiles, top, bottom, first_pair, pairs, splits,
    BOUNDED: tl.constexpr, HALF: tl.constexpr, TAU: tl.constexpr, FLOOR: tl.constexpr,
    AGAIN: tl.constexpr, FINISH: tl.constexpr, BLOCK: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """Add the shares of a tile in their order and finish it. Grid (cells, 1, sets)."""
    cell, one_set = tl.program_id(0), tl.program_id(2)
    row, column = _tile_of(cell, tiles, top, bottom, BAND)
    if (row > column) | (row * BLOCK >= row_end):
        return
    within = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    g = tl.zeros((BLOCK, BLOCK), partial_ptr.dtype.element_ty)
    for split in range(splits):
        place = (one_set.to(tl.int64) * splits + split) * tl.num_programs(0) + cell
        g += tl.load(partial_ptr + place * (BLOCK * BLOCK) + within)
    _finish(
        g, offset_ptr, bound_ptr, factor_ptr, out_ptr, near_ptr, one_set, cell, row, column,
        n, row_end, first_pair, pairs, BOUNDED, HALF, TAU, FLOOR, AGAIN, FINISH, BLOCK,
    )  # fmt: skip


@triton.jit
def _difference(x_ptr, i, j, near, k, inside, pre_i, shift_i, scale_i, pre_j, shift_j, scale_j,
                stride, AFFINE: tl.constexpr):  # fmt: skip
    """Row i less the rows j at the features k, (rows j, features), float64."""
    x = tl.load(x_ptr + i * stride + k, mask=inside, other=0.0).to(tl.float64)[None, :]
    at = x_ptr + j[:, None] * stride + k[None, :]
    y = tl.load(at, mask=near[:, None] & inside[None, :], other=0.0).to(tl.float64)
    if AFFINE:
        x = (x * pre_i - shift_i) * scale_i
        y = (y * pre_j - shift_j) * scale_j
    return tl.where(inside[None, :], x - y, 0.0)


@triton.jit
def near_kernel(
    x_ptr, pre_ptr, shift_ptr, scale_ptr, factor_ptr, out_ptr, near_ptr,
    n, width, stride, row_end, tiles, top, bottom, first_pair, pairs,
    AFFINE: tl.constexpr, FORM: tl.constexpr, PARTS: tl.constexpr, HALF: tl.constexpr,
    AGAIN: tl.constexpr, FINISH: tl.constexpr, BLOCK: tl.constexpr, BAND: tl.constexpr,
    ROWS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Pairs that `_finish` left as NaN, from the differences d of their rows in float64.

    Grid (cells, BLOCK / ROWS, sets). x (k, n, stride), of which width features count: PARTS pieces
    side by side. FORM "squares": sum of d^2; "products": of d_k d_k', k' in the second piece;
    "folds": of (sum of d over pieces)^2 less the sum of their d^2. Compiled without fused
    multiply-adds, which would round the two rows of a pair of duplicates differently.
    """
    cell, one_set = tl.program_id(0), tl.program_id(2)
    if tl.load(near_ptr + one_set.to(tl.int64) * tl.num_programs(0) + cell) == 0:
        return
    row, column = _tile_of(cell, tiles, top, bottom, BAND)
    j = column * BLOCK + tl.arange(0, BLOCK)
    base = one_set.to(tl.int64) * n
    to = out_ptr + one_set.to(tl.int64) * pairs - first_pair
    factor = tl.load(factor_ptr + one_set).to(tl.float64)
    piece = width // PARTS
    start = row * BLOCK + tl.program_id(1) * ROWS
    for i in range(start, min(start + ROWS, row_end)):
        at = to + _first_pair(tl.full((), i, tl.int32), n) + j
        was = tl.load(at, mask=(i < j) & (j < n), other=0.0)
        near = was != was
        if tl.max(near.to(tl.int32), 0) > 0:
            one, others = base + i, base + j
            pre_i, shift_i, scale_i, pre_j, shift_j, scale_j = 1.0, 0.0, 1.0, 1.0, 0.0, 1.0
            if AFFINE:
                pre_i, pre_j = tl.load(pre_ptr + one), tl.load(pre_ptr + others, near, 0.0)[:, None]
                shift_i = tl.load(shift_ptr + one)
                shift_j = tl.load(shift_ptr + others, near, 0.0)[:, None]
                scale_i = tl.load(scale_ptr + one)
                scale_j = tl.load(scale_ptr + others, near, 0.0)[:, None]
            sums = tl.zeros((BLOCK,), tl.float64)
            for k0 in range(0, piece, BK):
                k = k0 + tl.arange(0, BK)
                d = _difference(
                    x_ptr, one, others, near, k, k < piece, pre_i, shift_i, scale_i, pre_j,
                    shift_j, scale_j, stride, AFFINE,
                )  # fmt: skip
                if FORM == "squares":
                    sums += tl.sum(d * d, 1)
                else:
                    total, own = d, d * d
                    for part in range(1, PARTS):
                        d = _difference(
                            x_ptr + part * piece, one, others, near, k, k < piece, pre_i, shift_i,
                            scale_i, pre_j, shift_j, scale_j, stride, AFFINE,
                        )  # fmt: skip
                        if FORM == "products":
                            total *= d
                        else:
                            total += d
                            own += d * d
                    sums += tl.sum(total if FORM == "products" else total * total - own, 1)
            value = _scaled(HALF * sums if FINISH == "unit" else sums, factor, AGAIN, FINISH)
            tl.store(at, value.to(out_ptr.dtype.element_ty), mask=near)


@triton.jit
def unit_kernel(x_ptr, pre_ptr, shift_ptr, scale_ptr, p, CENTRE: tl.constexpr, BLOCK: tl.constexpr):
    """Mean (times pre) and inverse length of each row, float64. Grid (rows,); 0 for a zero row."""
    row = tl.program_id(0).to(tl.int64)
    pre = tl.load(pre_ptr + row)
    k = tl.arange(0, BLOCK)
    mean = tl.zeros((), tl.float64)
    if CENTRE:
        # The second pass removes what rounding left in the first mean.
        for _ in range(2):
            sums = tl.zeros((BLOCK,), tl.float64)
            for start in range(0, p, BLOCK):
                x = tl.load(x_ptr + row * p + start + k, mask=start + k < p, other=0.0)
                sums += tl.where(start + k < p, x.to(tl.float64) * pre - mean, 0.0)
            mean += tl.sum(sums, 0) / p
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, p, BLOCK):
        x = tl.load(x_ptr + row * p + start + k, mask=start + k < p, other=0.0)
        d = tl.where(start + k < p, x.to(tl.float64) * pre - mean, 0.0)
        squares += d * d
    square = tl.sum(squares, 0)
    tl.store(shift_ptr + row, mean)
    tl.store(scale_ptr + row, tl.where(square > 0, 1.0 / tl.sqrt(square), 0.0))


@triton.jit
def common_kernel(
    x_ptr, pre_ptr, high_ptr, low_ptr, scale_ptr, common_ptr, n, p, step,
    ROWS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Mean over every step-th row of the normalised rows. Grid (blocks of features, sets)."""
    k = tl.program_id(0) * BK + tl.arange(0, BK)
    one_set = tl.program_id(1).to(tl.int64)
    sums = tl.zeros((BK,), tl.float64)
    for start in range(0, n, ROWS * step):
        i = start + tl.arange(0, ROWS) * step
        at = one_set * n + i
        inside = (i < n)[:, None] & (k < p)[None, :]
        x = tl.load(x_ptr + at[:, None] * p + k[None, :], mask=inside, other=0.0)
        pre = tl.load(pre_ptr + at, mask=i < n, other=0.0)[:, None]
        high = tl.load(high_ptr + at, mask=i < n, other=0.0)[:, None]
        low = tl.load(low_ptr + at, mask=i < n, other=0.0)[:, None]
        scale = tl.load(scale_ptr + at, mask=i < n, other=0.0)[:, None]
        sums += tl.sum(_normalised(x, pre, high, low, scale).to(tl.float64), 0)
    mean = sums / tl.cdiv(n, step)
    tl.store(common_ptr + one_set * p + k, mean.to(common_ptr.dtype.element_ty), mask=k < p)


@triton.jit
def norms_kernel(
    x_ptr, pre_ptr, high_ptr, low_ptr, scale_ptr, common_ptr, norm_ptr, n, p, HALF: tl.constexpr,
    ROWS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """HALF times the squared length of each row as products see it. Grid (blocks of rows, sets)."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    one_set = tl.program_id(1)
    sums = tl.zeros((ROWS,), tl.float64)
    for start in range(0, p, BK):
        k = start + tl.arange(0, BK)
        z = _load_rows(
            x_ptr, pre_ptr, high_ptr, low_ptr, scale_ptr, common_ptr, one_set, i, k, n, p, True
        ).to(tl.float64)
        sums += tl.sum(z * z, 1)
    to = norm_ptr + one_set.to(tl.int64) * n + i
    tl.store(to, (HALF * sums).to(norm_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def cityblock_kernel(
    x_ptr, out_ptr, n, p, row_end, tiles, top, bottom, first_pair, pairs,
    BLOCK: tl.constexpr, BK: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """Sums of |x_ki - x_kj| of a tile. Grid (cells, 1, sets); x (k, p, n), features first.

    A feature of all rows of a tile is then contiguous. Sums of BK features are added up apart, so
    that rounding grows with BK and the number of such sums, not with p.
    """
    cell, one_set = tl.program_id(0), tl.program_id(2)
    row, column = _tile_of(cell, tiles, top, bottom, BAND)
    if (row > column) | (row * BLOCK >= row_end):
        return
    i = row * BLOCK + tl.arange(0, BLOCK)
    j = column * BLOCK + tl.arange(0, BLOCK)
    x_ptr += one_set.to(tl.int64) * p * n
    sums = tl.zeros((BLOCK, BLOCK), x_ptr.dtype.element_ty)
    for start in range(0, p, BK):
        part = tl.zeros((BLOCK, BLOCK), x_ptr.dtype.element_ty)
        for k in range(start, min(start + BK, p)):
            at = x_ptr + tl.full((), k, tl.int64) * n
            x = tl.load(at + i, mask=i < n, other=0.0)[:, None]
            y = tl.load(at + j, mask=j < n, other=0.0)[None, :]
            part += tl.abs(x - y)
        sums += part
    kept = (i[:, None] < j[None, :]) & (j < n)[None, :] & (i < row_end)[:, None]
    tl.store(_tile_at(out_ptr, one_set, row * BLOCK, i, j, n, first_pair, pairs), sums, mask=kept)
