"""The same bits from a Dask cluster, whoever works there and whoever dies."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import dask
import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster
from killing import Killed
from scipy.stats import rankdata
from test_ondisk import dies_after
from test_streaming import assert_same, dying, lazy, related
from threadpoolctl import threadpool_info, threadpool_limits

import rsafast as rf
from rsafast.cli import main
from rsafast.cluster import in_order
from rsafast.errors import InvalidInputError, RsafastError
from rsafast.ondisk import bootstrap, compute, plan, ranks, rows, work
from rsafast.ondisk.plan import choose_orbits

OPTIONS = {"n_permutations": 4_000}
DEATHS = 4


@pytest.fixture
def many_tasks(monkeypatch):
    """Plans of two tiles and a part a task."""
    monkeypatch.setattr("rsafast_kernels.orbit.streaming._SLOTS", 8)
    orbits = choose_orbits(404, OPTIONS["n_permutations"], 2, 2)
    assert len(orbits.parts) > 3
    tile = (orbits.counts[0], max(1, orbits.counts[1] // 2))
    made = plan.StreamPlan(orbits, tile, 1, 0, 0, 0, {})
    monkeypatch.setattr("rsafast.ondisk.test.make_plan", lambda *_: made)


@pytest.mark.usefixtures("many_tasks")
def test_a_cluster_gives_the_same_bits(tmp_path, inline):
    a, b = related(404, 2)
    whole = rf.permutation_test_files(lazy(a), lazy(b), **OPTIONS)
    found = rf.permutation_test_files(lazy(a), lazy(b), cluster=inline, **OPTIONS)
    assert_same(found, whole)
    stored = [
        [rf.compute_rdm_file(x, tmp_path / f"{side}{i}.h5") for i, x in enumerate(features)]
        for side, features in (("a", a), ("b", b))
    ]
    address = inline.scheduler.address
    found = rf.permutation_test_files(*stored, cluster=address, **OPTIONS)
    assert_same(found, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("many_tasks")
def test_a_test_goes_on_from_one_cluster_to_another_and_to_none(tmp_path, inline, monkeypatch):
    a, b = related(404, 2)
    out = tmp_path / "result.h5"
    for cluster in (inline, None):
        with monkeypatch.context() as patch:
            dying(patch, 3)
            with pytest.raises(Killed):
                rf.permutation_test_files(lazy(a), lazy(b), out=out, cluster=cluster, **OPTIONS)
    found = rf.permutation_test_files(lazy(a), lazy(b), out=out, cluster=inline, **OPTIONS)
    assert_same(found, rf.permutation_test_files(lazy(a), lazy(b), **OPTIONS))


@pytest.fixture
def many_panels(monkeypatch):
    """RDM files of 5 panels; rank files of as many tasks of every pass, about."""
    monkeypatch.setattr(compute, "_WRITE_BYTES", 1)
    monkeypatch.setattr(compute, "_SENT_BYTES", 1)
    monkeypatch.setattr(compute, "_LEAST_ROWS", 64)
    monkeypatch.setattr(rows.panels, "__defaults__", (10_000,))
    monkeypatch.setattr(ranks, "_BLOCK", 10_000)
    monkeypatch.setattr(ranks, "PANEL", 2**40)  # one panel of the second pass a task


def steps(n=301, channels=60):
    """Features whose correlation distances are tied: a third of the stimuli stand there twice."""
    x = np.random.default_rng(5).integers(0, 3, (n, channels)).astype(np.float32)
    x[: n // 3] = x[n // 3 : 2 * (n // 3)]
    return x


@pytest.mark.usefixtures("many_panels")
@pytest.mark.parametrize("normalize", [None, "channels"])
@pytest.mark.parametrize("stored", ["float32", "float16", "float64"])
def test_rdm_files_have_the_same_bits(tmp_path, inline, stored, normalize):
    given = {"metric": "euclidean", "dtype": stored, "normalize": normalize}
    labels = [f"image {i}" for i in range(301)]
    expected = rf.compute_rdms(steps(), "euclidean", normalize=normalize).vectors[0]
    for name, cluster in (("inline", inline), ("address", inline.scheduler.address)):
        path = tmp_path / f"{name}.h5"
        found = rf.compute_rdm_file(steps(), path, cluster=cluster, labels=labels, **given)
        np.testing.assert_array_equal(found.values, expected.astype(stored))
        assert found.labels == tuple(labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["address.h5", "inline.h5"]


@pytest.mark.slow
@pytest.mark.usefixtures("many_panels")
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_rank_files_have_the_same_bits(tmp_path, inline, stored):
    rdm = rf.compute_rdm_file(steps(), tmp_path / "a.h5", dtype=stored)
    expected = rankdata(rdm.values)
    assert len(np.unique(expected)) < len(expected) / 2, "there are no ties"
    for cluster in (inline, inline.scheduler.address):
        found = rf.rank_rdm_file(rdm, tmp_path / "r.h5", cluster=cluster)
        np.testing.assert_array_equal(found.values, expected.astype(np.float32))
    small = rf.rank_rdm_file(rdm.path, tmp_path / "q.h5", dtype="uint16", cluster=inline)
    whole = rf.rank_rdm_file(rdm, tmp_path / "w.h5", dtype="uint16")
    np.testing.assert_array_equal(small.values, whole.values)
    assert (small.name, small.measure) == (whole.name, whole.measure)


@pytest.mark.slow
@pytest.mark.usefixtures("many_panels")
def test_files_go_on_from_one_cluster_to_another_and_to_none(tmp_path, inline):
    calls = {
        "rdm": lambda path, cluster: rf.compute_rdm_file(steps(), path, cluster=cluster),
        "ranks": lambda path, cluster: rf.rank_rdm_file(tmp_path / "rdm.h5", path, cluster=cluster),
    }
    for name, call in calls.items():
        for last, clusters in ((inline, (None, inline)), (None, (inline, None))):
            path = tmp_path / f"{name}.h5"
            for cluster in clusters:
                with dies_after(1), pytest.raises(Killed):
                    call(path, cluster)
            with dies_after(100) as seen:
                found = call(path, last)
            assert len(seen) == 3
            whole = call(tmp_path / f"{name}-whole.h5", None)
            np.testing.assert_array_equal(found.values, whole.values)


@pytest.mark.usefixtures("many_panels")
def test_bad_input_is_refused_by_workers_as_it_is_here(tmp_path, inline):
    far = np.eye(301) * 1e5
    with pytest.raises(InvalidInputError, match="does not fit float16"):
        rf.compute_rdm_file(far, tmp_path / "a.h5", "euclidean", dtype="float16", cluster=inline)
    rdm = rf.compute_rdm_file(steps(), tmp_path / "b.h5")
    with pytest.raises(InvalidInputError, match=r"counters of .*b\.h5"):
        rf.rank_rdm_file(rdm, tmp_path / "r.h5", memory_budget="1MB", cluster=inline)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["dissimilarities"][0, 40_000] = np.nan
    with pytest.raises(InvalidInputError, match=r"b\.h5: values must be finite"):
        rf.rank_rdm_file(tmp_path / "b.h5", tmp_path / "r.h5", cluster=inline)
    with pytest.raises(InvalidInputError, match="cluster must be"):
        rf.compute_rdm_file(steps(), tmp_path / "c.h5", cluster=3)
    with pytest.raises(InvalidInputError, match="cluster must be"):
        rf.rank_rdm_file(rdm, tmp_path / "c.h5", cluster=3)
    assert [path.name for path in tmp_path.iterdir()] == ["b.h5"]


@contextmanager
def killed_workers():
    """A cluster of four workers two of which are killed, twice; yields it and the deaths."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        LocalCluster(4, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        done, deaths = threading.Event(), []

        def kill():
            while len(deaths) < DEATHS and not done.wait(2.0):
                for nanny in list(cluster.workers.values())[:2]:
                    if nanny.pid:
                        with suppress(ProcessLookupError):
                            os.kill(nanny.pid, signal.SIGKILL)
                            deaths.append(nanny.pid)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            yield client, deaths
        finally:
            done.set()
            killer.join()


