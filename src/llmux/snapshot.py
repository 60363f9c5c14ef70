"""How the scheduler is doing, at one moment: what `/ready`, the gauges and an operator's eye are shown.

Pure data. The driver makes one on demand, from the core's own books; making it changes nothing, and nothing on the
request path reads it. Times are ages in seconds, so that no clock is needed to read them; memory is in bytes.
"""

from __future__ import annotations

import msgspec

from llmux.messages import ModelState

STALLED_AFTER_SECS = 5.0
"""How long somebody may wait, with nothing under way, before the scheduler counts as stalled, in seconds."""

OVERDUE_SECS = 30.0
"""How long after its deadline a hook or a drain must have ended, in seconds: ending a hook by force takes up to 10."""


class ModelSnapshot(msgspec.Struct, frozen=True, rename={"oldest_waiter_age": "oldest_waiter_secs"}):
    """One model. `oldest_waiter_age` is None when nobody waits; `devices` are those that it holds memory on now.
    `lost` is None unless the model is, `kept` unless it serves on because it could not be put to sleep. `pinned`: while
    awake, it is not put to sleep for others. `drained`: an operator wants it asleep, and its requests held.
    `pinned_against`: somebody waits for it, and there is no room because these are pinned."""

    name: str
    state: ModelState
    waiting: int = 0
    in_flight: int = 0
    oldest_waiter_age: float | None = None
    devices: tuple[str, ...] = ()
    lost: LostSnapshot | None = None
    pinned: bool = False
    drained: bool = False
    pinned_against: tuple[str, ...] = ()
    kept: KeptSnapshot | None = None


class ReleasedSnapshot(msgspec.Struct, frozen=True):
    """For `since_secs` the devices have been an operator's. `refuse`: requests are refused; else they are held.
    `holding` are the models that are not asleep yet, or again."""

    refuse: bool
    since_secs: float
    holding: tuple[str, ...] = ()


class Pin(msgspec.Struct, frozen=True):
    """An operator's word on whether a model is pinned, and what the configuration said when that was given."""

    pinned: bool
    configured: bool


class Standing(msgspec.Struct, frozen=True):
    """The orders of operators that stand until they are taken back. `released` says whether requests are refused, None
    that llmux is not released; `pins` has the models of which the configuration says something else."""

    released: bool | None = None
    drained: tuple[str, ...] = ()
    pins: dict[str, Pin] = {}


class LostSnapshot(msgspec.Struct, frozen=True):
    """What is known of a lost model: for how long it has been, how its last sleep failed, and in how many seconds it is
    looked at again; None while it is being looked at."""

    since_secs: float
    error: str
    next_look_secs: float | None = None


class KeptSnapshot(msgspec.Struct, frozen=True):
    """How the last sleep of a model failed that is alive all the same, and in how many seconds it may be tried again;
    None: as soon as the model has to make room."""

    error: str
    next_try_secs: float | None = None


class SwitchSnapshot(msgspec.Struct, frozen=True, rename={"from_model": "from", "to_model": "to"}):
    """A switch under way, which began `since_secs` ago. `to_model` is None where models are only put to sleep; `phase`
    is the state of the models that it waits for: draining, sleeping or waking."""

    from_model: str | None
    to_model: str | None
    phase: ModelState
    since_secs: float


class Usage(msgspec.Struct, frozen=True):
    """What of the process's own means is used now, and how much there may be of it (None: any number). And whether the
    files with keys and the certificate could be used when they were last read, and until when the certificate is valid,
    in seconds since 1970 (None: there is none)."""

    connections: int = 0
    most_connections: int | None = None
    buffered_bytes: int = 0
    most_buffered_bytes: int = 0
    event_log_dropped: int = 0
    access_log_dropped: int = 0
    secrets_good: bool = True
    certificate_not_after: float | None = None


