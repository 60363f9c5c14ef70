"""Something for the eyes while an order is carried out: what llmux is waiting for, from its event stream; or while a
hook runs that is being tried.

On a terminal one line that changes, elsewhere a line for each thing that it waits for; all of it on stderr, and nothing
in the first second.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

import typer
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from llmux.cli.connection import CallError, Server
from llmux.cli.tables import console, duration
from llmux.hooks.output import printable

QUIET_SECS = 1.0
"""What is done by then needs no progress, in seconds."""

LOOK_SECS = 0.2
T = TypeVar("T")


def with_progress(
    server: Server,
    model: str | None,
    what: str,
    order: Callable[[], T],
    tell: Callable[[dict[str, Any]], str] | None = None,
) -> T:
    """Carry out `order` in a thread, showing how it gets on with `model`; what it raises, this raises.

    `what` is the order in words, shown while nothing better is known. Ctrl-C ends the showing, not the order. `tell`
    says of a state how an order that is not about one model gets on.
    """
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def carry_out() -> None:
        try:
            ended.put((order(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=carry_out, name="llmux-order", daemon=True).start()
    try:
        result, error = ended.get(timeout=QUIET_SECS)
    except queue.Empty:
        result, error = _show(Watcher(server, model, what, tell), ended)
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # it is None only where the order gave None


def _show(
    watcher: Watcher, ended: queue.SimpleQueue[tuple[T | None, BaseException | None]]
) -> tuple[T | None, BaseException | None]:
    threading.Thread(target=watcher.watch, name="llmux-watch", daemon=True).start()
    began = time.monotonic() - QUIET_SECS
    out = console(sys.stderr)
    if not out.is_terminal:
        shown = ""
        while True:
            try:
                return ended.get(timeout=LOOK_SECS)
            except queue.Empty:
                if watcher.line != shown:
                    shown = watcher.line
                    out.print(shown)
    with out.status(watcher.line) as spinner:
        while True:
            tail = f"\n  {watcher.output}" if watcher.output else ""
            line = f"{watcher.line} ({duration(time.monotonic() - began)}){tail}"
            spinner.update(line)
            try:
                return ended.get(timeout=LOOK_SECS)
            except queue.Empty:
                continue


class Watcher:
    """Follows the event stream. `line` says what llmux is doing for the order, `output` what its hook printed last."""

    def __init__(
        self, server: Server, model: str | None, what: str, tell: Callable[[dict[str, Any]], str] | None = None
    ) -> None:
        self._tell = tell
        self.line = what
        self.output = ""
        self._what = what
        self._server = server
        self._model = model

    def watch(self) -> None:
        """Until the stream ends; without it there is just less to see."""
        try:
            for name, data in self._server.events():
                self.take(name, data)
        except CallError:
            pass

    def take(self, name: str, data: Any) -> None:
        """Something happened."""
        if name == "status":
            words = describe(data, self._model) if self._tell is None else self._tell(data)
            self.line = words or self._what
        elif name == "hook_output":
            self.output = printable(f"{data['model']} {data['hook']}: {data['line']}")[:200]
        elif name == "hook":
            self.output = ""


class HookShow:
    """While it is entered, shows what a hook prints as it comes and, on a terminal, once it has taken a while, for how
    long it has run and how long it may; to be used on a running loop.

    Args:
        what: whose hook, and which.
        deadline: after how many seconds it is ended; None for never.
        to_stderr: what it prints goes there; else to stdout.
    """

    def __init__(self, what: str, deadline: float | None, *, to_stderr: bool) -> None:
        self._what = printable(what)
        self._limit = "" if deadline is None else f" of {duration(deadline)}"
        self._to_stderr = to_stderr
        self._out = console(sys.stderr)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self._out.is_terminal:
            self._timer = asyncio.get_running_loop().call_later(QUIET_SECS, self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, line: str) -> None:
        """The hook has printed this."""
        if self._live is not None and (self._to_stderr or sys.stdout.isatty()):
            self._out.print(Text(line), soft_wrap=True)  # above what is shown live, which writes to the same terminal
        else:
            typer.echo(line, err=self._to_stderr)

    def __rich__(self) -> Text:
        return Text(f"{self._what}: {duration(time.monotonic() - self._began)}{self._limit}")

    def _begin(self) -> None:
        self._live = Live(Spinner("dots", text=self), console=self._out, transient=True, redirect_stdout=False)
        self._live.start()


def describe(state: dict[str, Any], name: str | None) -> str:
    """What llmux is doing for the model of that name or alias, in one line; empty if nothing can be told."""
    models = {model["name"]: model for model in state["models"]}
    target = next((one for one in state["models"] if name == one["name"] or name in one["aliases"]), None)
    if target is None:
        return ""
    own = [switch for switch in state["switches"] if target["name"] in (switch["to"], switch["from"])]
    if not own:
        others = ", ".join(str(switch["to"] or switch["from"]) for switch in state["switches"])
        return printable(f"{target['name']} waits for the switch to {others}") if others else ""
    switch = own[0]
    phase = switch["phase"]
    if phase == "waking":
        usual = models[switch["to"]]["wake_secs"] if switch["to"] in models else None
        return printable(f"waking {switch['to']}{_usually(usual)}")
    if phase == "draining":
        busy = [model for model in state["models"] if model["state"] == "draining"] or [target]
        counts = ", ".join(f"{model['name']} has {model['in_flight']} in flight" for model in busy)
        return printable(f"draining: {counts}")
    asleep = [model for model in state["models"] if model["state"] == "sleeping"]
    names = ", ".join(model["name"] for model in asleep) or str(switch["from"])
    return printable(f"putting {names} to sleep{_usually(asleep[0]['sleep_secs'] if len(asleep) == 1 else None)}")


def describe_release(state: dict[str, Any]) -> str:
    """How far a release is, in one line; empty if it has not begun or nothing is left to do."""
    holding = state["released"]["holding"] if state["released"] else []
    steps = []
    for model in (one for one in state["models"] if one["name"] in holding):
        match model["state"]:
            case "draining":
                steps.append(f"draining {model['name']} ({model['in_flight']} in flight)")
            case "sleeping":
                steps.append(f"putting {model['name']} to sleep{_usually(model['sleep_secs'])}")
            case "waking":
                steps.append(f"{model['name']} is being woken, and is put to sleep after that")
            case other:
                steps.append(f"{model['name']} is {other}")
    return printable("; ".join(steps))


def _usually(seconds: float | None) -> str:
    return "" if seconds is None else f", which usually takes {duration(seconds)}"
