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
            "is free]",
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
            type=click.Choice(["local", "serial", "dask"]),
            default="local",
            show_default=True,
            help="Who does the scans: processes of this machine, this process, one "
            "after the other, or the workers of a Dask scheduler.",
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

    def engine(self, settings: "derivative.Settings") -> "derivative.Engine":
        """The engine that does the scans."""
        if self.executor == "serial":
            return derivative.Serial()
        if self.scheduler is not None:
            return derivative.Dask(self.scheduler)
        cap = None if self.mem_mb is None else self.mem_mb * 1_000_000
        return derivative.Local(settings, self.n_cpus, cap)

    def check(self) -> None:
        """Check that the options fit together, before anything is loaded.

        Raises:
            InputError: they do not, or a package is missing.
        """
        if (self.executor == "dask") != (self.scheduler is not None):
            raise InputError(
                "--executor dask and --scheduler ADDRESS go together: give both or none"
            )
        if self.executor != "dask":
            return
        given = {
            "--n-cpus": self.n_cpus,
            "--mem-mb": self.mem_mb,
            "--work-dir": self.work_dir,
        }
        for option, value in given.items():
            if value is not None:
                raise InputError(
                    f"{option} is for this machine, and Dask's workers do the scans: "
                    "leave it out, and give it to `dask worker` in its own terms"
                )
        if find_spec("distributed") is None:
            raise InputError(
                "--executor dask needs Dask: install it with "
                "pip install 'nobrainer[dask]'"
            )

    def use_work_dir(self) -> None:
        """Let temporary files go where they are wanted, also in processes to come."""
        if self.work_dir is not None:
            make_directory(self.work_dir)
            os.environ["TMPDIR"] = str(self.work_dir.absolute())
            tempfile.tempdir = None
