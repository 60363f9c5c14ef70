"""The whole of llmux, put together from a configuration: core, driver, hooks, gateway, control plane.

The only place that knows all the rooms. Nothing here decides or relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

from llmux import control
from llmux.config import Config, Difference, ModelConfig, as_started, difference
from llmux.control.view import ModelEntry
from llmux.core import Core, CoreSettings, PolicyNote
from llmux.costs import Learned, SwitchCostTracker
from llmux.driver import Driver
from llmux.eventlog.recorder import Recorder
from llmux.gateway import Backend, Gateway, GatewaySettings, Timeouts
from llmux.hooks import HookRunner, HookSpec
from llmux.messages import Hook, OnExit
from llmux.policy import load_policy
from llmux.settings import core_settings
from llmux.snapshot import Snapshot
from llmux.state import CostStore
from llmux.switcher import Switcher
from llmux.telemetry import Telemetry

#: How long answers that are under way once nothing is in flight any more may take when llmux stops, in seconds.
LAST_WORDS_SECS = 2.0

#: How often what was learned is saved, in seconds; and at the end.
SAVE_SECS = 30.0


def backend(name: str, model: ModelConfig) -> Backend:
    """What the gateway must know of a model."""
    return Backend(name, model.address, model.send_model_as)


def scripts(config: Config) -> dict[tuple[str, Hook], HookSpec]:
    """The scripts that there are, by model and hook."""
    return {
        (name, hook): HookSpec(model.script(hook), config.hook_cwd(name, hook))
        for name, model in config.models.items()
        for hook in Hook
    }


def ports(config: Config) -> dict[str, int]:
    """The port of every model that has one."""
    return {name: model.port for name, model in config.models.items() if model.port is not None}


def gateway_settings(config: Config) -> GatewaySettings:
    """The gateway's limits."""
    return GatewaySettings(max_body_bytes=config.max_body_bytes, timeouts=Timeouts(**config.timeouts_secs.model_dump()))


def recorder(config: Config, settings: CoreSettings, costs: Learned) -> Recorder | None:
    """The event log of a configuration that wants one, not yet begun."""
    path = config.event_log_path
    if path is None:
        return None
    return Recorder(
        path,
        settings,
        config.policy.name,
        config.policy.arguments(),
        costs=costs,
        max_bytes=config.event_log_max_bytes,
        keep=config.event_log_keep,
    )


class _ControlView:
    """What the control plane may see."""

    def __init__(self, app: App, driver: Driver) -> None:
        self._app = app
        self._driver = driver

    def models(self) -> Sequence[ModelEntry]:
        return [ModelEntry(name, tuple(model.aliases)) for name, model in self._app.config.models.items()]

    def snapshot(self) -> Snapshot:
        return self._driver.snapshot()


