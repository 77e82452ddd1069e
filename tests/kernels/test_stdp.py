"""STDP on the CPU equals a double loop over spike pairs, for every option, shape and density."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rsafast_kernels import threads  # noqa: E402
from rsafast_kernels._native import available  # noqa: E402
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError  # noqa: E402
from rsafast_kernels.stdp import (  # noqa: E402
    STDP,
    latency_stdp_conv2d,
    latency_stdp_linear,
    reference,
    sparse,
    stdp_conv2d,
    stdp_linear,
)

CPU = ["folded", "sparse"]
RULE = STDP(0.02, 0.03, 3.0, 2.0)
# LTP and LTD are sums of tens of float32 numbers that nearly cancel.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13}


@pytest.fixture
def random():
    generator = torch.Generator().manual_seed(7)

    def draw(*shape, rate=0.4):
        return (torch.rand(*shape, generator=generator) < rate).float()

    draw.uniform = lambda *shape: torch.rand(*shape, generator=generator)
    return draw


def assert_close(got, expected, dtype=torch.float32):
    expected = np.asarray(expected)
    assert got.dtype == dtype
    assert got.shape == expected.shape
    assert np.isfinite(expected).all()
    limit = TOLERANCE[dtype] * max(abs(expected).max(), 1e-30)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("bounds", ["none", "hard", "soft", "product"])
@pytest.mark.parametrize("ties", ["both", "ltp", "ltd", "none"])
@pytest.mark.parametrize("pairing", ["all", "nearest"])
def test_every_option_matches_the_reference(random, pairing, ties, bounds):
    weight = random.uniform(4, 1, 2, 2)
    for decay, mu in (("exp", 0.7), ("euler", 0.0)):
        rule = replace(RULE, pairing=pairing, ties=ties, bounds=bounds, decay=decay, mu=mu)
        pre, post = random(5, 2, 2, 4, 3), random(5, 2, 4, 5, 4)
        expected = reference.stdp_conv2d(pre, post, weight, rule, padding=(1, 1), groups=2)
        assert abs(expected).max() > 0.01
        for backend in CPU:
            got = stdp_conv2d(pre, post, weight, rule, padding=1, groups=2, backend=backend)
            assert_close(got, expected)
        double = stdp_conv2d(
            pre, post, weight.double(), rule, padding=1, groups=2, backend="folded"
        )
        assert_close(double, expected, torch.float64)


SHAPES = {
    "1x1": dict(size=(3, 3), kernel=(1, 1)),
    "valid": dict(size=(5, 4), kernel=(3, 3)),
    "same": dict(size=(4, 5), kernel=(3, 3), padding=(1, 1)),
    "stride 2": dict(size=(6, 5), kernel=(3, 3), padding=(1, 1), stride=(2, 2)),
    "odd": dict(size=(7, 4), kernel=(3, 2), padding=(2, 0), stride=(1, 3)),
    "kernel over all": dict(size=(3, 4), kernel=(3, 4)),
    "more padding than input": dict(size=(1, 2), kernel=(3, 3), padding=(2, 2), stride=(2, 1)),
    "one row": dict(size=(1, 9), kernel=(1, 5), padding=(0, 2)),
}


@pytest.mark.parametrize("pairing", ["all", "nearest"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_matches_the_reference(random, shape, pairing):
    given = {"padding": (0, 0), "stride": (1, 1)} | SHAPES[shape]
    size, kernel = given.pop("size"), given.pop("kernel")
    out = [
        (n + 2 * p - k) // s + 1
        for n, k, p, s in zip(size, kernel, given["padding"], given["stride"], strict=True)
    ]
    rule = replace(RULE, pairing=pairing, ties="both")
    for groups, c_in, c_out, steps in ((1, 3, 2, 4), (2, 1, 3, 1)):
        pre = random(steps, 2, groups * c_in, *size)
        post = random(steps, 2, groups * c_out, *out)
        weight = random.uniform(groups * c_out, c_in, *kernel)
        expected = reference.stdp_conv2d(pre, post, weight, rule, groups=groups, **given)
        for backend in CPU:
            got = stdp_conv2d(
                pre, post, weight, rule, groups=groups, reduction="mean", backend=backend, **given
            )
            assert_close(got, expected)


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize(("rate_pre", "rate_post"), [(0, 0.5), (0.5, 0), (1, 1), (0.02, 0.9)])
def test_any_density_matches_the_reference(random, rate_pre, rate_post, backend):
    pre, post = random(6, 3, 2, 4, 4, rate=rate_pre), random(6, 3, 2, 4, 4, rate=rate_post)
    weight = random.uniform(2, 2, 3, 3)
    expected = reference.stdp_conv2d(pre, post, weight, RULE, padding=(1, 1), reduction="sum")
    got = stdp_conv2d(pre, post, weight, RULE, padding=1, reduction="sum", backend=backend)
    if 0 in (rate_pre, rate_post):
        assert not got.any()
    assert_close(got, expected)


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("pairing", ["all", "nearest"])
def test_graded_and_signed_spikes_multiply(random, backend, pairing):
    rule = replace(RULE, pairing=pairing)
    pre = random(5, 2, 2, 3, 3) * (random.uniform(5, 2, 2, 3, 3) - 0.5)
    post = random(5, 2, 3, 3, 3) * random.uniform(5, 2, 3, 3, 3)
    weight = random.uniform(3, 2, 3, 3)
    expected = reference.stdp_conv2d(pre, post, weight, rule, padding=(1, 1))
    assert_close(stdp_conv2d(pre, post, weight, rule, padding=1, backend=backend), expected)


# Channels beside the vector width, samples beside the block, and time in several pieces.
@pytest.mark.parametrize("c_other", [1, 8, 31, 33, 100])
@pytest.mark.parametrize("steps", [1, 40])
def test_sparse_equals_folded_at_real_sizes(random, c_other, steps):
    for c_in, c_out in ((5, c_other), (c_other, 5)):
        pre = random(steps, 5, c_in, 13, 17, rate=0.05)
        post = random(steps, 5, c_out, 13, 17, rate=0.05)
        weight = random.uniform(c_out, c_in, 3, 3).double()
        expected = stdp_conv2d(pre, post, weight, RULE, padding=1, backend="folded").numpy()
        for n_threads in (1, 3):
            with threads(n_threads):
                got = stdp_conv2d(pre, post, weight.float(), RULE, padding=1, backend="sparse")
            assert_close(got, expected)


def test_either_side_may_be_walked(random):
    pre, post = random(5, 3, 6, 1, 1, rate=0.02), random(5, 3, 4, 1, 1, rate=0.9)
    weight = random.uniform(4, 6, 1, 1)
    expected = reference.stdp_conv2d(pre, post, weight, RULE)
    assert_close(stdp_conv2d(pre, post, weight, RULE, backend="sparse"), expected)
    expected = reference.stdp_conv2d(post, pre, weight.transpose(0, 1), RULE)
    flipped = weight.transpose(0, 1).contiguous()
    assert_close(stdp_conv2d(post, pre, flipped, RULE, backend="sparse"), expected)


@pytest.mark.parametrize("isa", available())
def test_same_on_every_isa(random, isa, monkeypatch):
    kernel = importlib.import_module(f"rsafast_kernels._native.{isa}")
    monkeypatch.setattr(sparse, "native", kernel)
    pre, post = random(4, 3, 6, 5, 5, rate=0.2), random(4, 3, 37, 5, 5, rate=0.2)
    weight = random.uniform(37, 6, 3, 3)
    got = stdp_conv2d(pre, post, weight, RULE, padding=1, backend="sparse")
    expected = stdp_conv2d(pre, post, weight.double(), RULE, padding=1, backend="folded")
    assert_close(got, expected)


@pytest.mark.parametrize("backend", CPU)
def test_dense_layers_match_the_reference(random, backend):
    pre, post, weight = random(6, 5, 7), random(6, 5, 3), random.uniform(3, 7)
    for rule in (RULE, replace(RULE, bounds="soft"), replace(RULE, pairing="nearest")):
        expected = reference.stdp_linear(pre, post, weight, rule)
        assert_close(stdp_linear(pre, post, weight, rule, backend=backend), expected)


@pytest.mark.parametrize("backend", CPU)
def test_stacked_networks_equal_one_by_one(random, backend):
    rule = replace(RULE, bounds="soft")
    pre, post, weight = random(4, 3, 5, 6), random(4, 3, 5, 2), random.uniform(3, 2, 6)
    alone = [
        stdp_linear(pre[:, s], post[:, s], weight[s], rule, backend=backend).numpy()
        for s in range(3)
    ]
    assert_close(stdp_linear(pre, post, weight, rule, backend=backend), np.stack(alone))

    maps, out, kernels = random(4, 2, 6, 5, 5), random(4, 2, 8, 5, 5), random.uniform(8, 3, 3, 3)
    alone = [
        stdp_conv2d(
            maps[:, :, 3 * s : 3 * s + 3], out[:, :, 4 * s : 4 * s + 4], kernels[4 * s : 4 * s + 4],
            rule, padding=1, backend=backend,
        ).numpy()
        for s in range(2)
    ]  # fmt: skip
    stacked = stdp_conv2d(maps, out, kernels, rule, padding=1, groups=2, backend=backend)
    assert_close(stacked, np.concatenate(alone))


def single_pair(dt, rule, backend, steps=21):
    pre, post = torch.zeros(steps, 1, 1), torch.zeros(steps, 1, 1)
    pre[max(0, -dt)] = 1
    post[max(0, dt)] = 1
    return stdp_linear(pre, post, torch.full((1, 1), 0.5), rule, backend=backend).item()


@pytest.mark.parametrize("backend", [*CPU, "reference"])
@pytest.mark.parametrize("pairing", ["all", "nearest"])
def test_one_pair_draws_the_window(backend, pairing):
    rule = STDP(0.5, 0.25, 4.0, 8.0, pairing=pairing, ties="none")
    for dt in range(1, 21):
        assert single_pair(dt, rule, backend) == pytest.approx(0.5 * math.exp(-dt / 4))
        assert single_pair(-dt, rule, backend) == pytest.approx(-0.25 * math.exp(-dt / 8))
    euler = replace(rule, decay="euler")
    assert single_pair(3, euler, backend) == pytest.approx(0.5 * 0.75**3)
    assert single_pair(-3, euler, backend) == pytest.approx(-0.25 * 0.875**3)
    ties = {"both": 0.25, "ltp": 0.5, "ltd": -0.25, "none": 0.0}
    for name, change in ties.items():
        assert single_pair(0, replace(rule, ties=name), backend) == pytest.approx(change)


@pytest.mark.parametrize("backend", [*CPU, "reference"])
def test_nearest_forgets_earlier_spikes(backend):
    # pre at 0 and 2, post at 3 and 5; by hand, with decays of one half.
    pre, post = torch.zeros(6, 1, 1), torch.zeros(6, 1, 1)
    pre[[0, 2]] = 1
    post[[3, 5]] = 1
    rule = STDP(1.0, 1.0, 2.0, 2.0, decay="euler", ties="none")
    weight = torch.zeros(1, 1)
    every = 2**-3 + 2**-1 + 2**-5 + 2**-3
    assert stdp_linear(pre, post, weight, rule, backend=backend).item() == every
    rule = replace(rule, pairing="nearest")
    assert stdp_linear(pre, post, weight, rule, backend=backend).item() == 2**-1 + 2**-3
    assert stdp_linear(post, pre, weight, rule, backend=backend).item() == -(2**-1) - 2**-3


@pytest.mark.parametrize("backend", CPU)
def test_bounds_hold(random, backend):
    pre, post = random(8, 4, 6), random(8, 4, 5)
    weight = random.uniform(5, 6)
    for bounds in ("hard", "soft", "product"):
        rule = STDP(5.0, 4.0, 3.0, 3.0, bounds=bounds, mu=0.5, w_min=0.1, w_max=0.9)
        after = weight + stdp_linear(pre, post, weight, rule, backend=backend)
        assert after.min() >= 0.1 - 1e-6
        assert after.max() <= 0.9 + 1e-6
        # Weights on a bound do not move away from the room they have left.
        stuck = stdp_linear(pre, post, torch.full((5, 6), 0.9), rule, backend=backend)
        assert stuck.max() <= 1e-6


def test_auto_chooses_by_density(random, monkeypatch):
    walked = []
    monkeypatch.setattr(
        sparse, "pair_sum", lambda *a: walked.append(a[-1]) or torch.zeros(a[3].weight_shape)
    )
    weight = torch.zeros(8, 16, 1, 1)
    for pre_rate, post_rate in ((0.9, 0.9), (0.02, 0.9), (0.9, 0.02)):
        pre, post = random(9, 8, 16, 9, 9, rate=pre_rate), random(9, 8, 8, 9, 9, rate=post_rate)
        stdp_conv2d(pre, post, weight, RULE)
    assert walked == ["pre", "post"]


def test_any_layout_and_dtype_is_taken(random):
    pre, post, weight = random(4, 3, 5), random(4, 3, 2), random.uniform(2, 5)
    expected = stdp_linear(pre, post, weight, RULE)
    for view in (
        pre.bool(), pre.to(torch.uint8), pre.double(), pre.bfloat16(),
        pre.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    ):  # fmt: skip
        for backend in CPU:
            assert_close(stdp_linear(view, post, weight, RULE, backend=backend), expected)
    weight.requires_grad_()
    assert not stdp_linear(pre, post, weight, RULE).requires_grad


@pytest.mark.parametrize("backend", ["auto", "reference", *CPU])
@pytest.mark.parametrize("empty", ["steps", "samples", "inputs"])
def test_nothing_to_learn_from_is_no_change(backend, empty):
    steps, samples, inputs = (0 if empty == n else 2 for n in ("steps", "samples", "inputs"))
    pre, post = torch.ones(steps, samples, inputs), torch.ones(steps, samples, 3)
    weight = torch.full((3, inputs), 0.5)
    change = stdp_linear(pre, post, weight, replace(RULE, bounds="soft"), backend=backend)
    assert change.shape == weight.shape
    assert not change.any()


def trains(times, steps):
    return torch.stack([(times == t).float() for t in range(steps)])


@pytest.mark.parametrize("backend", CPU)
def test_latencies_equal_trains_of_one_spike(random, backend):
    pre = torch.floor(random.uniform(2, 2, 4, 4) * 7)
    post = torch.floor(random.uniform(2, 3, 4, 4) * 7)
    pre[random(2, 2, 4, 4) > 0] = math.inf
    post[random(2, 3, 4, 4) > 0] = math.inf
    weight = random.uniform(3, 2, 3, 3)
    expected = reference.stdp_conv2d(trains(pre, 7), trains(post, 7), weight, RULE, padding=(1, 1))
    assert_close(
        latency_stdp_conv2d(pre, post, weight, RULE, padding=1, backend=backend), expected
    )


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("bounds", ["none", "product"])
def test_order_rule_matches_its_definition(random, backend, bounds):
    rule = STDP(0.02, 0.01, bounds=bounds)
    pre = torch.floor(random.uniform(2, 2, 4, 3) * 5)
    post = torch.floor(random.uniform(2, 3, 4, 3) * 5)
    pre[random(2, 2, 4, 3) > 0] = math.inf
    post[random(2, 3, 4, 3) > 0] = math.inf
    weight = random.uniform(3, 2, 3, 3)
    padded = np.pad(pre.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=np.inf)
    expected = np.zeros(weight.shape)
    for (n, o, y, x), time in np.ndenumerate(post.numpy()):
        if np.isfinite(time):
            early = padded[n, :, y : y + 3, x : x + 3] <= time
            expected[o] += np.where(early, rule.a_plus, -rule.a_minus) / 2
    if bounds == "product":
        w = weight.double().numpy()
        expected *= w * (1 - w)
    got = latency_stdp_conv2d(
        pre, post, weight, rule, window="order", padding=1, backend=backend
    )
    assert_close(got, expected)


def test_dense_latencies(random):
    pre, post = torch.floor(random.uniform(3, 6) * 5), torch.floor(random.uniform(3, 4) * 5)
    weight = random.uniform(4, 6)
    expected = reference.stdp_linear(trains(pre, 5), trains(post, 5), weight, RULE)
    assert_close(latency_stdp_linear(pre, post, weight, RULE), expected)
    early = pre.numpy()[:, None] <= post.numpy()[:, :, None]
    expected = np.where(early, RULE.a_plus, -RULE.a_minus).mean(axis=0)
    assert_close(latency_stdp_linear(pre, post, weight, RULE, window="order"), expected)
    silent = torch.full((3, 4), math.inf)
    assert not latency_stdp_linear(pre, silent, weight, RULE, window="order").any()


@pytest.mark.parametrize("time", [-1.0, 0.5, math.nan, -math.inf])
def test_times_must_be_steps(time):
    good = torch.zeros(1, 1)
    for pre, post, name in ((torch.full((1, 1), time), good, "pre"), (good, good + time, "post")):
        with pytest.raises(InvalidInputError, match=f"{name}_time must hold whole steps"):
            latency_stdp_linear(pre, post, torch.zeros(1, 1), RULE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(decay="linear"), "decay must be one of exp, euler, got 'linear'"),
        (dict(ties="first"), "ties must be"),
        (dict(pairing="none"), "pairing must be"),
        (dict(bounds="clip"), "bounds must be"),
        (dict(a_plus=math.nan), "a_plus must be finite"),
        (dict(tau_plus=0.0), "tau_plus must be positive, got 0.0"),
        (dict(tau_minus=math.nan), "tau_minus must be positive"),
        (dict(tau_minus=0.5, decay="euler"), "at least 1 step"),
        (dict(mu=-1.0), "mu must be"),
        (dict(w_min=1.0), "w_min must be below w_max"),
    ],
)
def test_rejects_rules_that_mean_nothing(change, message):
    with pytest.raises(InvalidInputError, match=message):
        replace(RULE, **change)


X, Y, W = torch.zeros(2, 3, 4, 5, 5), torch.zeros(2, 3, 6, 5, 5), torch.zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((X[0], Y, W), {}, "must be .T, N, C, H, W."),
        ((X, Y, W), {}, r"post must be \(T, N, 6, 3, 3\)"),
        ((X[:, :, :3], Y, W), dict(padding=1), r"pre must be \(T, N, 4, 5, 5\)"),
        ((X, Y[:1], W), dict(padding=1), "same steps and samples"),
        ((X, Y, W), dict(padding=1, groups=4), "groups must divide the 6 output channels, got 4"),
        ((X, Y, W), dict(padding=-1), "padding must be an integer of at least 0"),
        ((X, Y, W), dict(padding=1, stride=0), "stride must be an integer of at least 1"),
        ((X, Y, W), dict(padding=1, reduction="max"), "reduction must be one of mean, sum"),
        ((X, Y, W), dict(padding=1, backend="cuda"), "backend must be one of auto, folded"),
        ((X, Y, W), dict(padding=1, precision="fp16"), "precision must be one of auto"),
        ((X, Y, W.half()), dict(padding=1), "weight must be float32 or float64"),
        ((X, Y, W.double()), dict(padding=1, backend="sparse"), "use backend='folded'"),
        ((X.cfloat(), Y, W), dict(padding=1), "spikes must be real"),
        ((X.to("meta"), Y, W), dict(padding=1), "move them to one device"),
    ],
)
def test_rejects_what_does_not_fit(args, options, message):
    with pytest.raises(InvalidInputError, match=message):
        stdp_conv2d(*args, RULE, **options)


def test_rejects_stacks_that_do_not_fit():
    with pytest.raises(InvalidInputError, match="hold 2, 2 and 3 networks"):
        stdp_linear(torch.zeros(4, 2, 1, 5), torch.zeros(4, 2, 1, 6), torch.zeros(3, 6, 5), RULE)
    with pytest.raises(InvalidInputError, match=r"must be \(T, N, I\)"):
        stdp_linear(torch.zeros(4, 1, 5), torch.zeros(4, 2, 1, 6), torch.zeros(3, 6, 5), RULE)


def test_an_explicit_backend_never_falls_back():
    with pytest.raises(BackendUnavailableError, match="triton"):
        stdp_conv2d(X, Y, W, RULE, padding=1, backend="triton")
    with pytest.raises(BackendUnavailableError, match="runs on the CPU"):
        stdp_conv2d(*(a.to("meta") for a in (X, Y, W)), RULE, padding=1, backend="sparse")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 5.0])
def test_equals_spikingjelly(random, tau, stride):
    learning = pytest.importorskip(
        "spikingjelly.activation_based.functional.learning",
        reason="spikingjelly (a peer) is not installed",
    )
    size = {1: 7, 2: 4}[stride]
    pre, post = random(6, 3, 3, 7, 7), random(6, 3, 4, size, size)
    weight = random.uniform(4, 3, 3, 3)
    padded = torch.nn.functional.pad(pre, (1, 1, 1, 1))
    trace = torch.zeros_like(padded[0]), torch.zeros_like(post[0])
    expected = torch.zeros_like(weight)
    for x, y in zip(padded, post, strict=True):
        step, trace = learning.stdp_conv2d_step(
            x, y, trace, weight, stride=(stride, stride), tau_pre=tau, tau_post=tau,
            f_pre=lambda w: 0.3 * w, f_post=lambda w: 0.2 * (1 - w),
        )  # fmt: skip
        expected += step
    # Their pre branch is depression, scaled by 0.3 w; both traces are updated before use.
    rule = STDP(0.2, 0.3, tau, tau, decay="euler", ties="both", bounds="soft")
    got = stdp_conv2d(
        pre, post, weight, rule, stride=stride, padding=1, reduction="sum", backend="folded"
    )
    # They do not cut what overshoots a bound.
    np.testing.assert_allclose(
        got, torch.minimum(torch.maximum(expected, -weight), 1 - weight), rtol=0, atol=2e-5
    )
