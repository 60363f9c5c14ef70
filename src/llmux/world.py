"""Carries out, in real time, what a core wants of the world: hooks, canaries, timers, connections to backends.

`llmux.virtual.world` is the same in virtual time. Touches the loop's timers, hooks by `HookRunner`, and backends only
through `llmux.ports`. Knows no requests and decides nothing; what happens is handed to the driver, who tells the core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from llmux.addresses import BackendAddress
from llmux.core import IMPLICIT_DEVICE
from llmux.hooks import HookResult, HookSpec, switch_variables
from llmux.hooks.runner import OnEnd
from llmux.messages import (
    CancelHook,
    CancelTimer,
    CloseBackend,
    Hook,
    ModelRemoved,
    Outcome,
    RunHook,
    SetTimer,
    TimerFired,
)
from llmux.ports import Backends


class Hooks(Protocol):
    """What the driver asks of `HookRunner`, whose methods these are."""

    def start(
        self,
        run_id: int,
        model: str,
        hook: Hook,
        spec: HookSpec,
        *,
        timeout: float | None,
        variables: Mapping[str, str],
        on_end: OnEnd,
    ) -> None: ...

    def cancel(self, run_id: int) -> None: ...


class World:
    """Hooks and timers, and where backends are. Must be made and used on the loop.

    Args:
        hooks: runs the scripts.
        scripts: the scripts of every model: three, or four with its verify hook.
        ports: the TCP port of every model's backend, where it has one.
        clock: what time it is, in seconds, as the core is told.
        on_timer: called with each timer that has fired.
        on_hook_end: called once for each run of a hook or a canary, never before `run_hook` has returned.

    Attributes:
        backends: the gateway, once there is one; canaries cannot be sent before.
    """

    def __init__(
        self,
        hooks: Hooks,
        scripts: Mapping[tuple[str, Hook], HookSpec],
        ports: Mapping[str, int],
        *,
        clock: Callable[[], float],
        on_timer: Callable[[TimerFired], None],
        on_hook_end: Callable[[RunHook, HookResult], None],
    ) -> None:
        self.backends: Backends | None = None
        self._hooks = hooks
        self._scripts = dict(scripts)
        self._ports = dict(ports)
        self._ports_to_be: dict[str, int | None] = {}  # of models that are to be woken first
        self._reported: dict[str, int | None] = {}  # of models whose wake hook has said where their backend is
        self._clock = clock
        self._on_timer = on_timer
        self._on_hook_end = on_hook_end
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._canaries: dict[int, Callable[[], None]] = {}  # by run: how to cancel it

    def close(self) -> None:
        """Cancel every timer."""
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    # --- hooks -----------------------------------------------------------------------------------------------

    def run_hook(self, effect: RunHook) -> None:
        """See `RunHook`."""
        if effect.hook is Hook.WAKE:
            self.take_port(effect.model)
            self._reported.pop(effect.model, None)
            if self.backends is not None:
                self.backends.waking(effect.model)
        if effect.hook is Hook.CANARY:
            self._send_canary(effect)
            return
        variables = switch_variables(
            self._reported.get(effect.model, self._ports.get(effect.model)),
            effect.from_model,
            effect.to_model,
            [device for device in effect.devices if device != IMPLICIT_DEVICE],
        )

        def ended(run_id: int, result: HookResult) -> None:
            if result.backend is not None:
                self._move_backend(effect.model, result.backend)
            self._on_hook_end(effect, result)

        self._hooks.start(
            effect.run_id,
            effect.model,
            effect.hook,
            self._scripts[effect.model, effect.hook],
            timeout=effect.timeout,
            variables=variables,
            on_end=ended,
        )

    def _send_canary(self, effect: RunHook) -> None:
        def ended(outcome: Outcome, seconds: float, detail: str) -> None:
            self._canaries.pop(effect.run_id, None)
            self._on_hook_end(effect, HookResult(outcome, seconds, detail=detail))

        try:
            if self.backends is None:
                raise RuntimeError("there is no gateway to send it")
            self._canaries[effect.run_id] = self.backends.send_canary(effect.model, effect.timeout, ended)
        except Exception as error:  # its model's waiters must hear of it
            self._loop.call_soon(ended, Outcome.ERROR, 0.0, f"could not be sent: {error}")

    def cancel_hook(self, effect: CancelHook) -> None:
        """See `CancelHook`."""
        cancel_canary = self._canaries.get(effect.run_id)
        if cancel_canary is not None:
            cancel_canary()
        else:
            self._hooks.cancel(effect.run_id)

    # --- backends --------------------------------------------------------------------------------------------

    def reconfigure(
        self, scripts: Mapping[tuple[str, Hook], HookSpec], ports: Mapping[str, int], *, known: Collection[str]
    ) -> None:
        """Go on with these instead. The scripts count from a hook's next run; the ports at once, but those of the
        models `known`, which there were before and are still, from `take_port`."""
        self._ports_to_be = {name: ports.get(name) for name in known}
        self._ports.update((name, port) for name, port in ports.items() if name not in known)
        self._scripts |= scripts  # those of models that are removed are needed once more

    def take_port(self, model: str) -> None:
        """From now on, the backend of `model` is where the newest configuration has it."""
        if model in self._ports_to_be:
            port = self._ports_to_be.pop(model)
            if port is None:
                self._ports.pop(model, None)
            else:
                self._ports[model] = port

    def _move_backend(self, model: str, address: BackendAddress) -> None:
        """The backend of `model` is at `address` until it is woken the next time."""
        self._reported[model] = address.port or None
        if self.backends is not None:
            self.backends.reported(model, address)

    def close_backend(self, effect: CloseBackend) -> None:
        """See `CloseBackend`."""
        if self.backends is not None:
            self.backends.close_backend(effect.model)

    def model_removed(self, effect: ModelRemoved) -> None:
        """See `ModelRemoved`."""
        for hook in Hook:
            self._scripts.pop((effect.model, hook), None)
        self._ports.pop(effect.model, None)
        self._ports_to_be.pop(effect.model, None)
        self._reported.pop(effect.model, None)
        if self.backends is not None:
            self.backends.removed(effect.model)

    # --- timers ----------------------------------------------------------------------------------------------

    def set_timer(self, effect: SetTimer) -> None:
        """See `SetTimer`."""
        old = self._timers.pop(effect.key, None)
        if old is not None:
            old.cancel()
        # On uvloop it may fire up to a millisecond early; then the core sets it again.
        self._timers[effect.key] = self._loop.call_later(max(0.0, effect.at - self._clock()), self._fire, effect.key)

    def cancel_timer(self, effect: CancelTimer) -> None:
        """See `CancelTimer`."""
        handle = self._timers.pop(effect.key, None)
        if handle is not None:
            handle.cancel()

    def _fire(self, key: str) -> None:
        self._timers.pop(key, None)
        self._on_timer(TimerFired(key))
