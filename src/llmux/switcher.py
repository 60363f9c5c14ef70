"""The switcher, as Python callers see it: what is awake, what waits, what switches cost, and the order to switch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmux.core.ledger import Model
from llmux.driver import Driver, Watcher
from llmux.messages import Active, ModelState, SwitcherState
from llmux.snapshot import Snapshot


class Switcher:
    """Read-only views and an operator's commands. Must be used on the event loop that `build_app` ran on."""

    def __init__(self, driver: Driver, ports: Callable[[], Mapping[str, int]]) -> None:
        self._driver = driver
        self._ports = ports

    def state(self) -> SwitcherState:
        """`Idle`, `Active(model)` or `Switching(from_model, to_model)`."""
        return self._driver.core.state()

    def active_model(self) -> str | None:
        """The awake model (the one last used, where several are); None while a switch is under way or none is."""
        state = self.state()
        return state.model if isinstance(state, Active) else None

    def model_states(self) -> dict[str, ModelState]:
        """The state of every model."""
        return {name: model.state for name, model in self._configured().items()}

    def registered_models(self) -> list[str]:
        """The names of all models, in the order of the configuration."""
        return list(self._configured())

    def is_registered(self, model: str) -> bool:
        """Whether `model` is the name of a configured model. Aliases are not names."""
        return model in self._configured()

    def model_port(self, model: str) -> int | None:
        """The `port` of a model's backend; None for one that has a `url`, or is not configured."""
        return self._ports().get(model)

    def in_flight_count(self, model: str) -> int:
        """How many requests `model` is serving; 0 for a model that is not configured."""
        entry = self._driver.core.ledger.models.get(model)
        return entry.in_flight if entry is not None else 0

    def queue_depths(self) -> dict[str, int]:
        """How many requests wait for each model."""
        return {name: model.waiting for name, model in self._configured().items()}

    def _configured(self) -> dict[str, Model]:
        """All models but those that were removed, and are on their way to sleep."""
        return {name: model for name, model in self._driver.core.ledger.models.items() if not model.leaving}

    def estimated_switch_cost(self, from_model: str | None, to_model: str) -> float | None:
        """Seconds that a switch of this ordered pair takes (sleep + wake, moving average); None until one was seen.
        `from_model` is None for a cold start."""
        return self._driver.core.costs.estimate(from_model, to_model)

    def snapshot(self) -> Snapshot:
        """Everything at once: models, devices, ages."""
        return self._driver.snapshot()

    async def force_switch(self, model: str) -> None:
        """Make `model` awake, whoever waits, without regard to the policy and to ``min_active_secs``.

        Returns at once if it is awake; otherwise when its wake hook has succeeded.

        Raises:
            ModelNotFoundError: no model has that name.
            SwitchError: it could not be done; the message says why.
        """
        await self._driver.switch(model)

    async def force_sleep(self, model: str) -> None:
        """Drain `model` and put it to sleep. Raises as `force_switch` does."""
        await self._driver.sleep(model)

    async def release(self, *, refuse: bool = False) -> None:
        """Give the devices away: drain everything, put it to sleep, and wake nothing until `resume`. Requests are held
        meanwhile, under their usual limits and deadlines; with `refuse` they are refused, with 503 and
        ``released``.

        Returns once everything sleeps.

        Raises:
            SwitchError: something could not be put to sleep; the message says what, and why. llmux is released all the
                same, and goes on trying.
        """
        await self._driver.release(refuse=refuse)

    async def resume(self) -> None:
        """Take the devices back. Models are woken when they are asked for; for those who wait, that is at once."""
        await self._driver.resume()

    async def drain(self, model: str) -> None:
        """Let `model` finish what it has in flight, put it to sleep, and hold its requests until `undrain`. Returns
        once it sleeps; raises as `release` does, and `ModelNotFoundError`."""
        await self._driver.drain(model)

    async def undrain(self, model: str) -> None:
        """Let `model` be given requests, and be woken for them, again. Raises `ModelNotFoundError`."""
        await self._driver.undrain(model)

    async def pin(self, model: str) -> None:
        """Once `model` is awake, do not put it to sleep for another. That wakes nothing, and puts nothing to sleep.
        Raises `ModelNotFoundError`."""
        await self._driver.pin(model)

    async def unpin(self, model: str) -> None:
        """Let `model` be put to sleep for others. Raises `ModelNotFoundError`."""
        await self._driver.unpin(model)

    async def declare_free(self, model: str) -> None:
        """Take the caller's word that `model`, lost or unconfirmed, holds no memory. Raises as `force_switch` does."""
        await self._driver.free(model)

    async def look_again(self, model: str) -> None:
        """Look at `model` now if it is lost, instead of when its next look is due: ask its alive hook, then its verify
        hook (if it has one), then run its sleep hook. Returns once it is known what it holds; at once if it is not
        lost.

        Raises:
            ModelNotFoundError: no model has that name.
            DeviceLostError: it is still lost; the message says why.
        """
        await self._driver.look(model)

    def subscribe(self, watcher: Watcher) -> Callable[[], None]:
        """Have `watcher(now, message)` called for every event and effect of the core (`llmux.messages`), `now` being
        in seconds of `time.monotonic`. Returns a function that ends it."""
        return self._driver.subscribe(watcher)
