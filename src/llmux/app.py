"""The whole of llmux, put together from a configuration: core, driver, hooks, gateway, control plane.

The only place that knows all the rooms. Nothing here decides or relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256

from llmux import control, descriptors, logs
from llmux.access import Access
from llmux.addresses import parse_network
from llmux.certificates import Certificate
from llmux.config import Config, Difference, ModelConfig, as_started, difference, secret_variables
from llmux.core import Core, CoreSettings, PolicyNote
from llmux.costs import Learned, SwitchCostTracker
from llmux.driver import Driver
from llmux.eventlog.recorder import Recorder
from llmux.exposure import Exposure, Keeper, expose
from llmux.gateway import Backend, Gateway, GatewaySettings, Limit, Timeouts
from llmux.hooks import HookRunner, HookSpec
from llmux.journals import Journals, reason
from llmux.messages import SCRIPTS, Hook, ModelState, OnExit
from llmux.oversight import ClientView, Oversight, Sinks, devices_of, lost_place
from llmux.policy import load_policy
from llmux.remembering import Remembering
from llmux.settings import core_settings
from llmux.snapshot import Usage
from llmux.switcher import Switcher
from llmux.telemetry import Telemetry
from llmux.telemetry.history import History
from llmux.upstream import Canary
from llmux.wire.rewrite import Params

#: How long answers that are under way once nothing is in flight any more may take when llmux stops, in seconds.
LAST_WORDS_SECS = 2.0

log = logs.get_logger("llmux.app")


def backend(name: str, model: ModelConfig) -> Backend:
    """What the gateway must know of a model."""
    canary = None
    if model.canary is not None:
        body = model.canary.request_body(model.send_model_as or name)
        canary = Canary(model.canary.path, body, tuple(model.canary.headers.items()))
    params = Params.of(strip=model.strip_params, put=model.set_params)
    return Backend(name, model.address, model.send_model_as, canary, params or None, model.keep_aliases)


def scripts(config: Config) -> dict[tuple[str, Hook], HookSpec]:
    """The scripts that there are, by model and hook."""
    return {
        (name, hook): HookSpec(script, config.hook_cwd(name, hook))
        for name, model in config.models.items()
        for hook in SCRIPTS
        if (script := model.script(hook)) is not None
    }


def ports(config: Config) -> dict[str, int]:
    """The port of every model that has one."""
    return {name: model.port for name, model in config.models.items() if model.port is not None}


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
        default_model=config.default_model,
        waiting_keepalive={name: config.waiting_keepalive(name) for name in config.models},
    )


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


class App:
    """One llmux. Made by `build_app`; serves while `serving` lasts, once.

    Args:
        config: what it begins with; the attribute `config` is what is in use now.
        exposure: the keys and certificates that it names.
        memory: what survives a restart.
        journals: what is to be written down of requests.
    """

    def __init__(
        self,
        config: Config,
        exposure: Exposure,
        memory: Remembering | None = None,
        journals: Journals | None = None,
    ) -> None:
        self.config = config
        self._journals = journals if journals is not None else Journals(config)
        self._memory = memory if memory is not None else Remembering(config)
        self._costs = SwitchCostTracker(learned=self._memory.learned)
        self._telemetry = Telemetry(
            config.models,
            request_timeout_secs=config.policy.request_timeout_secs,
            limits=Limit,
            usage=self._usage,
            lost_place=lambda model: lost_place(self._driver, model),
        )
        self._history = History(config.models, devices=lambda model: devices_of(self._driver, model))
        sinks = Sinks(self._telemetry, self._history, self._memory.standing_changed)
        self._hooks = HookRunner(
            on_output=sinks.hook_output,
            on_held=self._telemetry.hook_output_held,
            on_scarce=self._telemetry.hook_start_delayed,
            withheld=secret_variables(config),
            owner="" if config.path is None else sha256(os.fsencode(config.path)).hexdigest()[:16],
        )
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
            sink=sinks,
            recorder=self._recorder,
            owners_changed=self._memory.owners_changed,
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
            scribes=self._journals.scribes,
        )
        self._keeper = Keeper(config, exposure, certificate, self._let_in)
        self._driver.connect(self._gateway)
        self.oversight = Oversight(lambda: self.config, self._driver, self._history)
        self.switcher = Switcher(self._driver, lambda: ports(self.config))
        self._reloading = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None

    async def reload(self, config: Config) -> Difference:
        """Go on with another configuration, without an interruption for what did not change; tells what did.

        What a configuration cannot change while llmux runs (`Difference.at_start`) stays as it was. The rest counts at
        once, but for what is awake: `llmux.core.reconfigure` has the rules, and where a backend is counts from its
        model's next wake.

        Raises:
            ConfigError: a key or a certificate that it names cannot be read or used; nothing was changed.
            ValueError: the configuration's policy cannot be made; nothing was changed.
        """
        async with self._reloading:
            changes = difference(self.config, config)
            policy = None
            if changes.policy:
                policy = PolicyNote(config.policy.name, config.policy.arguments())
                # Only to see whether it can be made; it may have to be imported first.
                await asyncio.to_thread(load_policy, policy.name, policy.options)
            exposure = await asyncio.to_thread(expose, config)
            self.config = config = as_started(self.config, config)
            self._keeper.adopt(config, exposure)
            self._hooks.withhold(secret_variables(config))
            self._gateway_settings = gateway_settings(config)
            # In this order: who counts, and who relays, must know of a model before the scheduler may grant for it.
            self._telemetry.reconfigure(config.models, request_timeout_secs=config.policy.request_timeout_secs)
            backends = {name: backend(name, model) for name, model in config.models.items()}
            self._gateway.reconfigure(backends, self._gateway_settings)
            self._driver.reconfigure(
                core_settings(config), policy, scripts=scripts(config), ports=ports(config), aliases=config.names()
            )
            self._telemetry.config_taken()
            return changes

    def reload_refused(self) -> None:
        """A configuration could not be read, so the old one stays in use: have the metrics say so."""
        self._telemetry.config_refused()

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
            access_log_dropped=self._journals.access_log_dropped,
            secrets_good=self._keeper.good,
            certificate_not_after=self._keeper.not_after,
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
            OSError: the address cannot be bound, the event log or access log not be opened, or the `state_dir` not be
                used, as another llmux has it or it is no folder; no hook has run then.
        """
        view = ClientView(lambda: self.config, self._driver)
        # The control plane first: whoever connects early must find it.
        async with (
            self._memory.alone(),
            self._memory.saving(self._driver),
            self._recording(),
            self._journals.writing(self._driver),
            control.control_server(
                lambda: control.build_control(
                    view,
                    self._telemetry,
                    lambda: self._gateway.access,
                    sight=self.oversight,
                    orders=self.oversight,
                )
            ) as dial,
            self._keeping(),
        ):
            self._gateway.set_control(dial)
            await self._memory.recall(self._driver)  # before anybody can ask for a model
            for orphan in await self._hooks.end_orphans():  # before anybody can have a model woken
                self._telemetry.hook_left_running(orphan)
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
        try:
            await asyncio.to_thread(self._recorder.start)
        except OSError as error:
            raise OSError(f"`event_log` {self.config.event_log_path} cannot be written: {reason(error)}") from error
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
        config = self.config
        await self._driver.stop(config.shutdown_grace_secs, OnExit(config.on_exit), config.on_exit_timeout_secs)
        with contextlib.suppress(TimeoutError):  # last words, such as the refusals of those who waited
            await asyncio.wait_for(self._gateway.drained(), LAST_WORDS_SECS)
        await self._gateway.close()
        await self._hooks.wait_closed()
        self._tell_of_memory()

    def _tell_of_memory(self) -> None:
        """Say which models may hold memory now that llmux ends, other than those that are left awake as wished."""
        wished = [ModelState.AWAKE] if self.config.on_exit == "leave" else []
        left = {name: state for name, state in self._driver.owners().items() if state not in wished}
        if left:
            kept = "the next llmux with this `state_dir` knows of it"
            lost = "the next llmux will not know of it, as there is no `state_dir`: see to their memory before"
            tell = log.warning if set(left.values()) <= {ModelState.UNCONFIRMED} else log.error
            tell(
                "memory_may_be_held",
                models=", ".join(f"{name} ({state})" for name, state in left.items()),
                message=kept if self._memory.lasting else lost,
            )

    def kill(self) -> None:
        """End at once: kill the groups of all running hooks, and cut every connection."""
        self._hooks.kill_all()
        self._gateway.abort_all()


async def build_app(config: Config) -> tuple[App, Switcher]:
    """Put an llmux together; must be called on the event loop that it will serve on. Runs no hook, and reads no file
    but that of what was learned, where the configuration has a ``state_dir``.

    Raises:
        ConfigError: a key or a certificate that the configuration names cannot be read or used; or it wants traces,
            and OpenTelemetry is not installed.
        ValueError: the configuration's policy cannot be made.
    """
    memory = await asyncio.to_thread(Remembering, config)
    journals = await asyncio.to_thread(Journals, config)
    app = App(config, await asyncio.to_thread(expose, config), memory, journals)
    return app, app.switcher