@pytest.mark.slow
@pytest.mark.usefixtures("many_tasks")
def test_workers_that_are_killed_change_nothing():
    a, b = related(404, 2)
    whole = rf.permutation_test_files(lazy(a), lazy(b), method="pearson", **OPTIONS)
    with killed_workers() as (client, deaths):
        while len(deaths) < DEATHS:
            found = rf.permutation_test_files(
                lazy(a), lazy(b), method="pearson", cluster=client, **OPTIONS
            )
            assert_same(found, whole)


@pytest.mark.slow
def test_workers_that_are_killed_change_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "_SENT_BYTES", 1)
    monkeypatch.setattr(rows.panels, "__defaults__", (200_000,))
    monkeypatch.setattr(ranks, "_BLOCK", 200_000)
    x = steps(3000)
    rdm = rf.compute_rdm_file(x, tmp_path / "rdm.h5")
    ranked = rf.rank_rdm_file(rdm, tmp_path / "ranks.h5")
    with killed_workers() as (client, deaths):
        while len(deaths) < DEATHS:
            found = rf.compute_rdm_file(x, tmp_path / "a.h5", cluster=client)
            np.testing.assert_array_equal(found.values, rdm.values)
            found = rf.rank_rdm_file(rdm, tmp_path / "r.h5", cluster=client)
            np.testing.assert_array_equal(found.values, ranked.values)


