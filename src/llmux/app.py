"""The whole of llmux, put together from a configuration: core, driver, hooks, gateway, control plane.

The only place that knows all the rooms. Nothing here decides or relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

from llmux import control
from llmux.access import Access
from llmux.addresses import parse_network
from llmux.certificates import Certificate
from llmux.config import Config, ModelConfig, secret_variables
from llmux.core import Core, CoreSettings
from llmux.driver import Driver
from llmux.eventlog.recorder import Recorder
from llmux.exposure import Exposure, Keeper, expose
from llmux.gateway import Backend, Gateway, GatewaySettings, Limit, Timeouts, descriptors
from llmux.hooks import HookRunner, HookSpec
from llmux.messages import SCRIPTS, Hook, OnExit
from llmux.oversight import ClientView, Oversight, Sinks
from llmux.policy import load_policy
from llmux.settings import core_settings
from llmux.snapshot import Usage
from llmux.switcher import Switcher
from llmux.telemetry import Telemetry
from llmux.telemetry.history import History
from llmux.upstream import Canary

#: How long answers that are under way once nothing is in flight any more may take when llmux stops, in seconds.
LAST_WORDS_SECS = 2.0


def backend(name: str, model: ModelConfig) -> Backend:
    """What the gateway must know of a model."""
    canary = None
    if model.canary is not None:
        body = model.canary.request_body(model.send_model_as or name)
        canary = Canary(model.canary.path, body, tuple(model.canary.headers.items()))
    return Backend(name, model.address, model.send_model_as, canary)


def scripts(config: Config) -> dict[tuple[str, Hook], HookSpec]:
    """The scripts that there are, by model and hook."""
    return {
        (name, hook): HookSpec(script, config.hook_cwd(name, hook))
        for name, model in config.models.items()
        for hook in SCRIPTS
        if (script := model.script(hook)) is not None
    }


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
        trusted_proxies=tuple(parse_network(text) for text in config.trusted_proxies),
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


class App:
    """One llmux. Made by `build_app`; serves while `serving` lasts, once."""

    def __init__(self, config: Config, exposure: Exposure) -> None:
        self.config = config
        ports = {name: model.port for name, model in config.models.items() if model.port is not None}
        self._telemetry = Telemetry(
            config.models,
            request_timeout_secs=config.policy.request_timeout_secs,
            limits=Limit,
            usage=self._usage,
        )
        self._history = History(config.models)
        sinks = Sinks(self._telemetry, self._history)
        self._hooks = HookRunner(
            on_output=sinks.hook_output,
            on_held=self._telemetry.hook_output_held,
            withheld=secret_variables(config),
        )
        policy = load_policy(config.policy.name, config.policy.arguments())
        settings = core_settings(config)
        self._recorder = recorder(config, settings)
        self._driver = Driver(
            Core(settings, policy),
            hooks=self._hooks,
            scripts=scripts(config),
            ports=ports,
            aliases=config.names(),
            sink=sinks,
            recorder=self._recorder,
        )
        certificate = None if exposure.certificate is None else Certificate(exposure.certificate)
        self._gateway_settings = gateway_settings(config)
        self._gateway = Gateway(
            scheduler=self._driver,
            backends={name: backend(name, model) for name, model in config.models.items()},
            control=None,
            settings=self._gateway_settings,
            observer=self._telemetry,
            access=exposure.access,
            tls=None if certificate is None else certificate.context,
        )
        self._keeper = Keeper(config, certificate, self._let_in)
        self._driver.backends = self._gateway
        self.oversight = Oversight(lambda: self.config, self._driver, self._history)
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
        view = ClientView(lambda: self.config, self._driver)
        # The control plane first: whoever connects early must find it.
        async with (
            self._recording(),
            control.control_server(
                lambda: control.build_control(
                    view,
                    self._telemetry,
                    lambda: self._gateway.access,
                    sight=self.oversight,
                    orders=self.oversight,
                )
            ) as address,
            self._keeping(),
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
    async def _keeping(self) -> AsyncIterator[None]:
        """Look after the files with keys and certificates."""
        keeping = asyncio.create_task(self._keeper.keep(), name="llmux-keeper")
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping

    def _let_in(self, access: Access) -> None:
        self._gateway.access = access

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
        ConfigError: a key or a certificate that the configuration names cannot be read or used.
        ValueError: the configuration's policy cannot be made.
    """
    app = App(config, await asyncio.to_thread(expose, config))
    return app, app.switcher
