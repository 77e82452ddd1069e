"""Permutation tests with device="cuda" on a stand-in for a GPU: the same counts as on the CPU."""

import numpy as np
import pytest

import rsafast as rf
from rsafast.errors import BackendUnavailableError, InvalidInputError, RsafastError
from rsafast.permutation import gpu

COUNTS = ("exceedances", "p_value", "p_value_fwer", "p_value_stepdown", "p_standard_error")


@pytest.fixture
def rdms(random_rdm):
    models = np.stack([random_rdm(30), random_rdm(30, "line"), random_rdm(30, "categories")])
    brain = np.stack([random_rdm(30, "clustered"), models[0] + 0.5 * random_rdm(30)])
    return models, brain


def both(models, brain, **options):
    options = {"n_permutations": 2000, "progress": False, "seed": 7} | options
    return [rf.permutation_test(models, brain, device=d, **options) for d in ("cuda", "cpu")]


def assert_same(got, wanted):
    assert (got.device, wanted.device) == ("cuda", "cpu")
    assert got.engine == wanted.engine
    assert got.n_permutations == wanted.n_permutations
    for name in COUNTS:
        assert np.array_equal(getattr(got, name), getattr(wanted, name)), name
    assert np.abs(got.histogram - wanted.histogram).sum() <= 4, "a value on the edge of a bin"
    np.testing.assert_allclose(got.null_std, wanted.null_std, rtol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "pearson", "alternative": "two-sided"},
        {"method": "cosine", "alternative": "less"},
        {"method": "cosine_cov"},
        {"engine": "direct", "n_permutations": 200},
        {"blocks": np.arange(30) % 3, "n_permutations": 200},
        {"tail": "gpd"},
        {"memory_budget": "20KB"},
    ],
    ids=str,
)
def test_counts_are_those_of_the_cpu(simulated_gpu, rdms, options):
    if "memory_budget" not in options:
        assert_same(*both(*rdms, **options))
        return
    with pytest.raises(InvalidInputError, match="too small for the GPU"):
        both(*rdms, **options)


def test_partial_masked_and_exact_tests(simulated_gpu, rdms, random_rdm):
    models, brain = rdms
    mask = ~np.eye(30, dtype=bool)
    mask[:3, 5:9] = mask[5:9, :3] = False
    assert_same(*both(models, brain, covariates=random_rdm(30), method="pearson"))
    assert_same(*both(models, brain, covariates=random_rdm(30), mask=mask))
    few = [x[:, ::5, ::5] for x in rdms]
    assert_same(*both(*few, engine="exact"))


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_float32_gives_the_same_counts(simulated_gpu, rdms, method):
    simulated_gpu.ratio = 64
    asked = []
    evaluate = gpu.Orbits.exactly

    def counted(self, tile, places):
        asked.append(len(places))
        return evaluate(self, tile, places)

    gpu.Orbits.exactly = counted
    try:
        got, wanted = both(*rdms, method=method, n_permutations=8_000)
    finally:
        gpu.Orbits.exactly = evaluate
    assert_same(got, wanted)
    assert 1 <= sum(asked) < 0.5 * got.n_permutations


def test_kept_nulls_are_float64_ones(simulated_gpu, rdms):
    simulated_gpu.ratio = 64
    got, wanted = both(*rdms, keep_null=True)
    np.testing.assert_allclose(got.null, wanted.null, rtol=0, atol=1e-13)


def test_tiles_do_not_change_the_result(simulated_gpu, rdms, monkeypatch):
    got, wanted = both(*rdms)
    monkeypatch.setattr(gpu, "_LARGEST_BLOCK", 1)
    assert_same(*both(*rdms))
    assert np.array_equal(got.exceedances, wanted.exceedances)


def test_tiles_cover_every_pair_once_and_fit(simulated_gpu, rdms):
    from rsafast.permutation.statistics import Product

    a, b = rdms
    statistic = gpu.moved(Product(a, b))
    for budget in (10**6, 10**8, 10**11):
        seen = np.zeros((37, 23), int)
        for tile in gpu.tiles(statistic, 30, (37, 23), budget, 8):
            seen[np.ix_(tile.i, tile.j)] += 1
        assert (seen == 1).all()


def test_too_little_room_halves_the_block_and_says_so(simulated_gpu, rdms):
    wanted = both(*rdms)[1]
    simulated_gpu.limit = 30_000  # bytes of one array; the plan is for more
    with pytest.warns(UserWarning, match="smaller blocks, with the same result"):
        got = rf.permutation_test(
            *rdms, n_permutations=2000, seed=7, device="cuda", memory_budget="2GB", progress=False
        )
    assert_same(got, wanted)
    simulated_gpu.limit = 5_000
    with pytest.raises(RsafastError, match="no room for the matrices of these RDMs, 36 KB"):
        rf.permutation_test(*rdms, device="cuda", memory_budget="2GB", progress=False)


def test_no_room_at_all_is_an_error(simulated_gpu, rdms, monkeypatch):
    def full(orbits, tile):
        raise simulated_gpu.cuda.memory.OutOfMemoryError("full")

    monkeypatch.setattr(gpu.Orbits, "values", full)
    with (
        pytest.warns(UserWarning, match="smaller blocks"),
        pytest.raises(RsafastError, match="no room for a single orbit of 30 stimuli"),
    ):
        rf.permutation_test(*rdms, n_permutations=500, device="cuda", progress=False)


def test_what_has_no_kernel_falls_back_only_unasked(simulated_gpu, rdms):
    with pytest.raises(BackendUnavailableError, match="'kendall' here has no GPU kernel"):
        rf.permutation_test(*rdms, method="kendall", device="cuda", n_permutations=10)
    with pytest.warns(UserWarning, match="has no GPU kernel and runs on the CPU"):
        got = rf.permutation_test(*rdms, method="kendall", n_permutations=10, progress=False)
    assert got.device == "cpu"


def test_cuda_without_a_gpu_says_why(rdms):
    from rsafast_kernels.device import cuda_missing

    if cuda_missing("cupy") is None:
        pytest.skip("a GPU is here")
    with pytest.raises(BackendUnavailableError, match="device='cuda' cannot run here: "):
        rf.permutation_test(*rdms, device="cuda")
    with pytest.raises(InvalidInputError, match="one of auto, cpu, cuda, got 'gpu'"):
        rf.permutation_test(*rdms, device="gpu")
