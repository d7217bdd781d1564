"""What this process does with memory that it frees: large arrays are made and freed thousands of times a pass.

glibc gives each of them back to the system, and the next one is a new one, whose pages the system fills with zeros one
by one: that takes three quarters of the seconds of the offline phase. A process of a compute party keeps what it frees.
"""

from __future__ import annotations

import ctypes

_ARENAS, _MAPPED_BLOCKS, _TRIM_THRESHOLD = -8, -4, -1
"""M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Have memory that is freed serve what is made next, in whatever thread; `give_back` is then the way to return it.

    For the whole process, so a program that embeds a `LocalRuntime` is set likewise. Without glibc: nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        for option, value in ((_ARENAS, 1), (_MAPPED_BLOCKS, 0), (_TRIM_THRESHOLD, -1)):
            set_option(option, value)


def give_back() -> None:
    """Return memory that is kept and not in use to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
