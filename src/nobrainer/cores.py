"""The cores that this process may use, and threads that leave them to others."""

import math
import os
import sys
import warnings
from pathlib import Path, PurePosixPath

from nobrainer.checks import check_count
from nobrainer.errors import InputError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
# Read by GNU OpenMP: how often a thread looks for work before it sleeps.
_SPINS, _N_SPINS = "GOMP_SPINCOUNT", "1000"
# How many threads OpenMP, MKL and OpenBLAS use; they read it when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def count_cores() -> int:
    """Number of cores that this process may use.

    These are the ones that it is bound to, on systems that bind processes, and no more
    than the quota of its control group allows, as a container or a job has one.
    """
    return math.ceil(min(_count_bound(), _quota()))


def check_cores(name: str, processes: int) -> None:
    """Check that there is a core for every process.

    Args:
        name: name of the argument, for the message.
        processes: number of processes that it asks for.

    Raises: InputError where there are fewer cores.
    """
    cores = count_cores()
    if processes > cores:
        raise InputError(
            f"{name} must be at most the {cores} cores that this process may use, got "
            f"{processes}: give fewer"
        )


def share_threads(processes: int, cores: int | None = None) -> int:
    """Threads of each of several processes that together keep to the cores there are.

    Args:
        processes: number of processes that compute at the same time, 1 or more.
        cores: cores that they share; None takes all that this process may use.

    Returns:
        1 or more, and no more than `OMP_NUM_THREADS` says where the user has set it.
    """
    share = max(1, (cores or count_cores()) // processes)
    told = os.environ.get(_THREADS[0], "").split(",")[0].strip()
    return min(share, int(told)) if told.isdecimal() and int(told) else share


def thread_variables(threads: int) -> dict[str, str]:
    """Variables with which a process that is started uses so many threads."""
    return dict.fromkeys(_THREADS, str(threads))


def use_threads(threads: int) -> None:
    """Use so many threads in this process and in those that it starts from now on.

    This wins over the variables of the environment.

    Args:
        threads: number of threads, 1 or more.

    Raises:
        InputError: it is no such number.
    """
    check_count("threads", threads, 1)
    os.environ.update(thread_variables(threads))
    # Only a process that has loaded PyTorch already must be told besides.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def leave_cores_to_others() -> None:
    """Set up the threads of PyTorch before it is loaded, for a machine that is shared.

    Threads of GNU OpenMP, which PyTorch's wheels carry, spin for milliseconds while
    they wait, and so keep others from the core that they wait for. Here they spin for
    microseconds, then sleep: beside four other processes on two cores that was measured
    to be ten times as fast, and on an idle machine as fast as long spinning. There are
    as many threads as the quota of a container or a job allows. The usual variables of
    the environment win. Processes that this one starts inherit them.

    Warns: RuntimeWarning where PyTorch is loaded already, which is too late.
    """
    is_told = "OMP_WAIT_POLICY" in os.environ or _SPINS in os.environ
    cores = count_cores()
    if "torch" in sys.modules and not is_told and cores > 1:
        warnings.warn(
            "torch was imported before nobrainer: beside other work on this machine "
            "its threads can make everything many times slower. Import nobrainer "
            f"first, or set {_SPINS}={_N_SPINS}",
            RuntimeWarning,
            stacklevel=3,
        )
    if not is_told:
        os.environ[_SPINS] = _N_SPINS
    if cores < _count_bound():
        os.environ.setdefault(_THREADS[0], str(cores))


def _count_bound() -> int:
    """Number of cores that this process is bound to, or that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float:
    """How many cores' time the control groups of this process grant, at least 1.

    A group is granted no more than those that it is in.

    Args:
        cgroups: where the control groups of Linux lie, of version 1 or 2.
        own: the file that names the groups of this process.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return math.inf
    granted = math.inf
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = cgroups / "cpu"
        else:
            continue
        place = PurePosixPath(name.lstrip("/"))
        # In a container the name can be that outside of it, where only the root is.
        for group in (place, *place.parents):
            granted = min(granted, _granted_by(root / group))
    return max(granted, 1.0)


def _granted_by(group: Path) -> float:
    """How many cores' time one control group grants; infinity without a limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text()
    except OSError:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
