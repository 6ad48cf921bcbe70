"""Options of `nobrainer bids` that say who does the scans."""

import os
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import click

from nobrainer import bids as derivative
from nobrainer.errors import InputError
from nobrainer.results import make_directory

_OF_JOBS = ("--n-cpus", "--mem-mb", "--queue")
_READ = {
    "local": ("--n-cpus", "--mem-mb", "--work-dir"),
    "serial": ("--work-dir",),
    "dask": ("--scheduler",),
    "slurm": _OF_JOBS,
    "pbs": _OF_JOBS,
    "sge": _OF_JOBS,
}
"""The options of this module that an executor reads."""


@dataclass(frozen=True)
class Machine:
    """Who does the scans of a run, and what it may take of this machine."""

    n_cpus: Annotated[
        int | None,
        click.option(
            "--n-cpus",
            metavar="N",
            type=click.IntRange(min=1),
            help="Cores to use, a scan on each.  [default: all]",
        ),
    ]
    mem_mb: Annotated[
        int | None,
        click.option(
            "--mem-mb",
            metavar="N",
            type=click.IntRange(min=1),
            help="Memory that all scans at work may take together, MB.  [default: what "
            "is free; in jobs of a cluster, what scans are foretold to need]",
        ),
    ]
    work_dir: Annotated[
        Path | None,
        click.option(
            "--work-dir",
            "-w",
            "work_dir",
            metavar="WORK",
            type=click.Path(path_type=Path),
            help="Where temporary files go.  [default: the system's place]",
        ),
    ]
    executor: Annotated[
        str,
        click.option(
            "--executor",
            type=click.Choice(list(_READ)),
            default="local",
            show_default=True,
            help="Who does the scans: processes of this machine; this process, one "
            "after the other; the workers of a Dask scheduler; or jobs of a cluster.",
        ),
    ]
    scheduler: Annotated[
        str | None,
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Where the Dask scheduler listens, such as tcp://node1:8786.",
        ),
    ]
    queue: Annotated[
        str | None,
        click.option(
            "--queue",
            metavar="NAME",
            help="Queue of the cluster; Slurm calls it a partition.  [default: the "
            "cluster's]",
        ),
    ]

    def engine(self, settings: "derivative.Settings") -> "derivative.Engine":
        """The engine that does the scans."""
        cap = None if self.mem_mb is None else self.mem_mb * 1_000_000
        if self.executor == "serial":
            return derivative.Serial()
        if self.executor == "local":
            return derivative.Local(settings, self.n_cpus, cap)
        if self.scheduler is not None:
            return derivative.Dask(self.scheduler)
        assert self.n_cpus is not None
        return derivative.Jobs(settings, self.executor, self.queue, self.n_cpus, cap)

    def check(self) -> None:
        """Check that the options fit together, before anything is loaded.

        Raises:
            InputError: they do not, or a package is missing.
        """
        given = {
            "--n-cpus": self.n_cpus,
            "--mem-mb": self.mem_mb,
            "--work-dir": self.work_dir,
            "--scheduler": self.scheduler,
            "--queue": self.queue,
        }
        read = _READ[self.executor]
        for option, value in given.items():
            if value is not None and option not in read:
                raise InputError(
                    f"{option} has no effect with --executor {self.executor}, which "
                    f"takes {', '.join(read)}: leave it out, or choose another "
                    "--executor"
                )
        if self.executor in ("local", "serial"):
            return
        if self.executor == "dask" and self.scheduler is None:
            raise InputError(
                "--executor dask needs --scheduler ADDRESS: give the one that `dask "
                "scheduler` shows when it starts"
            )
        if self.executor != "dask" and self.n_cpus is None:
            raise InputError(
                f"--executor {self.executor} needs --n-cpus N: give the number of jobs "
                "that may run at a time, each on one core"
            )
        if find_spec("dask_jobqueue") is None:
            raise InputError(
                f"--executor {self.executor} needs Dask: install it with "
                "pip install 'nobrainer[dask]'"
            )

    def use_work_dir(self) -> None:
        """Let temporary files go where they are wanted, also in processes to come."""
        if self.work_dir is not None:
            make_directory(self.work_dir)
            os.environ["TMPDIR"] = str(self.work_dir.absolute())
            tempfile.tempdir = None
