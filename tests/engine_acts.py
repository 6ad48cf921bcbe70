"""What engines are given to do in tests: acts that take no model, and some that die."""

import os
import signal
from pathlib import Path

from nobrainer.bids.layout import Source
from nobrainer.bids.names import Names
from nobrainer.bids.scan import Outcome, Unit


def make_unit(label: str) -> Unit:
    """A unit of a scan that is not there."""
    name = f"sub-{label}_T1w.nii.gz"
    source = Source(Path(name), name, {"sub": label}, "T1w")
    return Unit(source, Names.of(source, "aseg"))


def do(folder: Path, unit: Unit) -> Outcome:
    """Leave the number of the process in a folder; label "ever" kills it, "once" once.

    How often a unit was begun is the number of lines in its file.
    """
    place = folder / unit.source.subject
    with place.open("a") as file:
        file.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\n")
    times = len(place.read_text().splitlines())
    if unit.source.subject == "ever" or (unit.source.subject == "once" and times == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(unit.names.scan, "done")
