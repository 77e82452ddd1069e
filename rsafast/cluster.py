"""Work on a Dask cluster: the same numbers as in this process, whoever computes them.

Tasks are functions of their arguments alone, and their results are taken in order. So a result does
not depend on the number of workers, nor on how often one of them died and its task ran again.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rsafast.errors import BackendUnavailableError, InvalidInputError, RsafastError

if TYPE_CHECKING:
    from distributed import Client

# An address such as "tcp://host:8786", "local" for the cores of this machine, or a client.
Cluster: TypeAlias = "str | Client"
Result = TypeVar("Result")

_DEATHS = 100  # workers that may die with a task before a local cluster gives it up
_PATIENCE = 20.0  # seconds that a scheduler has to answer


@contextmanager
def connected(cluster: Cluster) -> Iterator[Client]:
    """Yield a client of `cluster`; one that was made here is closed in the end.

    Raises
    ------
    BackendUnavailableError
        Where dask.distributed is not installed.
    InvalidInputError
        Where nothing answers at the address, and for what is neither address nor client.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise BackendUnavailableError(
            "cluster= needs dask.distributed; install it with pip install 'rsafast[cluster]'"
        ) from None
    if isinstance(cluster, Client):
        yield cluster
        return
    if not isinstance(cluster, str):
        raise InvalidInputError(
            f"cluster must be 'local', an address such as 'tcp://host:8786' or a Client,"
            f" got {cluster!r}"
        )
    if cluster == "local":
        from rsafast_kernels import num_threads

        # Workers of one thread: the kernels' own threads would fight for the same cores.
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": _DEATHS}),
            LocalCluster(num_threads(), threads_per_worker=1, dashboard_address=None) as local,
            Client(local) as client,
        ):
            yield client
        return
    try:
        client = Client(cluster, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cluster {cluster!r}: no scheduler answers there ({error}); start one with"
            " `dask scheduler`, or use cluster='local'"
        ) from None
    with client:
        yield client


def in_order(
    client: Client, function: Callable[..., Result], calls: Iterable[tuple[Any, ...]]
) -> Generator[Result]:
    """Yield ``function(*arguments)`` of every call, in order, a few of them at a time.

    Raises
    ------
    RsafastError
        Where the scheduler is lost, or a task is given up because its workers died.
    """
    from distributed import CancelledError, KilledWorker, TimeoutError
    from distributed.comm import CommClosedError

    waiting: deque[Any] = deque()
    pending = iter(calls)
    try:
        while True:
            # Two tasks a worker: one that runs and one that is on its way.
            for arguments in pending:
                waiting.append(client.submit(function, *arguments, pure=False))
                if len(waiting) >= 2 * max(1, len(client.nthreads())):
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    except KilledWorker as error:
        raise RsafastError(
            f"workers of the cluster keep dying with the same task ({error}); give them more"
            " memory, or a smaller memory_budget. What is done is kept where a file was named"
        ) from None
    except (CancelledError, CommClosedError, TimeoutError) as error:
        raise RsafastError(
            f"the scheduler of the cluster was lost ({error!r}); what is done is kept where a file"
            " was named, and the same call goes on from there"
        ) from None
    finally:
        for future in waiting:
            future.release()


def once(client: Client, value: Result) -> Any:
    """Put `value` on the cluster for many tasks, so that it survives workers that die."""
    # Not scatter(), which Dask's warning recommends: what is scattered is lost with the workers
    # that hold it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")
        return client.submit(_itself, value, pure=False)


def _itself(value: Result) -> Result:
    return value
