"""What a CPU's memory allocator does with freed memory."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Options of glibc's malloc.h, and the values that glibc itself arrives at for programs
# that free large blocks; they cannot be read from it.
_TRIM_THRESHOLD, _USUAL_TRIM = -1, 64 * 2**20
_MMAP_THRESHOLD, _USUAL_THRESHOLD = -3, 32 * 2**20
_MMAP_MAX, _USUAL_MMAPS = -4, 65536
_NEVER = -1


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory inside for the next allocation, instead of giving it back.

    Every step of training makes the same large tensors. By default the system provides
    their memory anew and clears it page by page, which takes a tenth to a quarter of a
    step's time. This changes glibc's allocator, on most Linux systems, for the main
    thread of the process; elsewhere nothing happens. Settings of MALLOC_ variables in
    the environment are lost.
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
