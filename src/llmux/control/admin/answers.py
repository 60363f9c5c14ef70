"""The shapes of what the admin API answers.

Ages and durations are in seconds, times are Unix time in seconds, memory is in bytes (models, on the implicit device).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from llmux.messages import ModelState
from llmux.snapshot import DeviceSnapshot, KeptSnapshot, LostSnapshot, ReleasedSnapshot, SwitchSnapshot
from llmux.telemetry.history import HookRecord, HookStarted, StateRecord, SwitchRecord

Level = Literal["flex", "default", "priority"]


class ModelView(msgspec.Struct, frozen=True):
    """A model. `wake_secs` and `sleep_secs` are moving averages, null until observed. `arrivals_per_sec` is a moving
    average, too. `lost` is null unless the model is, `kept` unless it serves on because it could not be put to sleep.
    `pinned`: once awake, it is not put to sleep for others. `drained`: an operator wants it asleep, and its requests
    wait. `pinned_against`: its requests wait because there is no room for it while these are pinned."""

    name: str
    state: ModelState
    aliases: tuple[str, ...] = ()
    waiting: int = 0
    in_flight: int = 0
    oldest_waiter_secs: float | None = None
    devices: tuple[str, ...] = ()
    wake_secs: float | None = None
    sleep_secs: float | None = None
    arrivals_per_sec: float = 0.0
    lost: LostSnapshot | None = None
    pinned: bool = False
    drained: bool = False
    pinned_against: tuple[str, ...] = ()
    kept: KeptSnapshot | None = None


class RequestView(msgspec.Struct, frozen=True):
    """A request that waits (`granted` false) or is served; `age_secs` since it arrived. `events` are the server-sent
    events of its answer so far: about one for each token. An answer that is no event stream has none.

    `client` is the address that it came from, behind a trusted proxy what that says; `key` the name of the key that it
    shows, null without one; `path` what it asks for, without its query. `stream` says whether its answer comes bit by
    bit, and is null where that is not known: until the answer begins, of a large body and of one that was sent on.
    `level` is how urgent it is: `flex`, `default` or `priority`."""

    id: int
    model: str
    granted: bool
    age_secs: float
    events: int = 0
    client: str | None = None
    key: str | None = None
    path: str | None = None
    stream: bool | None = None
    level: Level = "default"


class Cost(msgspec.Struct, frozen=True, rename={"from_model": "from", "to_model": "to"}):
    """A moving average of sleep plus wake time. `from` is null for a cold start."""

    from_model: str | None
    to_model: str
    secs: float


class State(msgspec.Struct, frozen=True):
    """The whole at one moment. `reasons` says why llmux is not ready, and is empty when it is. `released` is null
    unless an operator has the devices; `holding` in it are the models that do not sleep yet, or again. `hooks` are
    those that run, the oldest first."""

    version: str
    started: float
    now: float
    ready: bool
    reasons: list[str]
    policy: str
    oldest_waiter_secs: float | None
    last_event_secs: float
    switches: tuple[SwitchSnapshot, ...]
    devices: tuple[DeviceSnapshot, ...]
    models: list[ModelView]
    released: ReleasedSnapshot | None = None
    hooks: list[HookStarted] = []


class Models(msgspec.Struct, frozen=True):
    models: list[ModelView]


class Devices(msgspec.Struct, frozen=True):
    devices: tuple[DeviceSnapshot, ...]


class Requests(msgspec.Struct, frozen=True):
    """The oldest first."""

    requests: list[RequestView]


class Costs(msgspec.Struct, frozen=True):
    costs: list[Cost]


class Switches(msgspec.Struct, frozen=True):
    """The newest first."""

    switches: list[SwitchRecord]


class HookRuns(msgspec.Struct, frozen=True):
    """The newest first."""

    hooks: list[HookRecord]


class Timeline(msgspec.Struct, frozen=True):
    """Who was in what state from when on, in the order in which it happened."""

    states: list[StateRecord]


class Done(msgspec.Struct, frozen=True):
    """The order was carried out, after `secs`."""

    secs: float
    done: bool = True


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class Refused(msgspec.Struct, frozen=True):
    """As all errors of llmux, in the shape that OpenAI's API has."""

    error: ErrorDetail
