"""The same bits from a Dask cluster, whoever works there and whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from killing import Killed
from test_streaming import assert_same, dying, lazy, related
from threadpoolctl import threadpool_info, threadpool_limits

import rsafast as rf
from rsafast.cluster import in_order
from rsafast.errors import InvalidInputError, RsafastError
from rsafast.ondisk import plan
from rsafast.ondisk.plan import choose_orbits

OPTIONS = {"n_permutations": 4_000}


@pytest.fixture
def many_tasks(monkeypatch):
    """Plans of two tiles and a part a task."""
    monkeypatch.setattr("rsafast_kernels.orbit.streaming._SLOTS", 8)
    orbits = choose_orbits(404, OPTIONS["n_permutations"], 2, 2)
    assert len(orbits.parts) > 3
    tile = (orbits.counts[0], max(1, orbits.counts[1] // 2))
    made = plan.StreamPlan(orbits, tile, 1, 0, 0, 0, {})
    monkeypatch.setattr("rsafast.ondisk.test.make_plan", lambda *_: made)


@pytest.fixture(scope="module")
def inline():
    """A cluster in this process: nothing but the scheduling of a real one."""
    with (
        LocalCluster(2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


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


@pytest.mark.slow
@pytest.mark.usefixtures("many_tasks")
def test_workers_that_are_killed_change_nothing():
    a, b = related(404, 2)
    whole = rf.permutation_test_files(lazy(a), lazy(b), method="pearson", **OPTIONS)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        LocalCluster(4, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        done, deaths = threading.Event(), []

        def kill():
            """Two of the four workers, over and over."""
            for _ in range(4):
                if done.wait(2.0):
                    return
                for nanny in list(cluster.workers.values())[:2]:
                    if nanny.pid:
                        with suppress(ProcessLookupError):
                            os.kill(nanny.pid, signal.SIGKILL)
                            deaths.append(nanny.pid)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            while len(deaths) < 4:
                found = rf.permutation_test_files(
                    lazy(a), lazy(b), method="pearson", cluster=client, **OPTIONS
                )
                assert_same(found, whole)
        finally:
            done.set()
            killer.join()


def _wait(seconds):
    time.sleep(seconds)
    return seconds


@pytest.mark.slow
def test_a_lost_scheduler_is_an_error_that_says_so(tmp_path):
    address = "tcp://127.0.0.1:18786"
    programs = [
        ["scheduler", "--host", "127.0.0.1", "--port", "18786", "--no-dashboard"],
        ["worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"],
    ]
    scheduler, worker = (
        subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + name, *rest],
                         stderr=subprocess.DEVNULL, cwd=tmp_path)
        for name, *rest in programs
    )  # fmt: skip
    try:
        with Client(address, timeout=30) as client:
            client.wait_for_workers(1, timeout=30)
            results = in_order(client, time.sleep, [(0.01,), (60.0,)])
            assert next(results) is None
            scheduler.send_signal(signal.SIGKILL)
            with pytest.raises(RsafastError, match="scheduler of the cluster was lost"):
                next(results)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


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
