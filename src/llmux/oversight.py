"""What operators see and order by way of the control plane, taken from the driver and its core.

Reads the core's books and changes nothing in them; orders go through the driver like everything else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import ClassVar, get_args

from llmux.config import Config
from llmux.control.admin.answers import Cost, Level, ModelView, RequestView
from llmux.control.view import ModelEntry
from llmux.driver import Driver
from llmux.errors import LlmuxError
from llmux.gateway.priority import LEVELS
from llmux.hooks import HookResult
from llmux.messages import DrainChanged, Effect, Hook, ModelRemoved, PinChanged, Released, Resumed
from llmux.snapshot import Snapshot
from llmux.telemetry import Telemetry
from llmux.telemetry.history import History


class NothingToReloadError(LlmuxError):
    """llmux was started without a file."""

    status: ClassVar[int] = 409
    code: ClassVar[str] = "nothing_to_reload"

    def __init__(self) -> None:
        super().__init__("llmux was started without a configuration file, so there is none to read again")


class ReloadRefusedError(LlmuxError):
    """The configuration file cannot be used; nothing was changed. The message tells of every fault, however many."""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "reload_refused"
    message_limit: ClassVar[int] = 1_000_000


#: So many bytes of all bodies together are read for one list of requests, to see which of them ask for a stream. That
#: takes 3 ms, in which nothing is relayed; of those that are left, it is not known.
LOOKED_AT_BYTES = 4 * 1024 * 1024

_LEVELS: dict[int, Level] = {LEVELS[name]: name for name in get_args(Level)}

#: What changes the orders that stand.
_STANDING = frozenset({Released, Resumed, DrainChanged, PinChanged, ModelRemoved})


class Sinks:
    """Tells metrics and log, and the history, what happened. `standing_changed` is called when an operator's order that
    stands until it is taken back was given, or was taken back."""

    def __init__(self, telemetry: Telemetry, history: History, standing_changed: Callable[[], None]) -> None:
        self._telemetry = telemetry
        self._history = history
        self._standing_changed = standing_changed

    def fact(self, now: float, effect: Effect) -> None:
        if type(effect) in _STANDING:
            self._standing_changed()
        self._history.fact(now, effect)
        self._telemetry.fact(now, effect)

    def hook_ended(self, model: str, hook: Hook, result: HookResult) -> None:
        self._history.hook_ended(model, hook, result)
        self._telemetry.hook_ended(model, hook, result)

    def hook_output(self, model: str, hook: Hook, line: str) -> None:
        self._history.hook_output(model, hook, line)
        self._telemetry.hook_output(model, hook, line)


def devices_of(driver: Driver, model: str) -> tuple[str, ...]:
    """The devices that `model` holds memory on now."""
    found = driver.core.ledger.models.get(model)
    return () if found is None or found.placement is None else tuple(found.placement)


def lost_place(driver: Driver, model: str) -> tuple[tuple[str, ...], float | None]:
    """Which devices a lost `model` may hold memory of, and in how many seconds it is looked at again, if it is."""
    at = driver.core.ledger.timers.get(f"lost:{model}")
    return devices_of(driver, model), None if at is None else max(0.0, at - driver.now())


class ClientView:
    """What clients may know: `llmux.control.view.ControlView`."""

    def __init__(self, config: Callable[[], Config], driver: Driver) -> None:
        self._config = config
        self._driver = driver

    def models(self) -> Sequence[ModelEntry]:
        return [ModelEntry(name, tuple(model.aliases), model.metadata) for name, model in self._config().models.items()]

    def snapshot(self) -> Snapshot:
        return self._driver.snapshot()


class Oversight:
    """Implements `llmux.control.admin.ports`: what operators see and order.

    Args:
        config: called for what the configuration says now.
        reload: reads the configuration file again, and gives what is wrong with it; None where there is no file.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        driver: Driver,
        history: History,
        reload: Callable[[], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        self.history = history
        self.reloader = reload
        self._config = config
        self._driver = driver

    # --- what is asked -------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return self._driver.snapshot()

    def policy(self) -> str:
        return self._driver.core.policy.name

    def models(self) -> Sequence[ModelView]:
        core, now, configured = self._driver.core, self._driver.now(), self._config().models
        views = []
        for one in self._driver.snapshot().models:
            model = core.ledger.models[one.name]
            views.append(
                ModelView(
                    name=one.name,
                    state=one.state,
                    aliases=tuple(configured[one.name].aliases) if one.name in configured else (),
                    waiting=one.waiting,
                    in_flight=one.in_flight,
                    oldest_waiter_secs=one.oldest_waiter_age,
                    devices=one.devices,
                    wake_secs=core.costs.wake(one.name),
                    sleep_secs=core.costs.sleep(one.name),
                    arrivals_per_sec=model.arrival_rate(now),
                    lost=one.lost,
                    pinned=one.pinned,
                    drained=one.drained,
                    pinned_against=one.pinned_against,
                    kept=one.kept,
                )
            )
        return views

    def requests(self, limit: int | None = None) -> Sequence[RequestView]:
        now, left = self._driver.now(), LOOKED_AT_BYTES
        views = []
        for number, request in islice(sorted(self._driver.core.ledger.requests.items()), limit):
            origin = self._driver.origin_of(number, left)
            left -= origin.looked_at
            views.append(
                RequestView(
                    id=number,
                    model=request.model.name,
                    granted=request.granted_at is not None,
                    age_secs=max(0.0, now - request.arrived),
                    events=self._driver.events_of(number),
                    client=origin.client,
                    key=origin.key,
                    path=origin.path,
                    stream=origin.stream,
                    level=_LEVELS.get(request.level, "default"),
                )
            )
        return views

    def costs(self) -> Sequence[Cost]:
        costs = self._driver.core.costs
        names = list(self._driver.core.ledger.models)
        return [
            Cost(from_model, to_model, seconds)
            for from_model in (None, *names)
            for to_model, seconds in costs.estimates_from(from_model).items()
        ]

    # --- what is ordered -----------------------------------------------------------------------------------------

    async def switch(self, model: str) -> None:
        await self._driver.switch(model)

    async def sleep(self, model: str) -> None:
        await self._driver.sleep(model)

    async def free(self, model: str) -> None:
        await self._driver.free(model)

    async def look(self, model: str) -> None:
        await self._driver.look(model)

    async def release(self, *, refuse: bool) -> None:
        await self._driver.release(refuse=refuse)

    async def resume(self) -> None:
        await self._driver.resume()

    async def drain(self, model: str) -> None:
        await self._driver.drain(model)

    async def undrain(self, model: str) -> None:
        await self._driver.undrain(model)

    async def pin(self, model: str) -> None:
        await self._driver.pin(model)

    async def unpin(self, model: str) -> None:
        await self._driver.unpin(model)

    def cancel(self, request_id: int) -> None:
        self._driver.cancel(request_id)

    async def reload(self) -> None:
        if self.reloader is None:
            raise NothingToReloadError
        problems = await self.reloader()
        if problems:
            raise ReloadRefusedError("; ".join(line.strip() for line in problems))
