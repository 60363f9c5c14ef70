"""The gateway's limits, and what it must know of a model's backend. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmux.addresses import BackendAddress, Network, in_networks
from llmux.upstream import Canary
from llmux.wire.rewrite import Params


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None means no limit. A deadline is noticed up to a quarter of a second late.

    Attributes:
        keep_alive: an idle client connection is closed after this long.
        head: from the first byte of a request's head to its last (408).
        body: from the end of a request's head to the end of its body (408).
        connect: for a connection to a backend, TLS included (504).
        response: from the request to the whole head of its response (504).
        between_bytes: a backend may fall silent in the middle of its response for this long; then the client's
            connection is ended in a way that cannot be taken for a whole response.
        write: a client may leave what was sent to it unread for this long; then its connection is aborted.
    """

    keep_alive: float | None = 75.0
    head: float | None = 15.0
    body: float | None = 120.0
    connect: float | None = 5.0
    response: float | None = 600.0
    between_bytes: float | None = 300.0
    write: float | None = 60.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Bounds for everything that is held, and deadlines for everything that waits.

    Attributes:
        max_head_bytes: of one request's head (431), and of its trailers.
        max_body_bytes: of one request's body (413).
        max_buffered_bytes: of all requests together that are in memory (503): heads and bodies, what was pipelined
            behind them. Answers that slow clients leave unread count too, but are not ended for it.
        max_connections: from clients; while there are as many, no more are accepted. None for any number.
        max_idle_upstream: idle connections kept per backend.
        upstream_idle_seconds: how long they are kept; uvicorn closes its side after 5 s.
        trusted_proxies: networks of the proxies whose X-Forwarded-* fields are believed.
        default_model: for requests that ask for work and name no model; None: they are refused.
        waiting_keepalive: by model, the seconds after which a streamed request that waits gets its head and a comment,
            and between two comments; 0, or no entry: never.
    """

    max_head_bytes: int = 64 * 1024
    max_body_bytes: int = 100 * 1024 * 1024
    max_buffered_bytes: int = 1024 * 1024 * 1024
    max_connections: int | None = None
    max_idle_upstream: int = 64
    upstream_idle_seconds: float = 4.0
    timeouts: Timeouts = field(default_factory=Timeouts)
    trusted_proxies: tuple[Network, ...] = ()
    default_model: str | None = None
    waiting_keepalive: Mapping[str, float] = field(default_factory=dict)

    def trusts(self, address: str) -> bool:
        """Is the client at `address` one of the trusted proxies?"""
        return bool(self.trusted_proxies) and in_networks(address, self.trusted_proxies)


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a configured model is served, and how its requests are to be written.

    Attributes:
        send_model_as: the name that it is served under, if that is not `model`.
        canary: what it is asked after a wake, if anything.
        params: what is taken out of JSON bodies and put into them, if anything.
        keep_aliases: requests that name it by an alias reach it with that alias; else with the name that it knows.
    """

    model: str
    address: BackendAddress
    send_model_as: str | None = None
    canary: Canary | None = None
    params: Params | None = None
    keep_aliases: bool = False
