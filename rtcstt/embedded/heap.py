"""Memory given back to the system: glibc's malloc, as far as this process has it.

A decode's buffers have another size each time and leave holes: 500 MB within ten minutes of eight streams, of
which 200 are in use. Freed memory is given back by `trim`, nearly all of it when all threads share `one`
heap; of a heap for each thread it is hardly half.
"""

from __future__ import annotations

import ctypes
import gc

# Of malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD. One heap, which only `trim` makes smaller:
# glibc doing so by itself after each decode costs half as much CPU again.
_ONE = ((-8, 1), (-3, 32 * 2**20), (-1, 64 * 2**20))


def one() -> None:
    """One heap for all threads from here on. For whoever owns the process: a server, not a library."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        for option, value in _ONE:
            mallopt(option, value)


def settle() -> None:
    """What was made so far, modules above all, is kept, and not looked through by each of Python's full
    garbage collections, which would hold the event loop for 50 ms and more. For whoever owns the process."""
    gc.collect()
    gc.freeze()


def trim() -> None:
    """Give free memory back. May take some milliseconds."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    """None where there is another C library."""
    try:
        function: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # the last of Windows, which has no library without a name
        return None
    return function
