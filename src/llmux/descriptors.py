"""How many clients a gateway may have, so that it never runs out of file descriptors.

Reads this process's limit; touches nothing. Every client may need a connection to a backend besides its own, and what
else the process does (hooks, the log, the control plane) must go on when there is no room for one more client.
"""

from __future__ import annotations

import fcntl
import resource
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

RESERVED: Final = 24
RESERVED_PER_MODEL: Final = 4
"""Descriptors that are never given to clients and backends. A hook takes two pipes and one more while it runs, four for
a moment as it starts, and the two pipes for as long as a daemon that it left behind holds them."""

_LOOKED_AT: Final = 1024


@dataclass(frozen=True, slots=True)
class Shares:
    """What descriptors are for: at most `clients` client connections (None: no limit), and `idle` idle connections to
    each backend."""

    clients: int | None
    idle: int


def limit() -> int | None:
    """How many descriptors this process may have; None for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def in_use() -> int:
    """How many descriptors below 1024 are open."""
    count = 0
    for fd in range(min(_LOOKED_AT, limit() or _LOOKED_AT)):
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_GETFD)
            count += 1
    return count


MOST_SERVED: Final = 32
"""So many backends are taken to have idle connections at a time, however many models there are: those of a model that
sleeps are closed, and others after seconds. With a thousand models, hardly one would be kept for each otherwise."""


def share(available: int | None, used: int, most_in_flight: Iterable[int | None], idle: int) -> Shares:
    """Divide `available` descriptors, of which `used` are taken.

    Args:
        most_in_flight: for each model, how many requests its backend gets at a time; None for any number.
        idle: how many idle connections to each backend are wanted.
    """
    if available is None:
        return Shares(None, idle)
    models = list(most_in_flight)
    room = max(2, available - used - RESERVED - RESERVED_PER_MODEL * len(models))
    pools = len(models) + 1  # and that of the control plane, both ends of whose connections are here
    served = min(pools, MOST_SERVED) + 1  # and the control plane
    idle = max(1, min(idle, room // (8 * served)))
    room = max(2, room - idle * served)
    clients = room // 2
    if None not in models:
        clients = max(clients, room - sum(most or 0 for most in models))
    return Shares(clients, idle)
