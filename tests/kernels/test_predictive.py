"""Predictive coding equals a plain reference, is local, and contains backpropagation."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
from rsafast_kernels import threads
from rsafast_kernels._native import available
from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError

torch = pytest.importorskip("torch")
functional = torch.nn.functional

from rsafast_kernels import predictive  # noqa: E402
from rsafast_kernels.predictive import (  # noqa: E402
    ACTIVATIONS,
    Layer,
    cpu,
    local_gradient,
    reference,
    relax,
    relaxation,
    torch_,
)

# Of values, relative to the largest. An error is a difference of values, so that it has their
# absolute accuracy; gradients inherit its relative one.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
GRADIENT_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
FIELDS = ("weight", "bias", "scale", "shift")


def make_layer(rng, seeds, shape, activation, *, bias=True, affine=False, **options):
    """Random layer whose pre-activations have a spread near 1."""
    weight = rng.normal(size=(seeds, *shape)) / np.sqrt(np.prod(shape[1:]))
    vectors = {
        "bias": rng.normal(size=(seeds, shape[0])) * 0.3 if bias else None,
        "scale": rng.uniform(0.5, 1.5, (seeds, shape[0])) if affine else None,
        "shift": rng.normal(size=(seeds, shape[0])) * 0.3 if affine else None,
    }
    tensors = {name: None if v is None else torch.tensor(v) for name, v in vectors.items()}
    return Layer(torch.tensor(weight), activation=activation, **tensors, **options)


def chain(rng, activation, seeds=2, bias=True, affine=False):
    """Pooled map of odd sides, strided map, flattened dense layer, output; images (3, 11, 9)."""
    options = {"bias": bias, "affine": affine}
    return [
        make_layer(rng, seeds, (5, 3, 3, 3), activation, pool=2, padding=1, **options),
        make_layer(rng, seeds, (4, 5, 3, 2), activation, stride=2, padding=1, **options),
        make_layer(rng, seeds, (7, 4 * 3 * 3), activation, **options),
        make_layer(rng, seeds, (6, 7), "identity", bias=bias),
    ]


def with_masks(layers, rng, samples=3):
    """Dropout on the input of both dense layers."""
    masks = [torch.tensor(rng.integers(0, 2, (layer.seeds, samples, layer.weight.shape[2])) * 2.0)
             for layer in layers[2:]]  # fmt: skip
    return [*layers[:2], *(replace(x, mask=m) for x, m in zip(layers[2:], masks, strict=True))]


def batch(rng, seeds=2, samples=3):
    x = torch.tensor(rng.normal(size=(samples, seeds * 3, 11, 9)))
    return x, torch.tensor(rng.integers(0, 6, (seeds, samples)))


def cast(layers, dtype):
    return [
        replace(layer, **{f: getattr(layer, f).to(dtype) for f in FIELDS if field(layer, f)})
        for layer in layers
    ]


def field(layer, name):
    return getattr(layer, name) is not None


def alone(layers, seed):
    """One network of a stack, as a stack of one."""
    return [
        replace(layer, **{f: getattr(layer, f)[seed, None] for f in FIELDS if field(layer, f)})
        for layer in layers
    ]


def plain(layers, seed):
    """One network of a stack, as the reference takes it."""
    options = ("activation", "pool", "stride", "padding")
    return [
        {f: getattr(layer, f)[seed].numpy() for f in FIELDS if field(layer, f)}
        | {name: getattr(layer, name) for name in options}
        for layer in layers
    ]


def of_seed(tensor, seed, seeds):
    """Entry of one network in a stacked map or vector, (N, ...)."""
    array = tensor.detach().double().numpy()
    if array.ndim == 3:
        return array[seed]
    return array.reshape(len(array), seeds, -1, *array.shape[2:])[:, seed]


def assert_near(actual, expected, tolerance, scale=None):
    """Largest difference, relative to the largest value of `scale`, or of the expected array."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    size = np.abs(expected if scale is None else np.asarray(scale)).max()
    np.testing.assert_array_less(np.abs(actual - expected).max() / max(size, 1e-6), tolerance)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


