"""The choice between the engines of one machine, by its cores and its memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nobrainer.bids.engines.engine import Act, SetAside
from nobrainer.bids.engines.pool import Pool
from nobrainer.bids.engines.serial import Serial
from nobrainer.bids.forecast import PROCESS_BYTES, forecast_bytes
from nobrainer.bids.scan import Outcome, Settings, Unit
from nobrainer.cores import count_cores, share_threads, use_threads
from nobrainer.memory import memory_limit_bytes

_SHARE = 0.9
"""Of the memory that is free, what a run takes."""


@dataclass(frozen=True)
class Local:
    """Does units on this machine: a scan on each core, as far as memory allows.

    settings: what is done with every scan.
    n_cpus: cores that may be used; None takes all.
    cap_bytes: memory that may be used; None takes most of what is free.
    """

    settings: Settings
    n_cpus: int | None = None
    cap_bytes: int | None = None

    def run(
        self, act: Act, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Outcome | SetAside]]:
        """Do all units; set aside those that need more memory than there is.

        Args:
            act: what is done with a unit.
            units: the units.
        """
        cap = self.cap_bytes or _SHARE * memory_limit_bytes()
        needs = {one.names.scan: forecast_bytes(self.settings, one) for one in units}
        fitting = [one for one in units if needs[one.names.scan] <= cap]
        for unit in units:
            need = needs[unit.names.scan]
            if need > cap:
                yield (
                    unit,
                    SetAside(
                        f"needs about {need / 1e9:.2g} GB of memory, and "
                        f"{cap / 1e9:.2g} GB may be used: give a larger --mem-mb, or "
                        "use a larger machine"
                    ),
                )
        n_cpus = self.n_cpus or count_cores()
        # On a GPU one network at a time is the fastest.
        n_most = n_cpus if self.settings.device == "cpu" else 1
        n_workers = min(n_most, len(fitting), int(cap // PROCESS_BYTES))
        if n_workers > 1:
            threads = share_threads(n_workers, n_cpus)
            yield from Pool(n_workers, threads, cap, needs).run(act, fitting)
        else:
            if self.n_cpus is not None:
                use_threads(share_threads(1, self.n_cpus))
            yield from Serial().run(act, fitting)
