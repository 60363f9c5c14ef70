"""What a policy sees and what it may say.

Pure. A policy is asked, again and again, one question: given who waits, who is awake and what switching costs, stay or
switch to which model? It is a plain object: it never awaits, sleeps, looks at a clock or sees a socket, so the object
that is simulated is the object that runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from llmux.messages import ModelState

_NEVER = float("inf")


class Plan(msgspec.Struct, frozen=True):
    """A switch that could begin now: put `victims` to sleep, wake `model` on `devices`."""

    model: str
    victims: tuple[str, ...]
    devices: tuple[str, ...]


class Blocked(msgspec.Struct, frozen=True):
    """Why no switch to a model can begin now. `until` is when to look again, in seconds on the view's clock; None when
    some event (a hook's end) will tell. `devices` are all those that the model could be given."""

    until: float | None
    devices: tuple[str, ...]


class Stakes(msgspec.Struct, frozen=True):
    """What a switch is about, in request-seconds: `loss` is what having to wake its victims again would cost those who
    ask for them, infinite while one of them has not yet served those whom it was woken for; `gain` is what those who
    wait for its target have waited and would wait for that wake, and grows with them. Both are 0 where no two models
    can be awake together."""

    loss: float
    gain: float


class Stay(msgspec.Struct, frozen=True):
    """Begin nothing. The policy is asked again at `recheck_at`, and when something happens in any case
    (`SwitchPolicy.decide`). It is a time on the view's clock, in seconds, later than now; None or infinity: no need."""

    recheck_at: float | None = None


class SwitchTo(msgspec.Struct, frozen=True):
    """Begin a switch to `model`. With a `plan`, its victims are taken; without, the view's own plan is."""

    model: str
    plan: Plan | None = None


Decision = Stay | SwitchTo


class DeviceView(NamedTuple):
    """One device, as a policy sees it.

    Attributes:
        name: as in the configuration.
        capacity: what it has, in bytes; 1 for the only device of a configuration without any.
        free: what nobody claims and no switch under way has been promised, in the same unit.
        awake: the models that are awake (or draining) there, each with the time since when; the longest first.
    """

    name: str
    capacity: int
    free: int
    awake: tuple[tuple[str, float], ...]


class ModelView(Protocol):
    """One model, as a policy sees it. Times are seconds on the clock that `decide` is given.

    What a policy is given is the core's own, so that asking costs nothing: look at what is named here, at nothing
    else, and change nothing. Whoever changes it breaks the core.
    """

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> ModelState: ...
    @property
    def waiting(self) -> int:
        """How many requests wait for it."""
        ...

    @property
    def oldest_arrival(self) -> float | None:
        """When the request that has waited longest arrived; None when none waits."""
        ...

    @property
    def in_flight(self) -> int:
        """How many requests it is serving."""
        ...

    @property
    def awake_since(self) -> float | None:
        """When it was last woken; None unless it is awake or draining."""
        ...

    @property
    def last_used(self) -> float:
        """When it was last given a request; minus infinity if never."""
        ...

    @property
    def service_time(self) -> float | None:
        """Seconds from the grant of a request to its end, a moving average; None until one has ended."""
        ...

    @property
    def priority(self) -> float:
        """How important the configuration says that it is; 0 unless it says so."""
        ...

    @property
    def urgency(self) -> int:
        """The highest level of the requests that wait for it: 1 where one asks to go before others, -1 where all of
        them let others go first, else 0."""
        ...

    @property
    def pinned(self) -> bool:
        """Whether it stays awake once it is: it is nobody's victim."""
        ...

    @property
    def claims(self) -> Mapping[str, int]:
        """What it holds, or may hold, of each device, in bytes; empty while it is asleep."""
        ...

    def accumulated_wait(self, now: float) -> float:
        """Seconds that those who wait for it have waited, summed over all of them."""
        ...

    def arrival_rate(self, now: float) -> float:
        """Requests per second that come for it, over the last minutes."""
        ...


class View(Protocol):
    """Everything that a policy may know. Valid only during the call of `decide` that it was given to."""

    def model(self, name: str) -> ModelView:
        """The named model. Raises KeyError for a name that is not configured."""
        ...

    def models(self) -> Iterable[ModelView]:
        """All models, in the order of the configuration."""
        ...

    def waiting(self) -> Sequence[ModelView]:
        """The models that somebody waits for and that no switch is bringing up yet."""
        ...

    def plan(self, name: str, *, avoid: Collection[str] = ()) -> Plan | Blocked:
        """How to make room for a model, with the victims whose loss costs least. `avoid` names devices not to be
        touched."""
        ...

    def stakes(self, plan: Plan) -> Stakes:
        """What would be lost and gained by a plan that `plan` gave."""
        ...

    def expected_cost(self, from_model: str | None, to_model: str) -> float:
        """The best guess at the cost of that switch, sleep plus wake, in seconds."""
        ...

    def expected_sleep(self, name: str) -> float:
        """The best guess at what putting that model to sleep takes, in seconds, without its drain; 0 before anything
        was measured. That the memory is free may have to be verified, which is part of it."""
        ...

    def expected_wake(self, name: str) -> float:
        """The best guess at what waking that model takes, in seconds, its canary included; 10 before anything was
        measured."""
        ...

    def devices(self) -> Sequence[DeviceView]:
        """All devices, in the order of the configuration. O(devices and models that hold memory), worked out anew each
        time."""
        ...

    def drain_time(self, name: str) -> float | None:
        """How long draining that model takes, in seconds, a moving average; None until seen."""
        ...


def waiting_since(model: ModelView) -> float:
    """Since when requests for `model` are kept waiting: since the oldest of them came, or, where only some of them were
    granted because more may not be in flight, since the last grant. Infinity if none waits.

    A policy that goes by this lets nobody come twice before somebody who waits.
    """
    oldest = model.oldest_arrival
    if oldest is None:
        return _NEVER
    used = model.last_used
    return used if used > oldest else oldest


@runtime_checkable
class SwitchPolicy(Protocol):
    """Decides when to switch. Implementations may keep state of their own, but nothing outside themselves."""

    @property
    def name(self) -> str:
        """What logs and reports call it."""
        ...

    def decide(self, view: View, now: float) -> Decision:
        """Stay, or begin one switch. Asked while somebody waits and not all devices are in the middle of a switch,
        after every event but the grant of a request whose model is awake anyway; and again after each switch that it
        begins, until it stays. `now` is in seconds and never goes back. If it raises, or says what cannot be done, that
        is reported, and fifo decides this time."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """What a policy may offer besides: to say for how long it lets somebody wait. Those who wait are told of it."""

    def latest(self, view: View, names: Sequence[str], now: float) -> Sequence[float]:
        """By when it has a switch to each of these models begin, at the latest, if that is possible then: for those who
        wait for it, or, if nobody does, for one who came `now`. In seconds on the view's clock.

        Asked at any time, and no log of events has it: it must change nothing that `decide` goes by."""
        ...
