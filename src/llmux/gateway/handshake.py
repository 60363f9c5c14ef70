"""A client that has connected and is to agree on TLS: counted, and bounded, from the moment it is accepted.

The event loop's own TLS server tells nobody of a connection before its handshake is done, so that whoever connects and
says nothing would take up descriptors that are counted nowhere. Here each connection is accepted as it is, and begins
TLS by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final, cast

from llmux.gateway.shared import Shared

if TYPE_CHECKING:
    from llmux.gateway.client import ClientConnection

HANDSHAKE_SECONDS: Final = 60.0
"""How long a TLS handshake may take, and a TLS connection's end, where the configuration sets no limit."""


class Handshake:
    """Of one connection, `sock`, which belongs to this from now on; `client` has it once that is done.

    Attributes:
        began: on the loop's clock.
    """

    def __init__(self, shared: Shared, context: ssl.SSLContext, sock: socket.socket, client: ClientConnection) -> None:
        self._shared = shared
        self._sock = sock
        self._client = client
        self.began = shared.loop.time()
        self._work = shared.loop.create_task(self._shake(context), name="llmux-handshake")
        self._work.add_done_callback(self._over)
        shared.handshake_began(client, self)

    def abort(self) -> None:
        """Close at once. `Shared.handshake_over` is called soon."""
        self._work.cancel()

    async def _shake(self, context: ssl.SSLContext) -> bool:
        timeouts = self._shared.settings.timeouts
        client = cast(asyncio.Protocol, self._client)
        with contextlib.suppress(OSError):  # no TLS, not in time, or gone
            await self._shared.loop.connect_accepted_socket(
                lambda: client,
                self._sock,
                ssl=context,
                # It is the beginning of a request's head; and a client that does not take the end has had its answer.
                ssl_handshake_timeout=timeouts.head or HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=timeouts.write or HANDSHAKE_SECONDS,
            )
            return True
        return False

    def _over(self, work: asyncio.Task[bool]) -> None:
        self._shared.handshake_over(self._client)
        if work.cancelled() or not work.result():
            self._sock.close()  # it may have ended before the loop knew of it