@pytest.mark.slow
def test_workers_that_are_killed_change_no_bootstrap(monkeypatch):
    monkeypatch.setattr(bootstrap, "BLOCK", 48)
    a, b = related(600, 2)
    whole = rf.bootstrap_files(lazy(a), lazy(b), n_resamples=500)
    with killed_workers() as (client, deaths):
        while len(deaths) < DEATHS:
            found = rf.bootstrap_files(lazy(a), lazy(b), n_resamples=500, cluster=client)
            assert_same(found, whole)


def _wait(seconds):
    time.sleep(seconds)
    return seconds


@contextmanager
def programs(folder, *commands, **environment):
    """Dask's own programs, killed at the end."""
    running = [
        subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + name, *rest],
                         stderr=subprocess.DEVNULL, cwd=folder, env=os.environ | environment)
        for name, *rest in commands
    ]  # fmt: skip
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def scheduler_and_worker(folder, port, **environment):
    """Yield the processes of both, in other words a cluster at this port."""
    address = f"tcp://127.0.0.1:{port}"
    return programs(
        folder,
        ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        ["worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"],
        **environment,
    )


@pytest.mark.slow
def test_a_lost_scheduler_is_an_error_that_says_so(tmp_path):
    with (
        scheduler_and_worker(tmp_path, 18786) as (scheduler, _),
        Client("tcp://127.0.0.1:18786", timeout=30) as client,
    ):
        client.wait_for_workers(1, timeout=30)
        results = in_order(client, time.sleep, [(0.01,), (60.0,)])
        assert next(results) is None
        scheduler.send_signal(signal.SIGKILL)
        with pytest.raises(RsafastError, match="scheduler of the cluster was lost"):
            next(results)


@pytest.mark.slow
@pytest.mark.usefixtures("many_panels")
@pytest.mark.parametrize("what", ["rdm", "ranks"])
def test_files_go_on_after_the_scheduler_was_lost(tmp_path, what):
    rdm = rf.compute_rdm_file(steps(), tmp_path / "whole.h5")

    def call(cluster):
        if what == "rdm":
            return rf.compute_rdm_file(steps(), tmp_path / "a.h5", cluster=cluster)
        return rf.rank_rdm_file(rdm, tmp_path / "a.h5", cluster=cluster)

    original = work.Work.record
    with scheduler_and_worker(tmp_path, 18787) as (scheduler, _), pytest.MonkeyPatch.context() as p:

        def record(self, parts):
            original(self, parts)
            scheduler.kill()

        p.setattr(work.Work, "record", record)
        with pytest.raises(RsafastError, match=r"scheduler .* was lost .* same call goes on"):
            call("tcp://127.0.0.1:18787")
    assert not (tmp_path / "a.h5").exists()
    with dies_after(100) as seen:
        found = call(None)
    assert len(seen) == 4
    whole = rdm if what == "rdm" else rf.rank_rdm_file(rdm, tmp_path / "whole-ranks.h5")
    np.testing.assert_array_equal(found.values, whole.values)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs kernels that OpenBLAS has there")
