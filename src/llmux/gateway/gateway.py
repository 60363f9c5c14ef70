"""The data plane's front: listeners, deadlines, and an orderly end.

Everything that a request goes through is in `client` and `exchange`; this only makes connections, looks at their
deadlines and closes them.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from llmux import logs
from llmux.access import Access
from llmux.addresses import BackendAddress
from llmux.gateway.client import ClientConnection
from llmux.gateway.handshake import Handshake
from llmux.gateway.listeners import Listeners
from llmux.gateway.observer import Limit, Observer
from llmux.gateway.recorded import RecordedClient, Scribes
from llmux.gateway.settings import Backend, GatewaySettings
from llmux.gateway.shared import Shared
from llmux.messages import Outcome
from llmux.ports import Scheduler
from llmux.records import Scribe
from llmux.upstream import CanaryRun, Dial

SWEEP_SECONDS: Final = 0.25
"""How often deadlines are looked at: one timer for all of them, so that the path of a request only stores a float."""

IDLE_WHEN_CROWDED_SECONDS: Final = 1.0
"""How long a connection may be idle, or its TLS handshake take, while there is no room for another client."""

RESUME_AT: Final = 0.9
"""At this part of the limit on connections clients are accepted again, as soon as it is reached."""

LOG_EVERY_SECONDS: Final = 60.0
"""How often the log is told, at most, that no more clients are accepted."""

log = logs.get_logger(__name__)


class Gateway:
    """Relays requests to the backends of models, when the scheduler says so. Implements `llmux.ports.Backends`.

    Must be made on a running loop. `backends` has every name that `scheduler.resolve` may give. `control` is how the
    control plane is reached, and may be set later; without it, its paths are 404. `access` says who is let in, and may
    be exchanged at any time. With `tls`, all listeners speak TLS. `scribes` are told of every request.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        backends: Mapping[str, Backend],
        control: BackendAddress | Dial | None,
        settings: GatewaySettings,
        observer: Observer,
        access: Access | None = None,
        tls: ssl.SSLContext | None = None,
        scribes: Sequence[Scribe] = (),
    ) -> None:
        self._scribes = Scribes(scribes) if scribes else None
        self._shared = Shared(
            scheduler=scheduler,
            backends=backends,
            control=control,
            settings=settings,
            observer=observer,
            access=access or Access(),
        )
        self._listeners = Listeners(self._accept, take=None if tls is None else partial(self._take_tls, tls))
        self._shared.crowded = self._crowded
        self._shared.roomy = self._roomy
        self._told = -math.inf
        self._pauses = 0
        self._sweeper: asyncio.TimerHandle | None = None

    # --- listening ------------------------------------------------------------------------------------------------

    async def start(self, host: str | None = None, port: int = 0, *, sockets: Sequence[socket.socket] = ()) -> None:
        """Listen on `host` and `port` (0: any free one), or on `sockets` that are bound already. May be called again
        for more.

        Raises:
            OSError: the address cannot be bound.
        """
        await self._listeners.open(host, port, sockets)
        if self._sweeper is None:
            self._sweep()

    def _accept(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, self._client())

    def _take_tls(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        Handshake(self._shared, context, sock, self._client())  # it is among `Shared.handshakes`

    def _client(self) -> ClientConnection:
        return ClientConnection(self._shared) if self._scribes is None else RecordedClient(self._shared, self._scribes)

    @property
    def addresses(self) -> list[Any]:
        """What the listeners are bound to, as `socket.getsockname` has it."""
        return self._listeners.addresses

    def set_control(self, control: BackendAddress | Dial | None) -> None:
        """This is how the control plane is reached from now on."""
        self._shared.set_control(control)

    @property
    def access(self) -> Access:
        """Who is let in, from the next request on."""
        return self._shared.access

    @access.setter
    def access(self, access: Access) -> None:
        self._shared.access = access

    @property
    def connections(self) -> int:
        """How many client connections there are, those that are still to agree on TLS included."""
        return self._shared.connections

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of requests, and of answers that clients leave unread, are in memory."""
        return self._shared.buffered

    def close_backend(self, model: str) -> None:
        """See `llmux.ports.Backends`. Connections in use are closed when their response ends."""
        self._shared.failing.pop(model, None)
        pool = self._shared.pools.get(model)
        if pool is not None:
            pool.close()

    def send_canary(
        self, model: str, timeout: float | None, ended: Callable[[Outcome, float, str], None]
    ) -> Callable[[], None]:
        """See `llmux.ports.Backends`."""
        canary = self._shared.backends[model].canary
        if canary is None:
            raise ValueError(f"{model} has no canary")
        return CanaryRun(self._shared.pools[model], canary, timeout, ended).cancel

    def waking(self, model: str) -> None:
        """See `llmux.ports.Backends`."""
        self._shared.wake_backend(model)

    def reported(self, model: str, address: BackendAddress) -> None:
        """See `llmux.ports.Backends`."""
        self._shared.move_backend(model, address)

    def removed(self, model: str) -> None:
        """See `llmux.ports.Backends`."""
        self._shared.remove(model)

    def reconfigure(self, backends: Mapping[str, Backend], settings: GatewaySettings) -> None:
        """Go on with these; see `Shared.reconfigure`."""
        self._shared.reconfigure(backends, settings)

    # --- when there is no room for one more client ------------------------------------------------------------------

    def _crowded(self) -> None:
        if self._listeners.paused or self._shared.stopping:
            return
        self._listeners.pause()
        self._shared.observer.limit_hit(Limit.DESCRIPTORS)
        self._pauses += 1
        now = self._shared.loop.time()
        if now - self._told >= LOG_EVERY_SECONDS:
            log.warning("accepting_paused", connections=self._shared.connections, times=self._pauses)
            self._told = now
            self._pauses = 0

    def _roomy(self) -> None:
        if self._listeners.paused and self._shared.connections <= self._shared.most_clients * RESUME_AT:
            self._listeners.resume()

    def _make_room(self, now: float) -> None:
        """Others wait to be accepted: who is only idle need not stay."""
        kept_until = now + self._shared.seconds.keep_alive - IDLE_WHEN_CROWDED_SECONDS
        for client in [client for client in self._shared.clients if client.idle and client.deadline <= kept_until]:
            client.close()
        for handshake in list(self._shared.handshakes.values()):
            if handshake.began <= now - IDLE_WHEN_CROWDED_SECONDS:
                handshake.abort()
        if self._shared.connections < self._shared.most_clients:
            self._listeners.resume()

    # --- ending ---------------------------------------------------------------------------------------------------

    def stop_accepting(self) -> None:
        """Close the listeners and the idle connections; all others close after the response under way, or that to
        the request which is arriving."""
        self._shared.stopping = True
        self._listeners.close()
        for client in list(self._shared.clients):
            if client.idle:
                client.close()
        for handshake in list(self._shared.handshakes.values()):
            handshake.abort()

    async def drained(self) -> None:
        """Wait until there is no client connection. Only ends for sure after `stop_accepting`."""
        await self._shared.no_clients.wait()

    def abort_all(self) -> None:
        """Abort every client connection, whatever it does; the grants of their requests are given back."""
        for client in list(self._shared.clients):
            client.abort()
        for handshake in list(self._shared.handshakes.values()):
            handshake.abort()

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
        shared.keepalives.tick()
        if self._listeners.paused:
            self._make_room(now)
        for pool in shared.all_pools():
            pool.prune(now)