# --- the whole of it against the reference -----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("affine", [False, True], ids=["", "affine"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_matches_reference(rng, activation, bias, affine, dtype):
    seeds, loss = (1 if bias else 3), ("se" if affine else "ce")
    layers = cast(chain(rng, activation, seeds, bias, affine), dtype)
    x, labels = batch(rng, seeds)
    x = x.to(dtype)
    options = {"steps": 5, "rate": 0.1, "momentum": 0.3, "loss": loss}
    found = relax(layers, x, labels, record_energy=True, **options)
    tolerance = TOLERANCE[dtype]
    for seed in range(seeds):
        network = plain(cast(layers, torch.float64), seed)
        values, errors, energy = reference.relax(
            network, of_seed(x, seed, seeds), labels[seed].numpy(), **options
        )
        assert_near(found.energy[:, seed], energy, tolerance)
        for level, gradient in enumerate(found.gradients()):
            assert_near(of_seed(found.inputs[level], seed, seeds), values[level], tolerance)
            mu = reference.predict(network[level], values[level])
            assert_near(of_seed(found.errors[level], seed, seeds), errors[level], tolerance, mu)
            expected = reference.gradient(network[level], values[level], errors[level])
            for name in FIELDS:
                actual = getattr(gradient, name)
                assert (actual is None) == (name not in expected)
                if actual is not None:
                    assert_near(actual[seed], expected[name], GRADIENT_TOLERANCE[dtype])


@pytest.mark.parametrize("activation", ["identity", "tanh", "gelu"])
def test_reference_moves_down_the_gradient_of_the_energy(rng, activation):
    layers = with_masks(chain(rng, activation, seeds=1, affine=True), rng)
    x, labels = batch(rng, 1)
    start = relax(layers, x, labels, steps=3, rate=0.2)
    values = [v.clone().requires_grad_() for v in start.values]
    energy, below = 0.0, x
    for layer, value in zip(layers[:-1], values, strict=True):
        energy = energy + 0.5 * (value - autograd_predict(layer, below)).square().sum()
        below = value
    logits = autograd_predict(layers[-1], below)
    energy = energy + functional.cross_entropy(logits[0], labels[0], reduction="sum")
    slopes = torch.autograd.grad(energy, values)
    network, one = plain(layers, 0), [of_seed(v, 0, 1) for v in (x, *start.values)]
    for level in range(3):
        own, above = (of_seed(start.errors[i], 0, 1) for i in (level, level + 1))
        mask = layers[level + 1].mask
        mask = 1 if mask is None else mask[0].numpy().reshape(one[level + 1].shape)
        descent = own - mask * reference.back(network[level + 1], one[level + 1] * mask, above)
        assert_near(of_seed(slopes[level], 0, 1), descent, 1e-10)


def autograd_predict(layer, below):
    """Prediction of one layer by torch's own operators."""
    act = {"identity": lambda v: v, "relu": torch.relu, "hardtanh": functional.hardtanh,
           "tanh": torch.tanh, "gelu": functional.gelu}[layer.activation]  # fmt: skip
    seeds = layer.seeds
    if layer.weight.ndim == 5:
        bias = None if layer.bias is None else layer.bias.flatten()
        a = functional.conv2d(below, layer.weight.flatten(0, 1), bias, layer.stride,
                              layer.padding, groups=seeds)  # fmt: skip
        shape = (1, -1, 1, 1)
    else:
        if below.ndim == 4:
            below = below.reshape(len(below), seeds, -1).transpose(0, 1)
        below = below if layer.mask is None else below * layer.mask
        a, shape = below @ layer.weight.mT, (seeds, 1, -1)
        a = a if layer.bias is None else a + layer.bias[:, None]
    if layer.scale is not None:
        a = a * layer.scale.reshape(shape) + layer.shift.reshape(shape)
    return act(a) if layer.pool is None else functional.max_pool2d(act(a), 2)


# --- backpropagation as a special case ---------------------------------------------------------


