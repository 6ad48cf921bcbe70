"""The engine of a cluster's queue: jobs that start workers of a scheduler in here."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import dask
from dask_jobqueue import JobQueueCluster, PBSCluster, SGECluster, SLURMCluster
from distributed import Client, Status

from nobrainer.bids.engines.dask import hand_out
from nobrainer.bids.engines.engine import Act, SetAside
from nobrainer.bids.forecast import forecast_bytes
from nobrainer.bids.scan import Outcome, Settings, Unit
from nobrainer.errors import InputError

# dask_jobqueue has just seen to it that Ctrl-C ends a program as if all were done.
signal.signal(signal.SIGINT, signal.default_int_handler)

_CLUSTERS: dict[str, type[JobQueueCluster]] = {
    "slurm": SLURMCluster,
    "pbs": PBSCluster,
    "sge": SGECluster,
}
_SHARE = 0.7
"""Of the memory of a job, what a scan may take: Dask gives a worker nothing to do that
has 80 % in use, and the process that starts the worker again wants some, too."""


@dataclass(frozen=True)
class Jobs:
    """Does units in jobs of a cluster, each of one process, one core, a unit at a time.

    Jobs are asked for as long as there are units for them, given back when there are
    none, and asked for anew when they end before that. What a site wants besides,
    accounts or times, is in Dask's own file for it, `jobqueue.yaml`.

    settings: what is done with every scan.
    system: the system that has the queue: "slurm", "pbs" or "sge".
    queue: name of the queue; None takes the one that the system takes.
    n_jobs: number of jobs that may run at a time.
    cap_bytes: memory that all of these may take together; None takes for each what the
        largest scan needs.
    """

    settings: Settings
    system: str
    queue: str | None
    n_jobs: int
    cap_bytes: int | None = None

    def run(
        self, act: Act, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Outcome | SetAside]]:
        """Do all units, as many at once as there are jobs that have begun.

        Args:
            act: what is done with a unit.
            units: the units.

        Raises:
            InputError: the system does not take a job.
        """
        if not units:
            return
        with self.cluster(units) as cluster:
            cluster.sync(self._submit, cluster)
            # A job for each unit, as far as may be: a scan takes longer than any wait.
            cluster.adapt(
                minimum_jobs=1, maximum_jobs=self.n_jobs, target_duration="1ms"
            )
            with Client(cluster, set_as_default=False) as client:
                yield from hand_out(client, act, units)

    def cluster(self, units: Sequence[Unit]) -> JobQueueCluster:
        """A scheduler in this process, whose workers will be jobs.

        Args:
            units: the units, any of which a job must be able to do.
        """
        if self.cap_bytes is None:
            needs = (forecast_bytes(self.settings, unit) for unit in units)
            memory = ceil(max(needs) / _SHARE)
        else:
            memory = self.cap_bytes // self.n_jobs
        options = {"dashboard_address": ":0", "allowed_failures": 1}
        place = f"jobqueue.{self.system}.scheduler-options"
        return _CLUSTERS[self.system](
            queue=self.queue,
            cores=1,
            processes=1,
            memory=f"{memory} B",
            job_name="nobrainer",
            # What goes wrong is said in the outcomes of the units.
            silence_logs="critical",
            scheduler_options=options | dask.config.get(place, {}),
        )

    async def _submit(self, cluster: JobQueueCluster) -> None:
        """Submit the first job, so that one which is not taken is seen at once."""
        cluster.worker_spec.update(cluster.new_worker_spec())
        try:
            await cluster
        except (OSError, RuntimeError, ValueError) as error:
            for job in cluster.workers.values():
                # The cluster would not end with a job that is none of these.
                job.status = Status.failed
            said = [line for line in str(error).splitlines() if line.strip()]
            raise InputError(
                f"--executor {self.system}: no job can be submitted ({said[-1]}): call "
                "this where jobs are submitted, and see --queue, and jobqueue.yaml for "
                "what your cluster wants besides"
            ) from error
