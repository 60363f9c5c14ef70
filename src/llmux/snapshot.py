"""How the scheduler is doing, at one moment: what `/ready`, the gauges and an operator's eye are shown.

Pure data. The driver makes one on demand, from the core's own books; making it changes nothing, and nothing on the
request path reads it. Times are ages in seconds, so that no clock is needed to read them; memory is in bytes.
"""

from __future__ import annotations

import msgspec

from llmux.messages import ModelState

STALLED_AFTER_SECS = 5.0
"""How long somebody may wait, with nothing under way, before the scheduler counts as stalled, in seconds."""


class ModelSnapshot(msgspec.Struct, frozen=True, rename={"oldest_waiter_age": "oldest_waiter_secs"}):
    """One model. `oldest_waiter_age` is None when nobody waits; `devices` are those that it holds memory on now."""

    name: str
    state: ModelState
    waiting: int = 0
    in_flight: int = 0
    oldest_waiter_age: float | None = None
    devices: tuple[str, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """What of the process's own means is used now, and how much there may be of it (None: any number)."""

    connections: int = 0
    most_connections: int | None = None
    buffered_bytes: int = 0
    most_buffered_bytes: int = 0
    event_log_dropped: int = 0


class DeviceSnapshot(msgspec.Struct, frozen=True):
    """One device. `used` is what is promised to models, awake or on their way; `lost` says that nobody knows who
    holds its memory. The implicit device of a configuration without ``devices`` has room for one model: its
    `capacity` is 1."""

    name: str
    capacity: int
    used: int = 0
    lost: bool = False


class Snapshot(msgspec.Struct, frozen=True):
    """The whole. `models` and `devices` are in the order of the configuration.

    `work_pending`: a hook runs, a switch or a drain is under way, or a timer is set that will make the scheduler look
    at its queues again (a policy's recheck, the end of a back-off or of ``min_active_secs``). The waiters' own
    deadlines and the periodic alive check do not count: they would come even if the scheduler had forgotten everybody.
    """

    models: tuple[ModelSnapshot, ...]
    devices: tuple[DeviceSnapshot, ...]
    seconds_since_last_event: float
    work_pending: bool
    stopping: bool = False

    @property
    def oldest_waiter_age(self) -> float | None:
        """Seconds that the request that has waited longest has waited; None when nobody waits."""
        return max((m.oldest_waiter_age for m in self.models if m.oldest_waiter_age is not None), default=None)

    @property
    def lost_devices(self) -> tuple[str, ...]:
        return tuple(device.name for device in self.devices if device.lost)

    @property
    def stalled(self) -> bool:
        """Somebody has waited for more than `STALLED_AFTER_SECS` and nothing under way will ever serve them: a
        decision is made at every event, so this state does not pass by itself. A policy that keeps people waiting
        must therefore name a time to look again (`Stay.recheck_at`)."""
        # Those who wait for an awake model wait for one of the requests that it serves to end, which no timer tells.
        ages = [
            model.oldest_waiter_age
            for model in self.models
            if model.oldest_waiter_age is not None and not (model.state is ModelState.AWAKE and model.in_flight)
        ]
        age = max(ages, default=None)
        return age is not None and age > STALLED_AFTER_SECS and not self.work_pending

    @property
    def ready(self) -> bool:
        """Whether new requests make sense: not stopping, not stalled, no device lost."""
        return not (self.stopping or self.stalled or self.lost_devices)