@pytest.mark.parametrize("skip", [True, False], ids=["skip", "all"])
@pytest.mark.parametrize("loss", ["ce", "se"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fixed_prediction_with_rate_1_is_backpropagation(rng, activation, loss, skip):
    layers = with_masks(chain(rng, activation, affine=True), rng)
    x, labels = batch(rng)
    leaves = [
        replace(layer, **{f: getattr(layer, f).clone().requires_grad_() for f in FIELDS
                          if field(layer, f)})
        for layer in layers
    ]  # fmt: skip
    out = x
    for layer in leaves:
        out = autograd_predict(layer, out)
    if loss == "ce":
        total = functional.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="sum")
    else:
        total = 0.5 * (out - functional.one_hot(labels, 6)).square().sum()
    (total / labels.shape[1]).backward()
    found = relax(layers, x, labels, steps=4, rate=1.0, schedule="fixed-pred", loss=loss, skip=skip)
    for leaf, gradient in zip(leaves, found.gradients(), strict=True):
        for name in FIELDS:
            if field(leaf, name):
                assert_near(getattr(gradient, name), getattr(leaf, name).grad, 1e-10)


def test_standard_schedule_is_not_backpropagation(rng):
    layers = chain(rng, "tanh")
    x, labels = batch(rng)
    exact = relax(layers, x, labels, steps=4, rate=1.0, schedule="fixed-pred").gradients()
    relaxed = relax(layers, x, labels, steps=8, rate=0.1).gradients()
    difference = (exact[0].weight - relaxed[0].weight).norm() / exact[0].weight.norm()
    assert difference > 0.01


# --- what is skipped ---------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_skipping_changes_no_bit(rng, depth, steps, backend):
    layers, (x, labels) = cast(chain(rng, "relu"), torch.float32), batch(rng)
    x = relax(layers, x.float(), labels, steps=1).inputs[4 - depth]
    layers = layers[4 - depth :]
    options = {"steps": steps, "rate": 0.2, "momentum": 0.5, "record_energy": True}
    quick = relax(layers, x, labels, backend=backend, **options)
    full = relax(layers, x, labels, backend=backend, skip=False, **options)
    assert torch.equal(quick.energy, full.energy)
    for name in ("inputs", "errors"):
        for a, b in zip(getattr(quick, name), getattr(full, name), strict=True):
            assert torch.equal(a, b)
    for a, b in zip(quick.gradients(), full.gradients(), strict=True):
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.bias, b.bias)


def count_calls(monkeypatch, layers, x, labels, **options):
    """Convolutions and transposed convolutions of every layer."""
    calls = {"forward": [0] * len(layers), "backward": [0] * len(layers)}
    shapes = [layer.weight.shape for layer in layers]

    def counted(name, function):
        def wrapper(layer, *rest):
            calls[name][shapes.index(layer.weight.shape)] += 1
            return function(layer, *rest)

        return wrapper

    for name in calls:
        monkeypatch.setattr(relaxation, name, counted(name, getattr(relaxation, name)))
    relax(layers, x, labels, **options)
    return calls


def test_convolutions_of_seven_steps(rng, monkeypatch):
    layers, (x, labels) = chain(rng, "relu"), batch(rng)
    calls = count_calls(monkeypatch, layers, x, labels, steps=7)
    assert calls == {"forward": [1, 1 + 5, 1 + 6, 1 + 7], "backward": [0, 5, 6, 7]}


def test_backpropagation_by_fixed_prediction_costs_no_more_than_backpropagation(rng, monkeypatch):
    layers, (x, labels) = chain(rng, "relu"), batch(rng)
    calls = count_calls(monkeypatch, layers, x, labels, steps=9, rate=1.0, schedule="fixed-pred")
    assert calls == {"forward": [1, 1, 1, 1], "backward": [0, 1, 1, 1]}


def test_layers_that_no_step_reaches_have_no_gradient(rng):
    layers, (x, labels) = chain(rng, "tanh", affine=True), batch(rng)
    found = relax(layers, x, labels, steps=2)
    assert found.gated[0] is None
    assert all(not getattr(found.gradients()[0], name).any() for name in FIELDS)
    assert all(g.weight.any() for g in found.gradients()[1:])


