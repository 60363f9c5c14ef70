"""What the core must know of the configuration, as plain data that can be written to a log and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from llmux.messages import Event, Hook, Message

#: The device of a configuration that declares none: it has room for one model, whichever.
IMPLICIT_DEVICE = "default"

Placement = Mapping[str, int]
"""Bytes per device. The implicit device counts models instead: each needs 1 of its 1."""


class ModelSpec(msgspec.Struct, frozen=True):
    """One model. Deadlines are in seconds, None for none.

    Attributes:
        placements: the alternatives, in the order in which they are preferred; each says how much of which devices it
            takes.
        verify: it has a verify hook: its memory is free once that says so, not once its sleep hook does.
        verify_timeout: for all runs of the verify hook after one sleep, together.
        canary: it serves once its canary was answered, not once its wake hook has succeeded.
        doubt_after: so many requests in a row that its backend failed put it in doubt; None: it is only in doubt when
            the connection is.
        max_queue: so many requests may wait for it at a time; None for no limit of its own.
        max_in_flight: so many may be granted at a time; None for no limit.
        pinned: once awake, it is nobody's victim.
        priority: for policies that go by it; higher is more important.
        idle_sleep: with nothing in flight and nobody waiting for so many seconds, it is put to sleep; 0 for never.
    """

    name: str
    placements: tuple[dict[str, int], ...] = ({IMPLICIT_DEVICE: 1},)
    wake_timeout: float | None = 600.0
    sleep_timeout: float | None = 120.0
    alive_timeout: float | None = 10.0
    drain_timeout: float | None = 300.0
    verify: bool = False
    verify_timeout: float | None = 60.0
    canary: bool = False
    canary_timeout: float | None = 60.0
    doubt_after: int | None = None
    max_queue: int | None = None
    max_in_flight: int | None = None
    pinned: bool = False
    idle_sleep: float = 0.0
    priority: float = 0.0

    @property
    def everywhere(self) -> tuple[str, ...]:
        """The devices that it could be given, all of them."""
        return tuple(dict.fromkeys(device for placement in self.placements for device in placement))

    def timeout(self, hook: Hook) -> float | None:
        """The deadline of one of the model's hooks, in seconds."""
        match hook:
            case Hook.WAKE:
                return self.wake_timeout
            case Hook.SLEEP:
                return self.sleep_timeout
            case Hook.ALIVE:
                return self.alive_timeout
            case Hook.VERIFY:
                return self.verify_timeout
            case Hook.CANARY:
                return self.canary_timeout


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that steers the core. Times are in seconds.

    Attributes:
        devices: capacity of each device.
        request_timeout: longest a request waits for its model; None for no limit.
        drain_before_switch: let in-flight requests finish before the sleep hook runs.
        min_active: a model keeps serving at least this long before it may be put to sleep for another.
        max_queue: most requests that may wait at a time, for all models together.
        alive_interval: time between two alive checks of an awake model; 0 for none.
        alive_failures: scheduled checks that must fail in a row before a model counts as dead.
        refusals: a backend that refuses a connection, after it has failed so many requests in a row (that one
            included), is dead, whatever its alive hook says.
        verify_pause_base, verify_pause_cap: pause before a verify hook that said no is asked again (doubled each time),
            and its limit.
        sleep_retry_delays: pauses before the second and further runs of a sleep hook that failed.
        backoff_base, backoff_cap: pause after the first failed wake (doubled each time), and its limit.
        backoff_hold: a request that arrives while its model backs off waits, if no more than this is left of it.
        stable_after: a model that dies after having been awake this long is woken again at once.
        lost_check_base, lost_check_cap: time between two looks at a lost model (doubled each time), and its limit.
        level_seconds: what a request's level is worth, against others for its model, in seconds of waiting.
        preload: models that are woken at the start, in this order, as far as there is room.
        probe_parallel: how many alive hooks run at a time when llmux starts.
    """

    models: tuple[ModelSpec, ...]
    devices: dict[str, int] = msgspec.field(default_factory=lambda: {IMPLICIT_DEVICE: 1})
    request_timeout: float | None = None
    drain_before_switch: bool = True
    min_active: float = 0.0
    max_queue: int = 10_000
    alive_interval: float = 15.0
    alive_failures: int = 3
    refusals: int = 3
    verify_pause_base: float = 0.1
    verify_pause_cap: float = 1.0
    sleep_retry_delays: tuple[float, ...] = (1.0, 2.0)
    backoff_base: float = 2.0
    backoff_cap: float = 60.0
    backoff_hold: float = 5.0
    stable_after: float = 60.0
    lost_check_base: float = 10.0
    lost_check_cap: float = 300.0
    probe_parallel: int = 8
    preload: tuple[str, ...] = ()
    level_seconds: float = 30.0


class PolicyNote(msgspec.Struct, frozen=True):
    """Which policy decides: its name in the configuration, and its options."""

    name: str
    options: dict[str, Any] = {}


class ConfigChanged(Message, frozen=True, tag=True):
    """The configuration is another one now; it is valid. `policy` is to be made anew, None for the one there is.

    The one event that is not in `llmux.messages`, which may not know what settings are.
    """

    settings: CoreSettings
    policy: PolicyNote | None = None


CoreEvent = Event | ConfigChanged
"""Everything that the core hears."""
