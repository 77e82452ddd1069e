"""LIF layers: hand-worked trains, and every backend bit for bit as the reference in float32."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rsafast_kernels.lif as lif_module  # noqa: E402
from rsafast_kernels import threads  # noqa: E402
from rsafast_kernels._native import available  # noqa: E402
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError  # noqa: E402
from rsafast_kernels.lif import LIF, LIFState, lif  # noqa: E402

BACKENDS = ["native", "reference"]
HALF = LIF(tau=2.0, decay="euler")  # the potential halves in a step, exactly
OPTIONS = {
    "plain": {},
    "euler": dict(decay="euler", tau=3.3),
    "no leak, subtract": dict(tau=math.inf, reset="subtract"),
    "refractory": dict(refractory=2),
    "winner": dict(winner_take_all="channels"),
    "homeostasis": dict(theta_plus=0.1, tau_theta=10.0),
    "all": dict(winner_take_all="channels", theta_plus=0.1, refractory=1, reset="subtract"),
}
SHAPES = [(6, 3, 4, 3, 5), (7, 3, 8), (5, 2, 3, 4), (1, 1, 2, 1, 1), (3, 9, 2, 1, 1)]


def random_current(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3)) * 1.2 - 0.1


def train(current, neuron, backend="native", **given):
    """Spikes of one neuron driven by a list of currents, and the potential at the end."""
    spikes, state = lif(torch.tensor(current).view(-1, 1, 1), neuron, backend=backend, **given)
    return spikes.flatten().tolist(), state.potential.item()


def assert_same(got, expected):
    spikes, state = got
    for a, b in (
        (spikes, expected[0]),
        (state.potential, expected[1].potential),
        (state.refractory, expected[1].refractory),
        (state.theta, expected[1].theta),
    ):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
class TestByHand:
    def test_leaks_then_spikes_then_resets(self, backend):
        assert train([0.75, 0.5, 0.5, 0.5, 0.0], HALF, backend) == ([0, 0, 0, 0, 0], 0.484375)
        assert train([0.75, 0.625, 0.5], HALF, backend) == ([0, 1, 0], 0.5)
        assert train([0.75, 0.875, 0.5], replace(HALF, reset="subtract"), backend) == (
            [0, 1, 0], 0.5 + 0.125,
        )  # fmt: skip

    def test_leak_is_exponential_by_default(self, backend):
        _, potential = train([0.5, 0.0, 0.0], LIF(tau=4.0), backend)
        assert potential == pytest.approx(0.5 * math.exp(-2 / 4))

    def test_ignores_input_while_refractory(self, backend):
        neuron = replace(HALF, refractory=2)
        assert train([1.0, 9.0, 9.0, 1.0, 0.25], neuron, backend) == ([1, 0, 0, 1, 0], 0.0)
        held = replace(neuron, reset="subtract")
        assert train([1.5, 9.0, 9.0], held, backend) == ([1, 0, 0], 0.5)

    def test_the_first_channel_silences_the_others(self, backend):
        neuron = replace(HALF, winner_take_all="channels")
        # Channel 1 crosses first; 2 would in the same step, with less; 0 later.
        current = torch.tensor([[0.5, 1.25, 1.125], [2.0, 0.0, 2.0], [2.0, 1.5, 2.0]])
        spikes, state = lif(current[:, None], neuron, backend=backend)
        assert spikes[:, 0].tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]
        assert state.potential.tolist() == [[0, 0, 0]]
        # Two at the same potential: the lower channel.
        spikes, _ = lif(torch.ones(1, 1, 3), neuron, backend=backend)
        assert spikes.flatten().tolist() == [1, 0, 0]
        # Each group and each position has a winner of its own.
        spikes, _ = lif(torch.ones(1, 1, 4), neuron, groups=2, backend=backend)
        assert spikes.flatten().tolist() == [1, 0, 1, 0]
        maps = torch.tensor([[1.0, 0.0, 2.0], [1.5, 1.0, 1.0]]).view(1, 1, 2, 1, 3)
        spikes, _ = lif(maps, neuron, backend=backend)
        assert spikes.flatten().tolist() == [0, 0, 1, 1, 1, 0]

    def test_thresholds_rise_with_spikes_and_decay(self, backend):
        neuron = replace(HALF, theta_plus=0.5, tau_theta=1 / math.log(2), tau=1.0)
        # Two samples, one channel: both spike, so theta rises by 0.5; then one of the two.
        current = torch.tensor([[1.0, 1.0], [1.5, 1.4], [1.49, 1.51]])[..., None]
        spikes, state = lif(current, neuron, backend=backend)
        assert spikes[..., 0].tolist() == [[1, 1], [1, 0], [0, 1]]
        # Halved every step, plus the mean number of spikes times 0.5.
        assert state.theta.item() == pytest.approx(((0.5 / 2) + 0.25) / 2 + 0.25)

    def test_state_carries_over(self, backend):
        current = random_current(8, 2, 3, 2, 2)
        neuron = LIF(refractory=2, theta_plus=0.1, tau_theta=5.0)
        whole = lif(current, neuron, backend=backend)
        first, state = lif(current[:3], neuron, backend=backend)
        before = state.theta.clone()
        second = lif(current[3:], neuron, state=state, backend=backend)
        assert torch.equal(state.theta, before)
        assert_same((torch.cat([first, second[0]]), second[1]), whole)
        rested = LIFState.rest(current, state.theta)
        assert rested.theta is state.theta
        assert not rested.potential.any()


@pytest.mark.parametrize("options", OPTIONS)
def test_native_equals_the_reference_bit_for_bit(options):
    neuron = replace(LIF(), **OPTIONS[options])
    for shape in SHAPES:
        current = random_current(*shape)
        for groups in (1, 2) if len(shape) != 4 else (1,):
            expected = lif(current, neuron, groups=groups, backend="reference")
            for n_threads in (1, 3):
                with threads(n_threads):
                    assert_same(lif(current, neuron, groups=groups), expected)
            again = lif(current, neuron, groups=groups, state=expected[1], backend="reference")
            assert_same(lif(current, neuron, groups=groups, state=expected[1]), again)
    assert sum(lif(random_current(*s), neuron)[0].sum() for s in SHAPES) > 20


@pytest.mark.parametrize("isa", available())
def test_same_bits_on_every_isa(isa, monkeypatch):
    kernel = importlib.import_module(f"rsafast_kernels._native.{isa}")
    current = random_current(20, 3, 5, 7, 7)
    neuron = LIF(tau=3.3, reset="subtract", refractory=1)
    expected = lif(current, neuron, backend="reference")
    monkeypatch.setattr(lif_module, "native", kernel)
    assert_same(lif(current, neuron), expected)


def test_float64_reference_agrees_away_from_the_threshold():
    current = random_current(6, 2, 3, 4)
    neuron = LIF(tau=3.3)
    rest = np.zeros((2, 3, 4))
    spikes, potential, *_ = lif_module.reference.lif(
        current.double().numpy(), neuron, rest, rest.astype(np.int32), np.zeros(3)
    )
    found, state = lif(current[..., None], neuron)
    np.testing.assert_array_equal(found[..., 0].numpy(), spikes)
    np.testing.assert_allclose(state.potential[..., 0].numpy(), potential, atol=1e-6)


@pytest.mark.parametrize("options", ["plain", "winner", "homeostasis"])
def test_stacked_networks_equal_one_by_one(options):
    neuron = replace(LIF(), **OPTIONS[options])
    current = random_current(6, 3, 2, 5)
    spikes, state = lif(current, neuron)
    maps, _ = lif(current.transpose(1, 2).reshape(6, 2, 15), neuron, groups=3)
    assert torch.equal(maps.view(6, 2, 3, 5).transpose(1, 2), spikes)
    for s in range(3):
        alone, after = lif(current[:, s], neuron)
        assert torch.equal(spikes[:, s], alone)
        assert torch.equal(state.theta[s], after.theta)
        assert torch.equal(state.potential[s], after.potential)


def test_input_is_left_alone_and_any_layout_is_taken():
    current = random_current(4, 3, 2, 5, 5)
    before, expected = current.clone(), lif(current, LIF())
    strided = current.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert_same(lif(strided, LIF()), expected)
    assert_same(lif(current.requires_grad_(), LIF()), expected)
    assert torch.equal(current, before)


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4, 2, 0), (4, 2, 3, 0, 5)])
def test_nothing_is_no_spike(shape):
    spikes, state = lif(torch.zeros(shape), LIF(theta_plus=0.1, winner_take_all="channels"))
    assert spikes.shape == shape
    assert state.potential.shape == shape[1:]
    assert not state.theta.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tau=0.0), "tau must be positive, got 0.0"),
        (dict(tau=math.nan), "tau must be positive"),
        (dict(tau=0.5, decay="euler"), "tau must be at least 1 step"),
        (dict(decay="linear"), "decay must be one of 'exp', 'euler'"),
        (dict(threshold=0.0), "threshold must be positive"),
        (dict(reset="soft"), "reset must be one of 'zero', 'subtract', got 'soft'"),
        (dict(refractory=-1), "refractory must be an integer"),
        (dict(refractory=1.5), "refractory must be an integer"),
        (dict(winner_take_all="space"), "winner_take_all must be one of None, 'channels'"),
        (dict(theta_plus=-0.1), "theta_plus must be"),
        (dict(tau_theta=0.0), "tau_theta must be positive"),
    ],
)
def test_rejects_neurons_that_mean_nothing(change, message):
    with pytest.raises(InvalidInputError, match=message):
        replace(LIF(), **change)


def test_rejects_what_does_not_fit():
    current = torch.zeros(4, 2, 6)
    with pytest.raises(InvalidInputError, match=r"current must be \(T, N, C, H, W\)"):
        lif(current[0], LIF())
    with pytest.raises(InvalidInputError, match=r"float32, got torch\.float64"):
        lif(current.double(), LIF())
    with pytest.raises(InvalidInputError, match="groups must divide the 6 channels, got 4"):
        lif(current, LIF(), groups=4)
    with pytest.raises(InvalidInputError, match="backend must be one of"):
        lif(current, LIF(), backend="cuda")
    state = LIFState.rest(torch.zeros(4, 3, 6))
    with pytest.raises(InvalidInputError, match=r"state\.potential must be .*\(2, 6\) on cpu"):
        lif(current, LIF(), state=state)


def test_an_explicit_backend_never_falls_back():
    with pytest.raises(BackendUnavailableError, match="triton"):
        lif(torch.zeros(4, 2, 6), LIF(), backend="triton")
    with pytest.raises(BackendUnavailableError, match="runs on the CPU, got tensors on meta"):
        lif(torch.zeros(4, 2, 6, device="meta"), LIF(), backend="native")


def test_equals_spikingjelly():
    neuron = pytest.importorskip(
        "spikingjelly.activation_based.neuron", reason="spikingjelly (a peer) is not installed"
    )
    current = random_current(12, 3, 4, 5, 5) * 2
    for reset, theirs in (("zero", 0.0), ("subtract", None)):
        node = neuron.LIFNode(tau=2.0, v_reset=theirs, step_mode="m")
        with torch.no_grad():
            expected = node(current)
        ours, state = lif(current / 2, replace(HALF, reset=reset))
        assert ours.sum() > 100
        # They compute v + (x - v) / tau, which rounds elsewhere.
        assert (ours != expected).float().mean() < 1e-3
        torch.testing.assert_close(state.potential, node.v, rtol=0, atol=1e-5)
