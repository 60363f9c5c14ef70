"""What all connections of one gateway share: whom to ask, where backends are, the limits and the counts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from llmux.access import Access
from llmux.addresses import BackendAddress
from llmux.errors import OverloadedError
from llmux.gateway.keepalive import Keepalives
from llmux.gateway.observer import Observer
from llmux.gateway.settings import Backend, GatewaySettings, Timeouts
from llmux.gateway.turns import Turns
from llmux.messages import Failure
from llmux.ports import Scheduler
from llmux.upstream import Dial, Pool

if TYPE_CHECKING:
    from llmux.gateway.client import ClientConnection
    from llmux.gateway.handshake import Handshake


class Seconds:
    """`Timeouts` to calculate with: what has no limit is infinite."""

    __slots__ = ("between_bytes", "body", "connect", "head", "keep_alive", "response", "write")

    def __init__(self, timeouts: Timeouts) -> None:
        self.keep_alive = _or_infinite(timeouts.keep_alive)
        self.head = _or_infinite(timeouts.head)
        self.body = _or_infinite(timeouts.body)
        self.connect = _or_infinite(timeouts.connect)
        self.response = _or_infinite(timeouts.response)
        self.between_bytes = _or_infinite(timeouts.between_bytes)
        self.write = _or_infinite(timeouts.write)


def _or_infinite(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _nothing() -> None:
    pass


class Shared:
    """The state of a gateway, without its listeners.

    Attributes:
        access: who is let in; may be exchanged for another at any time.
        seconds: how long each phase may take.
        stopping: every response is the last of its connection.
        clients: the connections there are.
        handshakes: of those that are to be among them.
        no_clients: set while there are neither.
        buffered: bytes of requests, and of answers that clients leave unread, in memory.
        failing: models whose backend has failed its last request, and how many in a row it has.
        turns: for requests that were granted or refused together.
        keepalives: streamed requests that wait.
        crowded: called when there are as many clients as there may be.
        roomy: called when one of them is gone.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        backends: Mapping[str, Backend],
        control: BackendAddress | Dial | None,
        settings: GatewaySettings,
        observer: Observer,
        access: Access,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.scheduler = scheduler
        self.backends = dict(backends)
        self.settings = settings
        self.access = access
        self.seconds = Seconds(settings.timeouts)
        self.observer = observer
        self.stopping = False
        self.clients: set[ClientConnection] = set()
        self.handshakes: dict[ClientConnection, Handshake] = {}
        self.no_clients = asyncio.Event()
        self.no_clients.set()
        self.buffered = 0
        self.failing: dict[str, int] = {}
        self.turns = Turns(self.loop)
        self.keepalives = Keepalives(self.loop, scheduler)
        self.most_clients = math.inf if settings.max_connections is None else settings.max_connections
        self.crowded: Callable[[], None] = _nothing
        self.roomy: Callable[[], None] = _nothing
        self.pools = {model: self._pool(backend.address) for model, backend in self.backends.items()}
        self._to_be: dict[str, Backend] = {}  # of models that are to be woken first
        self._own: dict[str, BackendAddress] = {}  # what the configuration said, of models whose wake hook knew better
        self._retired: list[Pool] = []  # closed, but some answers still come through them
        self.control: Pool | None = None
        self.set_control(control)

    def backend_failed(self, model: str, failure: Failure) -> None:
        """The backend of `model` failed a request."""
        self.failing[model] = in_a_row = self.failing.get(model, 0) + 1
        self.scheduler.backend_failed(model, failure, in_a_row)

    @property
    def connections(self) -> int:
        """How many connections there are from clients, their handshakes included."""
        return len(self.clients) + len(self.handshakes)

    def client_opened(self, client: ClientConnection) -> None:
        """There is one more."""
        if self.handshakes:
            self.handshakes.pop(client, None)
        self.clients.add(client)
        self._one_more()

    def client_closed(self, client: ClientConnection) -> None:
        """There is one less."""
        self.clients.discard(client)
        self._one_less()

    def handshake_began(self, client: ClientConnection, handshake: Handshake) -> None:
        """Who is to be `client` has connected, and counts from now on."""
        self.handshakes[client] = handshake
        self._one_more()

    def handshake_over(self, client: ClientConnection) -> None:
        """It has failed, unless `client` was opened."""
        if self.handshakes.pop(client, None) is not None:
            self._one_less()

    def _one_more(self) -> None:
        self.no_clients.clear()
        if len(self.clients) + len(self.handshakes) >= self.most_clients:
            self.crowded()

    def _one_less(self) -> None:
        if not self.clients and not self.handshakes:
            self.no_clients.set()
        if self.most_clients != math.inf:
            self.roomy()

    def set_control(self, control: BackendAddress | Dial | None) -> None:
        """This is how the control plane is reached from now on."""
        if self.control is not None:
            self.control.close()
        if control is None:
            self.control = None
        elif isinstance(control, BackendAddress):
            self.control = self._pool(control)
        else:
            self.control = self._pool(BackendAddress(unix_path="control"), control)

    def _pool(self, address: BackendAddress, dial: Dial | None = None) -> Pool:
        settings = self.settings
        return Pool(
            address, max_idle=settings.max_idle_upstream, idle_seconds=settings.upstream_idle_seconds, dial=dial
        )

    def reconfigure(self, backends: Mapping[str, Backend], settings: GatewaySettings) -> None:
        """Go on with these. Where a model's backend is, and what it calls the model, counts from its next wake: until
        then, what serves is what was woken by the old configuration. What is done to requests counts at once. New
        models are there at once; a model that is not among `backends` keeps its own until `remove`."""
        self.settings = settings
        self.seconds = Seconds(settings.timeouts)
        for client in self.clients:
            client.settings_changed()
        self._to_be = {}
        for model, backend in backends.items():
            known = self.backends.get(model)
            if known is None:
                self._put(backend)
                continue
            known = replace(known, params=backend.params, keep_aliases=backend.keep_aliases)
            self.backends[model] = known
            if self._as_configured(known) != backend:
                self._to_be[model] = backend

    def take_new_backend(self, model: str) -> bool:
        """Nobody listens where the backend of `model` was: from now on it is what the configuration says; returns
        whether that is news. Never where a wake hook has said where it is: the next one will, too."""
        if model in self._own:
            return False
        backend = self._to_be.pop(model, None)
        if backend is None:
            return False
        self._put(backend)
        return True

    def wake_backend(self, model: str) -> None:
        """The backend of `model` is what the configuration says, until its wake hook says something else."""
        backend = self._as_configured(self.backends[model])
        self._own.pop(model, None)
        self._put(self._to_be.pop(model, backend))

    def move_backend(self, model: str, address: BackendAddress) -> None:
        """The backend of `model` is at `address`."""
        known = self.backends.get(model)
        if known is not None and known.address != address:
            self._own.setdefault(model, known.address)
            self._put(replace(known, address=address))

    def _as_configured(self, backend: Backend) -> Backend:
        own = self._own.get(backend.model)
        return backend if own is None else replace(backend, address=own)

    def _put(self, backend: Backend) -> None:
        old = self.pools.get(backend.model)
        self.backends[backend.model] = backend
        if old is None or old.address != backend.address:
            self._retire(old)
            self.pools[backend.model] = self._pool(backend.address)

    def remove(self, model: str) -> None:
        """`model` is no more."""
        self._to_be.pop(model, None)
        self._own.pop(model, None)
        if self.backends.pop(model, None) is not None:
            self._retire(self.pools.pop(model))

    def _retire(self, pool: Pool | None) -> None:
        if pool is not None:
            pool.close()
            self._retired.append(pool)

    def all_pools(self) -> list[Pool]:
        """Those of the models, that of the control plane, and those that are no more but still have connections."""
        if self._retired:
            self._retired = [pool for pool in self._retired if pool.busy]
        return [*self.pools.values(), *([] if self.control is None else [self.control]), *self._retired]

    def hold(self, size: int) -> None:
        """Count `size` more bytes as buffered.

        Raises:
            OverloadedError: that would be too many; nothing was counted.
        """
        if self.buffered + size > self.settings.max_buffered_bytes:
            raise OverloadedError("too many bytes of requests are waiting already", retry_after=1)
        self.buffered += size
