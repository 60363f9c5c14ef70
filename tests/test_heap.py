"""Freed memory stays for what comes next, in a process of its own, since what is told glibc cannot be undone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

BODIES = """
import resource
from llmux import heap

if {told}:
    assert heap.keep_freed()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bodies = [bytearray() for _ in range(8)]
    for _ in range(20):  # they come in pieces, all at the same time
        for body in bodies:
            body += bytes(256 * 1024)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is nothing to tell another C library")
def test_the_pages_of_large_bodies_are_used_again() -> None:
    left, kept = (
        int(subprocess.run([sys.executable, "-c", BODIES.format(told=told)], capture_output=True, check=True).stdout)
        for told in (False, True)
    )
    pages = 8 * 20 * 256 // 4  # of 4 KiB
    assert left > pages // 2  # else there is no more need for it
    assert kept < pages // 20
