"""How much main memory there is, whether it is enough, and what becomes of it."""

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from nobrainer.errors import InputError

LIMITS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}
"""By controller in /proc/self/cgroup (version 2 has none): where the files lie, and
the names of the limit, of what is used, and of its part that is only cache."""

# Options of glibc's malloc.h, and the values that glibc itself arrives at for programs
# that free large blocks; they cannot be read from it.
_TRIM_THRESHOLD, _USUAL_TRIM = -1, 64 * 2**20
_MMAP_THRESHOLD, _USUAL_THRESHOLD = -3, 32 * 2**20
_MMAP_MAX, _USUAL_MMAPS = -4, 65536
_NEVER = -1


def require_memory(name: str, needed_bytes: int, purpose: str) -> None:
    """Check that there is enough memory, before any of it is allocated.

    Args:
        name: what needs the memory, such as the path of a scan.
        needed_bytes: the least number of bytes that it needs.
        purpose: what the memory is for, such as "read it".

    Raises:
        InputError: it needs more than this process can still take.
    """
    free_bytes = memory_limit_bytes()
    if needed_bytes > free_bytes:
        raise InputError(
            f"{name}: needs {needed_bytes / 1e9:.3g} GB of memory to {purpose}, and "
            f"{free_bytes / 1e9:.3g} GB are free: free some, use a larger machine, or "
            f"crop or resample the scan"
        )


@contextmanager
def memory_for(name: str) -> Iterator[None]:
    """Turn a failed allocation inside into an error that says what needed the memory.

    Args:
        name: what needs the memory, such as the path of a scan.

    Raises:
        InputError: an allocation inside failed.
    """
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"{name}: too large for the memory there is ({error}): free some, use a "
            f"larger machine, or crop or resample the scan"
        ) from error


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory inside for the next allocation, instead of giving it back.

    Every step of training, and every slab of a prediction, makes the same large
    tensors. By default the system provides their memory anew and clears it page by
    page, which takes a tenth to a quarter of the time. At the end the system gets all
    that was freed, also what lies between pieces in use. This changes glibc's
    allocator, on most Linux systems, for the main thread of the process; elsewhere
    nothing happens. Settings of MALLOC_ variables in the environment are lost.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _USUAL_MMAPS)
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        libc.malloc_trim(0)


def memory_limit_bytes() -> int:
    """Bytes that this process can still take, by the machine and its control groups."""
    return min([psutil.virtual_memory().available, *_find_group_rooms(Path("/"))])


def _find_group_rooms(root: Path) -> Iterator[int]:
    """Bytes left in each control group around this process that has a limit.

    A group's file cache counts as free, because it is given back when needed. In a
    container the first folders of a path may be missing; these are passed over.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controller, path = line.split(":", 2)
        if controller not in LIMITS:
            continue
        mount, limit_file, used_file, cache = LIMITS[controller]
        group = root / mount / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError):
                limit = (folder / limit_file).read_text().strip()
                used = int((folder / used_file).read_text())
                figures = (folder / "memory.stat").read_text()
                cached = re.search(rf"^{cache} (\d+)$", figures, re.MULTILINE)
                if limit != "max":
                    free = int(limit) - used + (int(cached[1]) if cached else 0)
                    yield max(free, 0)
            if folder == root / mount:
                break