# --- energy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["state", "error"])
@pytest.mark.parametrize("loss", ["ce", "se"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_energy_never_rises_at_a_small_rate(rng, activation, loss, solver):
    layers, (x, labels) = chain(rng, activation), batch(rng)
    found = relax(layers, x, labels, steps=12, rate=0.02, loss=loss, solver=solver,
                  record_energy=True)  # fmt: skip
    assert found.energy.shape == (13, 2)
    assert (found.energy.diff(dim=0) < 0).all()


def test_a_large_rate_can_raise_the_energy(rng):
    layers, (x, labels) = chain(rng, "identity"), batch(rng)
    found = relax(layers, x, labels, steps=5, rate=1.9, loss="se", record_energy=True)
    assert (found.energy.diff(dim=0) > 0).any()


@pytest.mark.parametrize("loss", ["ce", "se"])
def test_both_solvers_reach_the_same_equilibrium(rng, loss):
    layers = [
        make_layer(rng, 1, (2, 3, 3, 3), "tanh", pool=2),
        make_layer(rng, 1, (5, 2 * 2 * 2), "tanh"),
        make_layer(rng, 1, (4, 5), "identity"),
    ]
    x, labels = torch.tensor(rng.normal(size=(3, 3, 6, 6))), torch.tensor([[0, 3, 1]])
    options = {"steps": 400, "rate": 0.3, "momentum": 0.5, "loss": loss}
    state = relax(layers, x, labels, **options)
    error = relax(layers, x, labels, solver="error", **options)
    assert all(e.abs().max() > 1e-3 for e in state.errors)
    for a, b in zip(state.values, error.values, strict=True):
        assert_near(a, b, 1e-9)
    for a, b in zip(state.gradients(), error.gradients(), strict=True):
        assert_near(a.weight, b.weight, 1e-8)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_errors_far_below_the_rounding_of_a_value_keep_their_digits(rng, backend):
    layers = [make_layer(rng, 1, (5, 5), "tanh") for _ in range(3)]
    x, labels = torch.tensor(rng.normal(size=(1, 4, 5))), torch.tensor([[0, 1, 2, 3]])
    options = {"steps": 2, "rate": 1e-4}
    exact = relax(layers, x, labels, **options)
    found = relax(cast(layers, torch.float32), x.float(), labels, backend=backend, **options)
    assert exact.errors[0].abs().max() < 1e-7
    assert_near(found.errors[0], exact.errors[0], 1e-4)
    assert_near(found.gradients()[0].weight, exact.gradients()[0].weight, 1e-4)


# --- locality ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["standard", "fixed-pred"])
def test_a_weight_gradient_needs_only_its_own_error_and_input(rng, schedule):
    layers, (x, labels) = chain(rng, "gelu", affine=True), batch(rng)
    found = relax(layers, x, labels, schedule=schedule)
    kept = [(b.clone(), e.clone()) for b, e in zip(found.inputs, found.errors, strict=True)]
    expected = found.gradients()
    for level, (layer, (below, error)) in enumerate(zip(layers, kept, strict=True)):
        for other in layers:
            if other is not layer:
                other.weight.fill_(torch.nan)
        own = local_gradient(layer, below, error)
        for name in FIELDS:
            if field(layer, name):
                assert_near(getattr(own, name), getattr(expected[level], name), 1e-12)
        for other, fresh in zip(layers, chain(np.random.default_rng(5), "gelu", affine=True),
                                strict=True):  # fmt: skip
            other.weight.copy_(fresh.weight)


def test_changing_the_other_layers_leaves_a_gradient_alone(rng):
    layers, (x, labels) = chain(rng, "relu"), batch(rng)
    found = relax(layers, x, labels)
    before = [g.weight.clone() for g in found.gradients()]
    for level in range(4):
        changed = replace(found, layers=[
            layer if i == level else replace(layer, weight=torch.randn_like(layer.weight))
            for i, layer in enumerate(layers)
        ])  # fmt: skip
        assert torch.equal(changed.gradients()[level].weight, before[level])
        # The gradient is not a constant: it follows its own error.
        doubled = local_gradient(layers[level], found.inputs[level], 2 * found.errors[level])
        assert_near(doubled.weight, 2 * before[level], 1e-12)


# --- incremental -------------------------------------------------------------------------------


def test_incremental_moves_weights_and_values_together(rng):
    layers, (x, labels) = chain(rng, "tanh", seeds=1, affine=True), batch(rng, 1)
    network = [{k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in layer.items()}
               for layer in plain(layers, 0)]  # fmt: skip

    def descend(gradients):
        for layer, gradient in zip(layers, gradients, strict=True):
            for name in FIELDS:
                if field(layer, name):
                    getattr(layer, name).sub_(getattr(gradient, name), alpha=0.1)

    found = relax(layers, x, labels, steps=4, rate=0.2, schedule="incremental", on_step=descend)
    values = [x.numpy()]
    for layer in network[:-1]:
        values.append(reference.predict(layer, values[-1]))
    for _ in range(4):
        mu = [reference.predict(layer, v) for layer, v in zip(network, values, strict=True)]
        errors = [v - m for v, m in zip(values[1:], mu[:-1], strict=True)]
        errors.append(reference.output_error(mu[-1], labels[0].numpy(), "ce")[0])
        asked = [reference.back(*args) for args in zip(network, values, errors, strict=True)][1:]
        gradients = [reference.gradient(*a) for a in zip(network, values, errors, strict=True)]
        for level, back in enumerate(asked, start=1):
            values[level] = values[level] - 0.2 * (errors[level - 1] - back)
        for layer, gradient in zip(network, gradients, strict=True):
            for name, slope in gradient.items():
                layer[name] = layer[name] - 0.1 * slope
    for level, layer in enumerate(layers):
        assert_near(of_seed(found.inputs[level], 0, 1), values[level], 1e-11)
        for name in FIELDS:
            if field(layer, name):
                assert_near(getattr(layer, name)[0], network[level][name], 1e-11)


# --- stacking, memory, inputs ------------------------------------------------------------------


def test_stacked_networks_equal_each_alone(rng):
    layers, (x, labels) = cast(chain(rng, "gelu", 3), torch.float32), batch(rng, 3)
    x = x.float()
    together = relax(layers, x, labels).gradients()
    for seed in range(3):
        own = x.reshape(3, 3, 3, 11, 9)[:, seed]
        single = relax(alone(layers, seed), own, labels[seed, None]).gradients()
        for a, b in zip(single, together, strict=True):
            assert_near(a.weight[0], b.weight[seed], GRADIENT_TOLERANCE[torch.float32])


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided"])
def test_inputs_in_any_layout_are_read_and_left_alone(rng, layout):
    layers, (x, labels) = cast(chain(rng, "relu"), torch.float32), batch(rng)
    x = x.float()
    given = {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "strided": x.repeat_interleave(2, 3)[..., ::2],
    }[layout]
    before = [layer.weight.clone() for layer in layers]
    expected, found = relax(layers, x, labels), relax(layers, given, labels)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(given, x)
    for layer, weight, a, b in zip(layers, before, found.gradients(), expected.gradients(),
                                   strict=True):  # fmt: skip
        assert torch.equal(layer.weight, weight)
        assert torch.equal(a.weight, b.weight)


def test_dense_chain(rng):
    layers = [
        make_layer(rng, 2, (5, 4), "relu"),
        make_layer(rng, 2, (3, 5), "identity"),
    ]
    x, labels = torch.tensor(rng.normal(size=(2, 7, 4))), torch.tensor(rng.integers(0, 3, (2, 7)))
    found = relax(layers, x, labels, steps=3)
    for seed in range(2):
        own = (plain(layers, seed), x[seed].numpy(), labels[seed].numpy())
        _, errors, _ = reference.relax(*own, steps=3, rate=0.05)
        assert_near(found.errors[0][seed], errors[0], 1e-12)


# --- the compiled passes -----------------------------------------------------------------------

SIZES = [(1, 1, 2, 2), (2, 3, 5, 7), (1, 31, 4, 3), (3, 33, 3, 2), (1, 127, 2, 5)]


def like_map(rng, shape, scale=2.0):
    array = torch.tensor(rng.normal(size=shape) * scale, dtype=torch.float32)
    return array.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("pool", [None, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_compiled_passes_equal_torch(rng, activation, pool, momentum):
    for shape in SIZES:
        n, c, height, width = shape
        small = (n, c, height // (pool or 1), width // (pool or 1))
        a = like_map(rng, shape)
        value, error, back, velocity = (like_map(rng, small, 1.0) for _ in range(4))
        velocity = velocity if momentum else None
        states = []
        for passes, dtype in ((cpu, torch.float32), (torch_, torch.float64)):
            state = [t if t is None else t.to(dtype, copy=True)
                     for t in (value, error, back, velocity)]  # fmt: skip
            mu = passes.predict(0.9 * a.to(dtype), activation, pool)
            gated = passes.step(a.to(dtype, copy=True), mu, *state, 0.1, momentum, activation, pool)
            gate = passes.gate(a.to(dtype, copy=True), state[1], activation, pool)
            passes.advance(mu, *state, 0.1, momentum)
            states.append([mu, gated, gate, *(t for t in state if t is not None)])
        for ours, theirs in zip(*states, strict=True):
            assert_near(ours, theirs, 2e-6, scale=1.0)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_accurate_on_every_instruction_set(activation, isa, monkeypatch):
    monkeypatch.setattr(cpu, "native", importlib.import_module(f"rsafast_kernels._native.{isa}"))
    edges = [0.0, -0.0, 0.625, -0.625, 1.0, -1.0, 1e-30, -1e-30, 9.0, -9.0, 50.0, -50.0, 1e4, -1e4]
    points = np.concatenate([edges, np.linspace(-8, 8, 4001)]).astype(np.float32)
    a = torch.tensor(points).reshape(1, 1, -1)
    value = reference.activate(points.astype(float), activation)
    slope = reference.slope(points.astype(float), activation)
    found = cpu.predict(a, activation, None).flatten()
    np.testing.assert_allclose(found, value, atol=4e-7, rtol=4e-7)
    found = cpu.gate(a.clone(), torch.ones_like(a), activation, None).flatten()
    np.testing.assert_allclose(found, slope, atol=1e-6, rtol=1e-6)


def test_error_goes_to_the_first_of_equal_maxima():
    a = torch.full((1, 1, 2, 2), 3.0)
    expected = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    for passes in (cpu, torch_):
        found = passes.gate(a.clone(), torch.full((1, 1, 1, 1), 2.0), "relu", 2)
        assert torch.equal(found, expected)


def test_threads_change_no_bit(rng):
    layers = cast([make_layer(rng, 1, (32, 3, 3, 3), "gelu", pool=2, padding=1),
                   make_layer(rng, 1, (6, 32 * 16 * 16), "identity")], torch.float32)  # fmt: skip
    x, labels = torch.randn(4, 3, 32, 32), torch.tensor([[0, 1, 2, 3]])
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(relax(layers, x, labels, momentum=0.2))
    for other in results[1:]:
        assert torch.equal(results[0].values[0], other.values[0])
        assert torch.equal(results[0].gated[0], other.gated[0])


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"rate": float("nan")}, "rate must be positive"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"loss": "mse"}, "loss must be one of ce, se"),
        ({"schedule": "fixed"}, "schedule must be one of"),
        ({"solver": "epc"}, "solver must be one of"),
        ({"solver": "error", "schedule": "fixed-pred"}, "solver='error' goes with"),
        ({"schedule": "incremental"}, "without on_step"),
        ({"on_step": print}, "with on_step"),
        ({"backend": "gpu"}, "backend must be"),
    ],
)
def test_wrong_options_are_refused(rng, options, message):
    layers, (x, labels) = chain(rng, "relu"), batch(rng)
    with pytest.raises(InvalidInputError, match=message):
        relax(layers, x, labels, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers, x, y: ([], x, y), "layers is empty"),
        (lambda layers, x, y: (layers[:2], x, y), "end the chain with a dense layer"),
        (lambda layers, x, y: (layers, x.half(), y), "x must be float32 or float64"),
        (lambda layers, x, y: (layers, x[:, :3], y), r"takes maps of 2\*3 channels"),
        (lambda layers, x, y: (layers, x[..., :1, :1], y), "leaves nothing of a map of 1x1"),
        (lambda layers, x, y: (layers, x[..., :5, :], y), "takes 36 inputs"),
        (lambda layers, x, y: (layers, x.float(), y), "x is torch.float32"),
        (lambda layers, x, y: (with_masks(layers, np.random.default_rng(), 4), x, y), "mask must"),
        (lambda layers, x, y: (layers, x, y[:, :2]), "labels must be int64 of shape"),
        (lambda layers, x, y: (layers, x, y.int()), "labels must be int64 of shape"),
        (lambda layers, x, y: (layers, x, y + 6), r"labels must be in \[0, 5\]"),
        (lambda layers, x, y: ([*layers[:3], alone(layers, 1)[3]], x, y), "stacks 1 networks"),
    ],
)  # fmt: skip
def test_wrong_chains_and_batches_are_refused(rng, change, message):
    layers, (x, labels) = chain(rng, "relu"), batch(rng)
    with pytest.raises(InvalidInputError, match=message):
        relax(*change(layers, x, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": torch.ones(2, 2)}, "weight must be"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"pool": 3}, "pool must be None, or 2"),
        ({"weight": torch.ones(1, 2, 2), "pool": 2}, "pool must be None, or 2 after a conv"),
        ({"scale": torch.ones(1, 2)}, "scale and shift go together"),
        ({"mask": torch.ones(1, 3, 2)}, "mask is for the input of a dense layer"),
        ({"bias": torch.ones(2)}, r"bias must be \(S, out\) = \(1, 2\)"),
    ],
)
def test_wrong_layers_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Layer(**{"weight": torch.ones(1, 2, 2, 3, 3)} | options)


def test_an_error_of_another_shape_is_refused(rng):
    layer = chain(rng, "relu")[0]
    with pytest.raises(InvalidInputError, match="error must have the shape"):
        local_gradient(layer, batch(rng)[0], torch.zeros(3, 10, 11, 9, dtype=torch.float64))


@pytest.mark.parametrize("backend", ["native", "triton"])
def test_a_backend_that_cannot_run_says_so(rng, backend):
    layers, (x, labels) = chain(rng, "relu"), batch(rng)
    with pytest.raises(BackendUnavailableError, match=r"torch\.float64 on cpu"):
        predictive.relax(layers, x, labels, backend=backend)
