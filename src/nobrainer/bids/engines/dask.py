"""The engine of many machines: workers of a Dask scheduler, which may come and go."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from distributed import Client, KilledWorker, as_completed
from distributed.comm import resolve_address

import nobrainer as nb
from nobrainer.bids.engines.engine import Act, SetAside
from nobrainer.bids.scan import Outcome, Unit
from nobrainer.errors import InputError

_CONNECT_S = 30
_one_at_a_time = Lock()


@dataclass(frozen=True)
class Dask:
    """Does units on the workers of a scheduler, which see the same files as this one.

    address: where the scheduler listens, such as "tcp://node1:8786".
    """

    address: str

    def run(
        self, act: Act, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Outcome | SetAside]]:
        """Do all units, as many at once as there are workers.

        Args:
            act: what is done with a unit.
            units: the units.

        Raises:
            InputError: the scheduler cannot be reached, or its workers do several
                units in one process.
        """
        if not units:
            return
        with self._connect() as client:
            yield from hand_out(client, act, units)

    @contextmanager
    def _connect(self) -> Iterator[Client]:
        """A connection to the scheduler, whose end calls off what is not begun."""
        try:
            # A client would take a minute to give up an address of another kind.
            resolve_address(self.address)
            client = Client(self.address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--scheduler {self.address}: no scheduler answers there: give the "
                "address that `dask scheduler` shows when it starts"
            ) from error
        with client:
            if any(n_threads > 1 for n_threads in client.nthreads().values()):
                raise InputError(
                    f"--scheduler {self.address}: a worker has several threads, and a "
                    "process does one scan at a time: start workers with --nthreads 1 "
                    "and as many --nworkers as they have cores"
                )
            yield client


def hand_out(
    client: Client, act: Act, units: Sequence[Unit]
) -> Iterator[tuple[Unit, Outcome | SetAside]]:
    """Do units on the workers of a scheduler; yield each with its outcome, as they end.

    Dask gives up a unit when more workers have died with it than the scheduler's
    `allowed-failures`, and blames units that only waited in such a worker as well. So
    those that it gives up are done again when all others have ended, one at a time:
    then only the one to blame can be given up, and is set aside.

    Args:
        client: the connection to the scheduler.
        act: what is done with a unit.
        units: the units.

    Raises:
        InputError: the scheduler has ended.
    """
    suspects = []
    for unit, outcome in _do_all(client, act, units):
        if isinstance(outcome, SetAside):
            suspects.append(unit)
        else:
            yield unit, outcome
    for unit in suspects:
        yield from _do_all(client, act, [unit])


def _do_all(
    client: Client, act: Act, units: Sequence[Unit]
) -> Iterator[tuple[Unit, Outcome | SetAside]]:
    """Do units until each has an outcome or was given up."""
    futures = [
        client.submit(_do, nb.__version__, act, unit, pure=False) for unit in units
    ]
    waiting = {future.key: unit for future, unit in zip(futures, units, strict=True)}
    ended = as_completed(futures, loop=client.loop)
    # From here on nobody else holds them: what has ended is forgotten.
    del futures
    for future in ended:
        unit = waiting.pop(future.key)
        if future.cancelled():
            raise InputError(
                "the Dask scheduler has ended: start it again, and give the same "
                "command"
            )
        error = future.exception()
        if error is None:
            yield unit, future.result()
        elif isinstance(error, KilledWorker):
            yield unit, SetAside(_describe(error))
        else:
            yield (
                unit,
                SetAside(
                    f"its worker could not begin it ({error!r}): install the same "
                    "nobrainer for the workers"
                ),
            )


def _describe(error: KilledWorker) -> str:
    """Why a unit was given up that was done alone."""
    return (
        f"{error.allowed_failures + 1} workers ended one after the other while they "
        "did it, perhaps killed for want of memory: see their logs, or give workers "
        "more memory"
    )


def _do(version: str, act: Act, unit: Unit) -> Outcome:
    """Do a unit on a worker, also on one with several threads that has come later."""
    if nb.__version__ != version:
        # The records name the version that gives the command.
        raise RuntimeError(f"it has version {nb.__version__}, and not {version}")
    with _one_at_a_time:
        return act(unit)
