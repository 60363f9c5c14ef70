"""When Python looks for garbage in a process that serves.

Its collector stops everything while it walks all objects that it knows: 30 ms for llmux with nothing to do, 100 ms with
ten thousand requests waiting, and it does so whenever many objects were made, which is when many requests come. But
there is hardly anything to find: what llmux makes for a request is freed by its reference counts. So what was there
from the start is never looked at again, the young are looked at as ever, and the old ones when that is cheap, and now
and then in any case.

Only for a process that belongs to llmux.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 30.0
"""How often the old objects are thought of."""

CHEAP: Final = 200
"""With no more connections than this, looking at all of them takes a few ms."""

PATIENCE: Final = 20
"""How many times it may be put off."""


def tame(connections: Callable[[], int]) -> Callable[[], None]:
    """Begin; `connections` tells how many clients there are. Must be called on the loop, when all is loaded that will
    be. The function returned ends it."""
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(before[0], before[1], 1_000_000)
    loop = asyncio.get_running_loop()
    put_off = 0
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal put_off, timer
        if connections() <= CHEAP or put_off >= PATIENCE:
            put_off = 0
            gc.collect()
        else:
            put_off += 1
        timer = loop.call_later(LOOK_SECONDS, look)

    timer = loop.call_later(LOOK_SECONDS, look)

    def end() -> None:
        timer.cancel()
        gc.set_threshold(*before)
        gc.unfreeze()

    return end
