"""The engine of one machine: processes with one model each, within a cap on memory."""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context

from nobrainer.bids.engines.engine import Act, SetAside
from nobrainer.bids.scan import Outcome, Unit
from nobrainer.cores import use_threads
from nobrainer.system import end_with_parent

_LOST = (
    "its process ended twice without a word, perhaps killed for want of memory: give a "
    "smaller --n-cpus or a larger machine"
)


@dataclass(frozen=True)
class Pool:
    """Does several units at once, each in one of a few processes.

    When a process dies, all that were at work are started again, and the units that
    these had begun are done once more, one at a time: so the one that is to blame is
    found, and the others lose nothing but time.

    n_workers: number of processes.
    n_threads: threads of each.
    cap_bytes: memory that all may take together; a unit that needs more is done alone.
    needs_bytes: what the work on a unit takes, by the name of the scan.
    """

    n_workers: int
    n_threads: int
    cap_bytes: float
    needs_bytes: Mapping[str, int]

    def run(
        self, act: Act, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Outcome | SetAside]]:
        """Do all units, as many at once as there are processes and memory.

        Args:
            act: what is done with a unit.
            units: the units, in the order in which to begin them.
        """
        waiting = deque(units)
        while waiting:
            suspects: list[Unit] = []
            yield from self._run_together(act, waiting, suspects)
            for unit in suspects:
                yield unit, self._run_alone(act, unit)

    def _run_together(
        self, act: Act, waiting: deque[Unit], suspects: list[Unit]
    ) -> Iterator[tuple[Unit, Outcome]]:
        """Do units until none waits or a process dies.

        Args:
            act: what is done with a unit.
            waiting: the units; those that are begun are taken away.
            suspects: gets the units that were at work when a process died.
        """
        running: dict[Future[Outcome], tuple[Unit, int]] = {}
        with self._workers(self.n_workers) as executor:
            while running or (waiting and not suspects):
                while waiting and not suspects and len(running) < self.n_workers:
                    need = self.needs_bytes[waiting[0].names.scan]
                    used = sum(bytes_ for _, bytes_ in running.values())
                    if running and used + need > self.cap_bytes:
                        break
                    unit = waiting.popleft()
                    running[executor.submit(act, unit)] = unit, need
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    unit, _ = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects.append(unit)
                    else:
                        yield unit, future.result()

    def _run_alone(self, act: Act, unit: Unit) -> Outcome | SetAside:
        """Do a unit in a process of its own, after a first try was lost."""
        with self._workers(1) as executor:
            try:
                return executor.submit(act, unit).result()
            except BrokenProcessPool:
                return SetAside(_LOST)

    @contextmanager
    def _workers(self, n_workers: int) -> Iterator[ProcessPoolExecutor]:
        """Processes that end inside, whatever ends it."""
        others = set(active_children())
        executor = ProcessPoolExecutor(
            n_workers,
            # A forked process would share the threads of PyTorch, and hang.
            mp_context=get_context("spawn"),
            initializer=_begin,
            initargs=(os.getpid(), self.n_threads),
        )
        is_done = False
        try:
            yield executor
            is_done = True
        finally:
            if not is_done:
                # Nobody waits for what they do; half a scan is done again.
                for process in set(active_children()) - others:
                    process.terminate()
            executor.shutdown(cancel_futures=True)


def _begin(parent: int, n_threads: int) -> None:
    """Set up a new process, before anything in it loads PyTorch."""
    end_with_parent(parent)
    use_threads(n_threads)
