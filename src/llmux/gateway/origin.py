"""Where a request came from, for those who write that down or look at it: its client's address, its key, its path.

Pure. Nothing here is on the request path: it is worked out of what a request keeps anyway, when somebody asks.
"""

from __future__ import annotations

import asyncio
from typing import Final

from llmux.access import Access
from llmux.gateway.access import shown_key
from llmux.gateway.settings import GatewaySettings
from llmux.ports import Origin
from llmux.wire.errors import printable
from llmux.wire.peek import is_object, wants_stream
from llmux.wire.request import Request
from llmux.wire.response import ResponseReader

MAX_PATH: Final = 1000
MAX_ADDRESS: Final = 128
"""How much of a path, and of what a proxy says of an address, is told, in characters."""

_LINES_OF_JSON: Final = b"application/x-ndjson"
"""How Ollama streams."""


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address at the other end of a client's connection."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else "unix:"


def client_of(peer: str, request: Request, settings: GatewaySettings, *, trusted: bool) -> str:
    """The address that `request` came from: that of its `peer` or, if that is `trusted`, the last address on its way
    that is none of a trusted proxy's."""
    if not trusted:
        return peer
    via = [
        address.strip().decode("latin-1")
        for line in request.forwarded
        if line[:16].lower() == b"x-forwarded-for:"
        for address in line[16:].split(b",")
    ]
    for address in reversed(via):
        try:
            if settings.trusts(address):
                continue
        except ValueError:  # "unknown", or whatever else was put there
            pass
        return printable(address, MAX_ADDRESS)
    return peer


def path_of(request: Request) -> str:
    """What it asks for, without its query."""
    return printable(request.path.decode("latin-1"), MAX_PATH)


def origin_of(
    client: str | None, request: Request, response: ResponseReader | None, access: Access, most: int
) -> Origin:
    """All of it: see `llmux.ports.Traceable`. `response` is None as long as there is none."""
    stream, looked_at = None, 0
    if response is not None and response.head_done:
        stream = response.event_stream or _lines_of_json(response)
    elif 0 < len(request.body) <= most and is_object(request.body):
        stream, looked_at = wants_stream(request.body), len(request.body)
    return Origin(client, shown_key(access, request), path_of(request), stream, looked_at)


def _lines_of_json(response: ResponseReader) -> bool:
    for line in response.lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-type":
            return value.strip().lower().startswith(_LINES_OF_JSON)
    return False