def test_workers_that_compute_other_bits_are_refused(tmp_path):
    """A worker whose BLAS takes the processor for an older one."""
    a, b = (lazy(side)[0] for side in related(404))
    with (
        scheduler_and_worker(tmp_path, 18788, OPENBLAS_CORETYPE="Prescott"),
        Client("tcp://127.0.0.1:18788", timeout=30) as client,
    ):
        client.wait_for_workers(1, timeout=30)
        message = "a worker of the cluster computes other values .* without cluster="
        with pytest.raises(RsafastError, match=message):
            rf.compute_rdm_file(steps(), tmp_path / "a.h5", cluster=client)
        with pytest.raises(RsafastError, match=message):
            rf.permutation_test_files(a, b, n_permutations=1_000, cluster=client)
    assert not (tmp_path / ".a.h5.partial").exists()


@pytest.mark.slow
def test_commands_take_a_cluster(tmp_path, inline, capsys):
    np.save(tmp_path / "x.npy", steps())
    rdm, ranked, result = (str(tmp_path / name) for name in ("rdm.h5", "ranks.h5", "result.h5"))
    features = ["rdm", str(tmp_path / "x.npy"), "-o", rdm, "-q"]
    test = ["test", ranked, ranked, "-n", "2000", "-q"]
    found, in_memory = [], []
    for cluster in ([], ["--cluster", inline.scheduler.address]):
        assert main([*features, "--store", "float32", *cluster]) == 0
        assert main(["rank", rdm, "-o", ranked, "-q", *cluster]) == 0
        assert main([*test, "-o", result, *cluster]) == 0
        in_memory.append(rf.PermutationResult.load(result))
        assert main([*test, "--stream", "-o", result, *cluster]) == 0
        values = [rf.open_rdm(path).values.tobytes() for path in (rdm, ranked)]
        found.append((values, rf.PermutationResult.load(result)))
    assert found[0][0] == found[1][0]
    assert_same(found[1][1], found[0][1])
    assert np.array_equal(in_memory[0].exceedances, in_memory[1].exceedances)
    capsys.readouterr()
    for wrong, message in (
        (features, "--cluster is of use with --store alone"),
        ([*test, "--stream", "--dry-run"], "--dry-run takes no --cluster"),
    ):
        assert main([*wrong, "--cluster", "local"]) == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.slow
def test_the_cores_of_this_machine_are_a_cluster(tmp_path):
    whole = rf.compute_rdm_file(steps(), tmp_path / "whole.h5")
    np.save(tmp_path / "x.npy", steps())
    command = ["rdm", str(tmp_path / "x.npy"), "--store", "float32", "--cluster", "local"]
    assert main([*command, "-o", str(tmp_path / "a.h5")]) == 0
    np.testing.assert_array_equal(rf.open_rdm(tmp_path / "a.h5").values, whole.values)


def test_values_are_the_same_in_any_thread():
    """As a worker computes them: beside other threads, one of which has set BLAS to two."""
    x = np.random.default_rng(0).standard_normal((1500, 64)).astype(np.float32)
    rdm = rf.lazy_rdm(x)
    here = rdm.read_rows(0, 1500)
    with threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(4) as pool:
        for there in [pool.submit(rdm.read_rows, 0, 1500) for _ in range(12)]:
            np.testing.assert_array_equal(there.result(), here)
        blas = [found for found in threadpool_info() if found["user_api"] == "blas"]
        assert {found["num_threads"] for found in blas} <= {2}


def test_results_come_in_order_few_at_a_time(inline):
    waits = np.random.default_rng(0).uniform(0, 0.05, 12).tolist()
    assert list(in_order(inline, _wait, [(w,) for w in waits])) == waits
    assert list(in_order(inline, _wait, [])) == []
    with pytest.raises(TypeError):
        list(in_order(inline, _wait, [("long",)]))


def test_what_is_no_cluster_is_refused(monkeypatch):
    monkeypatch.setattr("rsafast.cluster._PATIENCE", 0.3)
    (a,), (b,) = map(lazy, related(60))
    for wrong, message in (
        (3, "cluster must be"),
        ("tcp://127.0.0.1:9", "no scheduler answers"),
        ("nowhere://host", "no scheduler answers"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            rf.permutation_test_files(a, b, n_permutations=200, cluster=wrong)
