"""What is shown live: the state as it changes (`llmux status --watch`), and what hooks do (`llmux logs -f`).

Follows the event stream in a thread, and comes back to it when it breaks: llmux may be restarted meanwhile.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from llmux.cli import tables
from llmux.cli.connection import CallError, RefusedError, Server
from llmux.hooks.output import printable

AGAIN_SECS = 2.0
"""How long after the stream broke it is tried again, in seconds."""

TICK_SECS = 1.0
"""How often ages are drawn anew, in seconds."""

BROKEN = "broken"
_QUESTIONS = ("alive", "verify")


def events(server: Server, *, tick: float | None = None) -> Iterator[tuple[str, Any]]:
    """What happens, without end: the event stream, `BROKEN` with a message when it breaks, and, if `tick` seconds pass
    without anything, an empty name.

    Raises:
        CallError: it cannot be had at all, or llmux does not want to give it any more.
    """
    found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def follow() -> None:
        begun = False
        while True:
            try:
                for event in server.events():
                    begun = True
                    found.put(event)
            except RefusedError as error:
                found.put(("", error))
                return
            except CallError as error:
                found.put((BROKEN, str(error)) if begun else ("", error))
                if not begun:
                    return
            time.sleep(AGAIN_SECS)

    threading.Thread(target=follow, name="llmux-events", daemon=True).start()
    while True:
        try:
            name, data = found.get(timeout=tick)
        except queue.Empty:
            yield "", None
            continue
        if isinstance(data, CallError):
            raise data
        yield name, data


def watch_status(server: Server, *, as_json: bool) -> None:
    """Show the state as it changes, until Ctrl-C. On no terminal: anew at each change, JSON as a line for each."""
    out = tables.console()
    try:
        if as_json:
            for name, data in events(server):
                if name == "status":
                    typer.echo(json.dumps(data, ensure_ascii=False))
        elif not out.is_terminal:
            for name, data in events(server):
                if name == "status":
                    out.print(tables.status(data, server.url))
                    out.print()
        else:
            with Live(console=out, auto_refresh=False, screen=False) as live:
                _follow(server, lambda shown: live.update(shown, refresh=True))
    except KeyboardInterrupt:
        return


def _follow(server: Server, show: Callable[[RenderableType], None]) -> None:
    state: dict[str, Any] = {}
    told, trouble = time.monotonic(), ""
    for name, data in events(server, tick=TICK_SECS):
        if name == "status":
            state, told, trouble = data, time.monotonic(), ""
        elif name == BROKEN:
            trouble = data
        if trouble:
            age = tables.duration(time.monotonic() - told)
            note = Text(f"{printable(trouble)}. Trying again; this is from {age} ago:", style="bold red")
            show(tables.status(state, server.url, fitting=True, note=note))
        elif state:
            show(tables.status(state, server.url, later=time.monotonic() - told, fitting=True))


# --- logs -------------------------------------------------------------------------------------------------------------


def show_logs(server: Server, model: str | None, *, follow: bool, last: int | None, as_json: bool) -> None:
    """Show the hook runs that llmux remembers, the oldest first, and then, if told to, whatever happens."""
    from urllib.parse import quote

    path = "/hooks" if model is None else f"/hooks?model={quote(model, safe='')}"
    printer = _Printer(as_json=as_json)
    try:
        if not follow:
            printer.runs(_last(server.get(path)["hooks"], last))
            return
        name = model
        for kind, data in events(server):
            if kind == "status" and not printer.begun:
                # Only now: what happens from here on is in the stream, and what happened before in the answer.
                printer.runs(_last(server.get(path)["hooks"], last))
                found = (one["name"] for one in data["models"] if model in (one["name"], *one["aliases"]))
                name = next(found, model)
            elif kind in (BROKEN, "missed"):
                words = data if kind == BROKEN else f"{data} events came faster than they could be sent"
                typer.echo(printable(f"llmux: {words}"), err=True)
            elif name is None or name in _concerned(kind, data):
                printer.event(kind, data)
    except KeyboardInterrupt:
        return


def _concerned(kind: str, data: dict[str, Any]) -> tuple[str | None, ...]:
    """The models that an event is about."""
    if kind == "switch":
        return (data["from"], data["to"], *data["victims"])
    return (data.get("model"),)


def _last(runs: list[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """The oldest first; llmux gives the newest first."""
    return runs[:count][::-1]


class _Printer:
    def __init__(self, *, as_json: bool) -> None:
        self.begun = False
        self._json = as_json
        self._seen: set[tuple[str, str, float]] = set()
        self._out = tables.console()

    def runs(self, runs: list[dict[str, Any]]) -> None:
        self.begun = True
        for run in runs:
            self._seen.add((run["model"], run["hook"], run["ended"]))
            if self._json:
                self._line({"event": "hook", **run})
                continue
            self._run(run)
            for line in run["output"].splitlines():
                self._out.print(Text(f"    {printable(line)}"))

    def event(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "hook" and (data["model"], data["hook"], data["ended"]) in self._seen:
            return
        if self._json:
            self._line({"event": kind, **data})
        elif kind == "hook":
            self._run(data)
        elif kind == "hook_started":
            if data["hook"] not in _QUESTIONS:
                self._say(data["at"], f"{data['model']} {data['hook']} begins", "yellow")
        elif kind == "hook_output":
            self._say(data["at"], f"{data['model']} {data['hook']} | {data['line']}")
        elif kind == "state":
            self._say(data["at"], f"{data['model']} is {data['state']} ({data['cause']})", "cyan")
        elif kind == "switch":
            self._switch(data)

    def _run(self, run: dict[str, Any]) -> None:
        outcome, style = run["outcome"], "green" if run["outcome"] == "ok" else "red"
        if outcome == "failed" and run["hook"] in _QUESTIONS:
            outcome, style = "no", ""  # an answer, and mostly no bad one
        words = f"{run['model']} {run['hook']}: {outcome} after {tables.duration(run['duration_secs'])}"
        words += f", {run['detail']}" if run["detail"] else ""
        self._say(run["ended"], words, style)

    def _switch(self, switch: dict[str, Any]) -> None:
        if switch["result"] is None:
            return  # its steps are told as they come
        what = f"switch to {switch['to']}" if switch["to"] else f"sleep of {', '.join(switch['victims'])}"
        parts = ", ".join(f"{part} {tables.duration(switch[f'{part}_secs'])}" for part in ("drain", "sleep", "wake"))
        words = f"{what}: {switch['result']} after {tables.duration(switch['duration_secs'])} ({parts})"
        words += f": {switch['detail']}" if switch["detail"] else ""
        at = switch["began"] + (switch["duration_secs"] or 0.0)
        self._say(at, words, "bold green" if switch["result"] == "success" else "bold red")

    def _say(self, at: float, words: str, style: str = "") -> None:
        clock = datetime.fromtimestamp(at).strftime("%m-%d %H:%M:%S")
        self._out.print(Text.assemble((clock, "dim"), " ", (printable(words), style)))

    def _line(self, value: dict[str, Any]) -> None:
        typer.echo(json.dumps(value, ensure_ascii=False))
