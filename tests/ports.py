"""Ports for servers that other processes start, found now and bound by them later; and one for nobody."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator

_CHOSEN = itertools.cycle(random.Random(os.getpid()).sample(range(20_000, 32_000), 12_000))  # noqa: S311  # no secret


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens. Whoever asks the system for any port, as other tests do all the
    time, is given one above these (Linux: 32768 to 60999), so nobody takes it before it is needed."""
    for port in _CHOSEN:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError


@contextlib.contextmanager
def nobodys_port() -> Iterator[int]:
    """A port at which connections are refused, and that nobody else is given meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])
