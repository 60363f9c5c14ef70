"""The event stream: the whole state first and whenever it has changed, and every record of the history as it is made.

Server-sent events as the HTML standard has them (section 9.2). A listener that is slow misses records, and is told how
many.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from llmux.telemetry.history import KINDS, History

LOOK_SECS = 1.0
"""How often the state is looked at, in seconds: queues change without leaving a record."""

SILENCE_SECS = 15.0
"""How long nothing may be sent, in seconds: proxies and clients take longer silences for a dead connection."""


async def events(history: History, state: Callable[[], tuple[bytes, object]]) -> AsyncIterator[bytes]:
    """Never ends by itself. `state` gives the state as JSON, and what tells it from another one: what changes all the
    time, such as ages, is no part of that."""
    something = asyncio.Event()
    listener = history.listen(something.set)
    try:
        body, shown = state()
        yield _event("status", body)
        silent = 0.0
        missed = 0
        while True:
            try:
                async with asyncio.timeout(LOOK_SECS):
                    await something.wait()
            except TimeoutError:
                silent += LOOK_SECS
            something.clear()
            chunks = [_event(KINDS[type(record)], msgspec.json.encode(record)) for record in listener.take()]
            if listener.missed > missed:
                chunks.insert(0, _event("missed", str(listener.missed - missed).encode()))
                missed = listener.missed
            body, now = state()
            if now != shown:
                shown = now
                chunks.append(_event("status", body))
            if not chunks and silent >= SILENCE_SECS:
                chunks = [b": nothing new\n\n"]
            if chunks:
                silent = 0.0
                yield b"".join(chunks)
    finally:
        history.forget(listener)


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
