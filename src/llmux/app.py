"""The whole of llmux, put together from a configuration: core, driver, hooks, gateway, control plane.

The only place that knows all the rooms. Nothing here decides or relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

from llmux import control
from llmux.config import Config
from llmux.control.view import ModelEntry
from llmux.core import Core, CoreSettings
from llmux.driver import Driver
from llmux.eventlog.recorder import Recorder
from llmux.gateway import Backend, Gateway, GatewaySettings, Limit, Timeouts, descriptors
from llmux.hooks import HookRunner, HookSpec
from llmux.messages import Hook, OnExit
from llmux.policy import load_policy
from llmux.settings import core_settings
from llmux.snapshot import Snapshot, Usage
from llmux.switcher import Switcher
from llmux.telemetry import Telemetry

#: How long answers that are under way once nothing is in flight any more may take when llmux stops, in seconds.
LAST_WORDS_SECS = 2.0


def gateway_settings(config: Config) -> GatewaySettings:
    """The gateway's limits: what the configuration says, and as many connections as there are descriptors for."""
    wanted = GatewaySettings().max_idle_upstream
    most_in_flight = [model.max_in_flight for model in config.models.values()]
    shares = descriptors.share(descriptors.limit(), descriptors.in_use(), most_in_flight, wanted)
    return GatewaySettings(
        max_body_bytes=config.max_body_bytes,
        max_buffered_bytes=config.max_buffered_bytes,
        max_connections=shares.clients,
        max_idle_upstream=shares.idle,
        timeouts=Timeouts(**config.timeouts_secs.model_dump()),
    )


def recorder(config: Config, settings: CoreSettings) -> Recorder | None:
    """The event log of a configuration that wants one, not yet begun."""
    path = config.event_log_path
    if path is None:
        return None
    return Recorder(
        path,
        settings,
        config.policy.name,
        config.policy.arguments(),
        max_bytes=config.event_log_max_bytes,
        keep=config.event_log_keep,
    )


class _ControlView:
    """What the control plane may see."""

    def __init__(self, config: Config, driver: Driver) -> None:
        self._entries = [ModelEntry(name, tuple(model.aliases)) for name, model in config.models.items()]
        self._driver = driver

    def models(self) -> Sequence[ModelEntry]:
        return self._entries

    def snapshot(self) -> Snapshot:
        return self._driver.snapshot()


class App:
    """One llmux. Made by `build_app`; serves while `serving` lasts, once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        ports = {name: model.port for name, model in config.models.items() if model.port is not None}
        self._telemetry = Telemetry(
            config.models,
            request_timeout_secs=config.policy.request_timeout_secs,
            limits=Limit,
            usage=self._usage,
        )
        self._hooks = HookRunner(on_output=self._telemetry.hook_output)
        policy = load_policy(config.policy.name, config.policy.arguments())
        settings = core_settings(config)
        self._recorder = recorder(config, settings)
        self._driver = Driver(
            Core(settings, policy),
            hooks=self._hooks,
            scripts={
                (name, hook): HookSpec(model.script(hook), config.hook_cwd(name, hook))
                for name, model in config.models.items()
                for hook in Hook
            },
            ports=ports,
            aliases=config.names(),
            sink=self._telemetry,
            recorder=self._recorder,
        )
        self._gateway_settings = gateway_settings(config)
        self._gateway = Gateway(
            scheduler=self._driver,
            backends={name: Backend(name, model.address, model.send_model_as) for name, model in config.models.items()},
            control=None,
            settings=self._gateway_settings,
            observer=self._telemetry,
        )
        self._driver.backends = self._gateway
        self.switcher = Switcher(self._driver, ports)
        self._stopping: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many connections of clients there are."""
        return self._gateway.connections

    def _usage(self) -> Usage:
        return Usage(
            connections=self._gateway.connections,
            most_connections=self._gateway_settings.max_connections,
            buffered_bytes=self._gateway.buffered_bytes,
            most_buffered_bytes=self._gateway_settings.max_buffered_bytes,
            event_log_dropped=0 if self._recorder is None else self._recorder.dropped,
        )

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
        view = _ControlView(self.config, self._driver)
        # The control plane first: whoever connects early must find it.
        async with (
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
    """Put an llmux together; must be called on the event loop that it will serve on. Runs no hook.

    Raises:
        ValueError: the configuration's policy cannot be made.
    """
    app = App(config)
    return app, app.switcher