class App:
    """One llmux. Made by `build_app`; serves while `serving` lasts, once.

    Args:
        config: what it begins with; the attribute `config` is what is in use now.
        store: where what it learns is kept.
        learned: what was in there.
    """

    def __init__(self, config: Config, store: CostStore | None = None, learned: Learned | None = None) -> None:
        self.config = config
        self._store = store
        self._costs = SwitchCostTracker(learned=learned)
        self._telemetry = Telemetry(config.models, request_timeout_secs=config.policy.request_timeout_secs)
        self._hooks = HookRunner(on_output=self._telemetry.hook_output)
        policy = load_policy(config.policy.name, config.policy.arguments())
        settings = core_settings(config)
        self._recorder = recorder(config, settings, self._costs.learned())
        self._telemetry.costs_known(self._costs.learned().pairs)
        self._driver = Driver(
            Core(settings, policy, self._costs),
            hooks=self._hooks,
            scripts=scripts(config),
            ports=ports(config),
            aliases=config.names(),
            sink=self._telemetry,
            recorder=self._recorder,
        )
        self._gateway = Gateway(
            scheduler=self._driver,
            backends={name: backend(name, model) for name, model in config.models.items()},
            control=None,
            settings=gateway_settings(config),
            observer=self._telemetry,
        )
        self._driver.backends = self._gateway
        self.switcher = Switcher(self._driver, lambda: ports(self.config))
        self._reloading = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None

    async def reload(self, config: Config) -> Difference:
        """Go on with another configuration, without an interruption for what did not change; tells what did.

        What a configuration cannot change while llmux runs (`Difference.at_start`) stays as it was. The rest counts at
        once, but for what is awake: `llmux.core.reconfigure` has the rules, and where a backend is counts from its
        model's next wake.

        Raises:
            ValueError: the configuration's policy cannot be made; nothing was changed.
        """
        async with self._reloading:
            changes = difference(self.config, config)
            policy = None
            if changes.policy:
                policy = PolicyNote(config.policy.name, config.policy.arguments())
                # Only to see whether it can be made; it may have to be imported first.
                await asyncio.to_thread(load_policy, policy.name, policy.options)
            self.config = config = as_started(self.config, config)
            # In this order: who counts, and who relays, must know of a model before the scheduler may grant for it.
            self._telemetry.reconfigure(config.models, request_timeout_secs=config.policy.request_timeout_secs)
            backends = {name: backend(name, model) for name, model in config.models.items()}
            self._gateway.reconfigure(backends, gateway_settings(config))
            self._driver.reconfigure(
                core_settings(config), policy, scripts=scripts(config), ports=ports(config), aliases=config.names()
            )
            self._telemetry.config_taken()
            return changes

    def reload_refused(self) -> None:
        """A configuration could not be read, so the old one stays in use: have the metrics say so."""
        self._telemetry.config_refused()

    @contextlib.asynccontextmanager
    async def serving(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        sockets: Sequence[socket.socket] | None = None,
    ) -> AsyncIterator[tuple[str, int]]:
        """Serve until the context ends; gives the address bound to.

        Args:
            host: address to listen on; the configuration's if None.
            port: port to listen on, 0 for any free one; the configuration's if None.
            sockets: listen on these sockets, which are bound already, instead.

        Raises:
            OSError: the address cannot be bound, or the event log not be opened; no hook has run then.
        """
        view = _ControlView(self, self._driver)
        # The control plane first: whoever connects early must find it.
        async with (
            self._remembering(),
            self._recording(),
            control.control_server(lambda: control.build_control(view, self._telemetry)) as address,
        ):
            self._gateway.control = address
            try:
                if sockets is None:
                    await self._gateway.start(
                        host if host is not None else self.config.host, port if port is not None else self.config.port
                    )
                else:
                    await self._gateway.start(sockets=sockets)
                self._driver.start()
                try:
                    yield self._gateway.addresses[0][:2]
                finally:
                    await self.stop()
            finally:
                await self._gateway.close()
                self._driver.close()

    @contextlib.asynccontextmanager
    async def _recording(self) -> AsyncIterator[None]:
        if self._recorder is None:
            yield
            return
        await asyncio.to_thread(self._recorder.start)
        try:
            yield
        finally:
            await asyncio.to_thread(self._recorder.close)

    @contextlib.asynccontextmanager
    async def _remembering(self) -> AsyncIterator[None]:
        """Save what is learned, now and then and at the end."""
        store = self._store
        if store is None:
            yield
            return

        async def now_and_then() -> None:
            while True:
                await asyncio.sleep(SAVE_SECS)
                await asyncio.to_thread(store.save, self._costs.learned())

        saving = asyncio.create_task(now_and_then(), name="llmux-state")
        try:
            yield
        finally:
            saving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saving
            await asyncio.to_thread(store.save, self._costs.learned())

    async def stop(self) -> None:
        """Stop accepting, refuse what waits, let what is in flight end within ``shutdown_grace_secs``, see that no
        hook runs any more, and leave the models as ``on_exit`` says. Calling it again waits for the same end."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="llmux-stop")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._gateway.stop_accepting()
        await self._driver.stop(self.config.shutdown_grace_secs, OnExit(self.config.on_exit))
        with contextlib.suppress(TimeoutError):  # last words, such as the refusals of those who waited
            await asyncio.wait_for(self._gateway.drained(), LAST_WORDS_SECS)
        await self._gateway.close()
        await self._hooks.wait_closed()

    def kill(self) -> None:
        """End at once: kill the groups of all running hooks, and cut every connection."""
        self._hooks.kill_all()
        self._gateway.abort_all()


async def build_app(config: Config) -> tuple[App, Switcher]:
    """Put an llmux together; must be called on the event loop that it will serve on. Runs no hook, and reads no file
    but that of what was learned, where the configuration has a ``state_dir``.

    Raises:
        ValueError: the configuration's policy cannot be made.
    """
    store = learned = None
    if config.state_path is not None:
        store = CostStore(config.state_path)
        learned = await asyncio.to_thread(store.load, frozenset(config.models))
    app = App(config, store, learned)
    return app, app.switcher
