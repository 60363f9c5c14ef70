"""What the C library does with memory that is free again, in a process that serves.

glibc gives the end of its heap back to the kernel as soon as a few large bodies are freed there, and asks for it again
for the next ones: each of its pages is then a page fault, which the kernel answers with a page of zeros. With bodies of
5 MB, 8 at a time, that took 2.3 of the 10.8 ms of CPU time that each of them takes. So up to `KEPT_BYTES` stay for what
comes next.

Only for a process that belongs to llmux. Elsewhere than with glibc, nothing happens.
"""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Free memory at the end of the heap that is not given back."""

OWN_MAPPING_BYTES: Final = 32 * 1024 * 1024
"""What is larger has a mapping of its own, which is given back at once. The most that glibc knows: by itself it begins
with 128 KiB and goes up to this when large blocks are freed, but no more once it was told anything else."""

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3  # of malloc.h


def keep_freed() -> bool:
    """Have it kept; returns whether that is possible here."""
    try:
        tell = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(tell(_MMAP_THRESHOLD, OWN_MAPPING_BYTES)) and bool(tell(_TRIM_THRESHOLD, KEPT_BYTES))
