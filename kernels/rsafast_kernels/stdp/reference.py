"""STDP in plain NumPy, float64: a double loop over the spikes of every pair of trains."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast_kernels.stdp.rule import STDP

Float = NDArray[np.float64]


def pair_sums(pre: Float, post: Float, rule: STDP) -> tuple[float, float]:
    """LTP and LTD of one pre train (T,) and one post train (T,), summed over their pairs."""
    pre_spikes, post_spikes = np.flatnonzero(pre), np.flatnonzero(post)
    ltp = ltd = 0.0
    for i in pre_spikes:
        for j in post_spikes:
            up, down = rule.window(int(j - i))
            pair = pre[i] * post[j]
            if rule.pairing == "all":
                ltp, ltd = ltp + up * pair, ltd + down * pair
                continue
            # What this post spike can see of the past, and this pre spike. A spike at the same
            # time is seen where coincidence counts.
            seen_pre = pre_spikes[pre_spikes <= j - (rule.ties not in ("both", "ltp"))]
            seen_post = post_spikes[post_spikes <= i - (rule.ties not in ("both", "ltd"))]
            if seen_pre.size and i == seen_pre[-1]:
                ltp += up * pair
            if seen_post.size and j == seen_post[-1]:
                ltd += down * pair
    return ltp, ltd


def bounded(ltp: Float, ltd: Float, weight: Float, rule: STDP) -> Float:
    """Weight change under the rule's bounds."""
    room, height = np.maximum(rule.w_max - weight, 0), np.maximum(weight - rule.w_min, 0)
    if rule.bounds == "none":
        return ltp - ltd
    change = {
        "hard": lambda: ltp - ltd,
        "soft": lambda: room**rule.mu * ltp - height**rule.mu * ltd,
        "product": lambda: height * room * (ltp - ltd),
    }[rule.bounds]()
    return np.clip(change, rule.w_min - weight, rule.w_max - weight)


def stdp_conv2d(
    pre: ArrayLike,
    post: ArrayLike,
    weight: ArrayLike,
    rule: STDP,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    reduction: str = "mean",
) -> Float:
    """Weight change of a convolution; arguments as in `rsafast_kernels.stdp.stdp_conv2d`."""
    x, y, w = (np.asarray(a, dtype=np.float64) for a in (pre, post, weight))
    n, h_out, w_out = x.shape[1], *y.shape[3:]
    x = np.pad(x, [(0, 0)] * 3 + [(p, p) for p in padding])
    ltp, ltd = np.zeros(w.shape), np.zeros(w.shape)
    for synapse in np.ndindex(w.shape):
        o, i, a, b = synapse
        channel = o // (w.shape[0] // groups) * w.shape[1] + i
        for s, r, c in np.ndindex(n, h_out, w_out):
            source = x[:, s, channel, r * stride[0] + a, c * stride[1] + b]
            up, down = pair_sums(source, y[:, s, o, r, c], rule)
            ltp[synapse] += up
            ltd[synapse] += down
    scale = 1 / n if reduction == "mean" else 1.0
    return bounded(scale * ltp, scale * ltd, w, rule)


def stdp_linear(
    pre: ArrayLike, post: ArrayLike, weight: ArrayLike, rule: STDP, *, reduction: str = "mean"
) -> Float:
    """Weight change of a dense layer: pre (T, N, I), post (T, N, O), weight (O, I)."""
    x, y, w = (np.asarray(a, dtype=np.float64)[..., None, None] for a in (pre, post, weight))
    return stdp_conv2d(x, y, w, rule, reduction=reduction)[..., 0, 0]