class DeviceSnapshot(msgspec.Struct, frozen=True):
    """One device. `used` is what models hold, being awake or on their way there or back; `promised` is what others will
    hold once those are asleep that are in their way, which `promised_to` names: both together may be more than there
    is. `lost` says that nobody knows who holds its memory, `lost_models` which models may. The implicit device of a
    configuration without ``devices`` has room for one model: its `capacity` is 1."""

    name: str
    capacity: int
    used: int = 0
    lost: bool = False
    lost_models: tuple[str, ...] = ()
    promised: int = 0
    promised_to: tuple[str, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """The whole. `models` and `devices` are in the order of the configuration, `switches` the oldest first.

    `work_pending`: a hook runs, a switch or a drain is under way, or a timer is set that will make the scheduler look
    at its queues again (a policy's recheck, the end of a back-off or of ``min_active_secs``). The waiters' own
    deadlines and the periodic alive check do not count: they would come even if the scheduler had forgotten everybody.

    `overdue`: hooks that should have been ended by force `OVERDUE_SECS` ago, and of whose end the scheduler has not
    heard. That does not happen unless llmux has a fault, or the system has no descriptors or processes left to start
    them; then nothing that waits for them gets on.

    `wedged`: what a fault of llmux has brought to a standstill for ever.
    """

    models: tuple[ModelSnapshot, ...]
    devices: tuple[DeviceSnapshot, ...]
    seconds_since_last_event: float
    work_pending: bool
    stopping: bool = False
    switches: tuple[SwitchSnapshot, ...] = ()
    overdue: tuple[str, ...] = ()
    wedged: tuple[str, ...] = ()
    released: ReleasedSnapshot | None = None

    @property
    def oldest_waiter_age(self) -> float | None:
        """Seconds that the request that has waited longest has waited; None when nobody waits."""
        return max((m.oldest_waiter_age for m in self.models if m.oldest_waiter_age is not None), default=None)

    @property
    def lost_devices(self) -> tuple[str, ...]:
        return tuple(device.name for device in self.devices if device.lost)

    @property
    def stalled(self) -> bool:
        """A hook is `overdue`, something is `wedged`, or somebody has waited for more than `STALLED_AFTER_SECS` and
        nothing under way will ever serve them: a decision is made at every event, so this state does not pass by
        itself. A policy that keeps people waiting must therefore name a time to look again (`Stay.recheck_at`)."""
        if self.overdue or self.wedged:
            return True
        if self.released is not None:
            return False  # whoever waits does so until an operator says so
        # Those who wait for an awake model wait for one of the requests that it serves to end, which no timer tells.
        # Those who wait for a drained one, or one that is pinned against, wait for an operator.
        ages = [
            model.oldest_waiter_age
            for model in self.models
            if model.oldest_waiter_age is not None
            and not (model.state is ModelState.AWAKE and model.in_flight)
            and not (model.drained or model.pinned_against)
        ]
        age = max(ages, default=None)
        return age is not None and age > STALLED_AFTER_SECS and not self.work_pending

    @property
    def reasons(self) -> list[str]:
        """Why it is not `ready`, in words; empty if it is."""
        found = ["stopping"] if self.stopping else []
        if self.refusing:
            found.append("released: requests are refused until `llmux resume`")
        for device in self.devices:
            if device.lost:
                models = f" (it may be held by {', '.join(device.lost_models)})" if device.lost_models else ""
                found.append(f"device lost: {device.name}{models}")
        found += [f"overdue, and not heard of: {hook}" for hook in self.overdue]
        found += self.wedged
        if self.stalled and not (self.overdue or self.wedged):
            found.append("requests wait and nothing is under way for them")
        return found

    @property
    def refusing(self) -> bool:
        """Whether an operator has the devices, and requests are refused."""
        return self.released is not None and self.released.refuse

    @property
    def ready(self) -> bool:
        """Whether new requests make sense: not stopping, not refusing, not stalled, no device lost. While they are
        held because an operator has the devices, they do: whoever asks is served once the devices are back."""
        return not (self.stopping or self.refusing or self.stalled or self.lost_devices)
