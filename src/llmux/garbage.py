"""When Python looks for garbage in a process that serves.

Its collector stops everything while it walks all objects that it knows: 30 ms for llmux with nothing to do, 100 ms with
ten thousand requests waiting, and it does so whenever many objects were made, which is when many requests come. But
there is hardly anything to find: what llmux makes for a request is freed by its reference counts. So what was there
from the start is never looked at again, the young are looked at as ever, and the old ones when that is cheap, or when
it was put off for long and stops llmux for less than 50 ms.

Nor is there much to find while llmux starts, when it makes most of what it will ever have: a tenth of the start went
into looking. So the collector rests from the first import (`llmux.cli.serving`) until all is there.

Only for a process that belongs to llmux.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Final

SETTLED_SECONDS: Final = 1.0
"""How long after llmux listens all is loaded that will be, the control plane too; then what is there is looked at,
which takes 30 ms and so has no place in the start, and set aside. Where so many clients came at once that looking is
not cheap, it is only set aside."""

LOOK_SECONDS: Final = 30.0
"""How often the old objects are thought of."""

CHEAP: Final = 200
"""With no more connections than this, looking at all of them takes a few ms."""

PATIENCE: Final = 20
"""How many times it may be put off."""

BEARABLE: Final = 5_000
"""With no more connections than this, patience may end: it takes 7 us for each. With more, it goes on."""


def tame(connections: Callable[[], int]) -> Callable[[], None]:
    """Begin, soon; `connections` tells how many clients there are. Must be called on the loop, when llmux listens. The
    function returned ends it."""
    before = gc.get_threshold()
    loop = asyncio.get_running_loop()
    delays = 0
    timer: asyncio.TimerHandle

    def begin() -> None:
        nonlocal timer
        if connections() <= CHEAP:
            gc.collect()
        gc.freeze()
        gc.set_threshold(before[0], before[1], 1_000_000)
        gc.enable()
        timer = loop.call_later(LOOK_SECONDS, look)

    def look() -> None:
        nonlocal delays, timer
        if connections() <= (CHEAP if delays < PATIENCE else BEARABLE):
            delays = 0
            gc.collect()
        else:
            delays += 1
        timer = loop.call_later(LOOK_SECONDS, look)

    timer = loop.call_later(SETTLED_SECONDS, begin)

    def end() -> None:
        timer.cancel()
        gc.set_threshold(*before)
        gc.enable()
        gc.unfreeze()

    return end
