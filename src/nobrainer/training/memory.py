"""What a CPU's memory allocator does with what is freed."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Numbers of glibc's malloc.h, with what glibc itself arrives at for programs that
# free large blocks, which cannot be asked.
_TRIM_THRESHOLD, _USUAL_TRIM = -1, 64 * 2**20
_MMAP_THRESHOLD, _USUAL_THRESHOLD = -3, 32 * 2**20
_MMAP_MAX, _USUAL_MMAPS = -4, 65536
_NEVER = -1


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for the next allocation instead of giving it back; in here.

    A step of training makes the same large tensors as the last one. By default each is
    asked of the system anew, which clears it page by page: a tenth to a quarter of a
    step's time. The process's allocator changes, for what its main thread allocates,
    and only where it is glibc's, that is on most Linux systems; elsewhere nothing
    happens. What the environment's MALLOC_ variables said does not come back.
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
