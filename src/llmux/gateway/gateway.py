"""The data plane's front: listeners, deadlines, and an orderly end.

Everything that a request goes through is in `client` and `exchange`; this only makes connections, looks at their
deadlines and closes them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmux.addresses import BackendAddress
from llmux.gateway.client import ClientConnection
from llmux.gateway.observer import Observer
from llmux.gateway.settings import Backend, GatewaySettings
from llmux.gateway.shared import Shared
from llmux.ports import Scheduler

SWEEP_SECONDS: Final = 0.25
"""How often deadlines are looked at: one timer for all of them, so that the path of a request only stores a float."""

BACKLOG: Final = 1024


class Gateway:
    """Relays requests to the backends of models, when the scheduler says so. Implements `llmux.ports.Backends`.

    Must be made on a running loop. `backends` has every name that `scheduler.resolve` may give. `control` is where the
    control plane listens, and may be set later; without it, its paths are 404.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        backends: Mapping[str, Backend],
        control: BackendAddress | None,
        settings: GatewaySettings,
        observer: Observer,
    ) -> None:
        self._shared = Shared(
            scheduler=scheduler, backends=backends, control=control, settings=settings, observer=observer
        )
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None

    # --- listening ------------------------------------------------------------------------------------------------

    async def start(self, host: str | None = None, port: int = 0, *, sockets: Sequence[socket.socket] = ()) -> None:
        """Listen on `host` and `port` (0: any free one), or on `sockets` that are bound already. May be called again
        for more.

        Raises:
            OSError: the address cannot be bound.
        """
        loop = self._shared.loop
        options: dict[str, Any] = {"backlog": BACKLOG}
        if sockets:
            servers = [await loop.create_server(self._accept, sock=bound, **options) for bound in sockets]
        else:
            servers = [await loop.create_server(self._accept, host, port, **options)]
        for server in servers:
            for listener in server.sockets:
                # Accepted connections inherit this: a client whose machine vanished must not stay queued for ever.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._servers += servers
        if self._sweeper is None:
            self._sweep()

    def _accept(self) -> ClientConnection:
        return ClientConnection(self._shared)

    @property
    def addresses(self) -> list[Any]:
        """What the listeners are bound to, as `socket.getsockname` has it."""
        return [bound.getsockname() for server in self._servers for bound in server.sockets]

    @property
    def control(self) -> BackendAddress | None:
        """Where the control plane listens."""
        return None if self._shared.control is None else self._shared.control.address

    @control.setter
    def control(self, address: BackendAddress | None) -> None:
        self._shared.set_control(address)

    @property
    def connections(self) -> int:
        """How many client connections there are."""
        return len(self._shared.clients)

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of request bodies are in memory."""
        return self._shared.buffered

    def close_backend(self, model: str) -> None:
        """See `llmux.ports.Backends`. Connections in use are closed when their response ends."""
        pool = self._shared.pools.get(model)
        if pool is not None:
            pool.close()

    def waking(self, model: str) -> None:
        """See `llmux.ports.Backends`."""
        self._shared.take_new_backend(model)

    def removed(self, model: str) -> None:
        """See `llmux.ports.Backends`."""
        self._shared.remove(model)

    def reconfigure(self, backends: Mapping[str, Backend], settings: GatewaySettings) -> None:
        """Go on with these; see `Shared.reconfigure`."""
        self._shared.reconfigure(backends, settings)

    # --- ending ---------------------------------------------------------------------------------------------------

    def stop_accepting(self) -> None:
        """Close the listeners and the idle connections; all others close after the response under way, or that to
        the request which is arriving."""
        self._shared.stopping = True
        for server in self._servers:
            server.close()
        for client in list(self._shared.clients):
            if client.idle:
                client.close()

    async def drained(self) -> None:
        """Wait until there is no client connection. Only ends for sure after `stop_accepting`."""
        await self._shared.no_clients.wait()

    def abort_all(self) -> None:
        """Abort every client connection, whatever it does; the grants of their requests are given back."""
        for client in list(self._shared.clients):
            client.abort()

    async def close(self) -> None:
        """Stop accepting, abort what is left, and wait until every connection is closed."""
        self.stop_accepting()
        self.abort_all()
        await self.drained()
        pools = self._shared.all_pools()
        for pool in pools:
            pool.abort()
        for pool in pools:
            await pool.closed()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # --- deadlines ------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        shared = self._shared
        now = shared.loop.time()
        self._sweeper = shared.loop.call_at(now + SWEEP_SECONDS, self._sweep)
        for client in [client for client in shared.clients if client.deadline <= now]:
            client.deadline_passed()
        for pool in shared.all_pools():
            pool.prune(now)
