"""What llmux's state looks like on a terminal. Makes text of what the admin API says; asks nothing, decides nothing.

Names come from a configuration and messages from hooks: all of it is shown as it is written, never as markup.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from llmux.cli.grid import Column, Grid
from llmux.hooks.output import printable

_STYLES = {
    "awake": "green",
    "waking": "yellow",
    "draining": "yellow",
    "sleeping": "yellow",
    "asleep": "dim",
    "unconfirmed": "magenta",
    "lost": "bold red",
}
_DASH = "-"
IMPLICIT_DEVICE = "default"
WIDE = 1000
"""Columns of an output that is no terminal: whoever reads it wants whole lines."""


def console(file: IO[str] | None = None) -> Console:
    """A console on stdout, or `file`; one that is no terminal is as wide as it takes."""
    file = file or sys.stdout
    width = None if file.isatty() else WIDE
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def duration(seconds: float | None) -> str:
    """As people write durations: ``0.4s``, ``12s``, ``3m05s``, ``2h10m``, ``3d4h``."""
    if seconds is None:
        return _DASH
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def text(value: str, style: str = "") -> Text:
    return Text(printable(value), style=style, no_wrap=True)


def grid(*headings: str, right: tuple[str, ...] = ()) -> Grid:
    """A table of which all columns are shown, however wide the terminal is."""
    return Grid([Column(heading, right=heading in right) for heading in headings])


def status(
    state: dict[str, Any], url: str, *, later: float = 0.0, fitting: bool = False, note: Text | None = None
) -> RenderableType:
    """The whole state, `later` seconds after it was told, with a `note` above it; `fitting`: in no more lines than
    the terminal has."""
    up = state["now"] - state["started"] + later
    head = Text("ready" if state["ready"] else "not ready", style="bold green" if state["ready"] else "bold red")
    head.append(f"   llmux {state['version']} at {url}, up {duration(up)}, policy {state['policy']}", style="default")
    lines: list[RenderableType] = [head] if note is None else [note, head]
    # That it is released has a line of its own, which says more.
    reasons = [reason for reason in state["reasons"] if not (state["released"] and reason.startswith("released"))]
    lines += [Text(f"  {printable(reason)}", style="red") for reason in reasons]
    if state["released"]:
        lines.append(Text(f"  {released(state['released'], later)}", style="bold magenta"))
    lines += [Text(f"  {under_way(switch, later)}", style="yellow") for switch in state["switches"]]
    devices: list[list[RenderableType]] = [[], []]
    if any(device["name"] != IMPLICIT_DEVICE for device in state["devices"]):
        devices = [[Text(""), _devices(state)], [Text(""), _devices(state, briefly=True)]]
    remarks = [line for model in state["models"] for line in _remarks(model, later)]
    if fitting:
        return _Fitting(Group(*lines, *devices[0]), Group(*lines, *devices[1]), state["models"], remarks, later)
    return Group(
        *lines, *devices[0], Text(""), _models(state["models"], later), *([Text(""), *remarks] if remarks else [])
    )


@dataclass(frozen=True, slots=True)
class _Fitting:
    """The state, in as many lines as the terminal has: of more models than there is room for, those of which something
    can be said, and how many more there are."""

    above: RenderableType
    above_briefly: RenderableType
    models: list[dict[str, Any]]
    remarks: list[Text]
    later: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def height(*shown: RenderableType) -> int:
            return sum(len(console.render_lines(one, options, pad=False)) for one in shown)

        above = self.above if height(self.above) <= options.size.height // 3 else self.above_briefly
        yield above
        room = options.size.height - height(above) - 3  # an empty line and the headings, and the cursor's own line
        telling = sum(_unimportance(model) < _ASLEEP for model in self.models)
        left = max(room // 3, room - min(telling + 1, len(self.models))) - 1
        remarks: list[Text] = []
        for line in self.remarks:
            left -= height(line)
            if left < (len(remarks) < len(self.remarks) - 1):
                remarks.append(Text(f"and {len(self.remarks) - len(remarks)} more lines: `llmux status`", style="dim"))
                break
            remarks.append(line)
        room -= height(*remarks) + bool(remarks)
        shown = self.models
        if len(shown) > room:
            first = sorted(range(len(shown)), key=lambda place: _unimportance(shown[place]))[: max(1, room - 1)]
            shown = [shown[place] for place in sorted(first)]
        yield Text("")
        yield _models(shown, self.later)
        if len(shown) < len(self.models):
            names = {model["name"] for model in shown}
            yield Text(_more([model for model in self.models if model["name"] not in names]), style="dim")
        if remarks:
            yield Text("")
            yield from remarks


_ASLEEP = 3


def _unimportance(model: dict[str, Any]) -> int:
    """The lower, the sooner somebody wants to see it."""
    if model["state"] not in ("awake", "asleep"):
        return 0
    if model["waiting"]:
        return 1
    return 2 if model["state"] == "awake" else _ASLEEP


def _more(hidden: list[dict[str, Any]]) -> str:
    """How many models are not shown, in words."""
    counts = Counter(model["state"] for model in hidden)
    states = ", ".join(state if len(counts) == 1 else f"{count} {state}" for state, count in counts.items())
    waiting = sum(model["waiting"] for model in hidden)
    return f"and {len(hidden)} more: {states}" + (f"; {waiting} requests wait for them" if waiting else "")


def _remarks(model: dict[str, Any], later: float) -> list[Text]:
    """What is to be said of a model in whole lines."""
    lines = []
    if model["lost"]:
        lines.append(Text(f"{printable(model['name'])} is lost: {printable(model['lost']['error'])}", style="red"))
        lines.append(Text(f"  {_looks(model, later)}; `llmux look {printable(model['name'])}` looks now"))
    if model["kept"]:
        words = f"{model['name']} could not be put to sleep: {model['kept']['error']}"
        lines.append(Text(printable(words), style="red"))
        lines.append(Text(f"  its alive hook says yes, so it stays; {_next_try(model, later)}"))
    if model["pinned_against"]:
        words = f"{model['name']} waits for room: {', '.join(model['pinned_against'])} pinned"
        lines.append(Text(printable(words), style="yellow"))
    return lines


def released(release: dict[str, Any], later: float = 0.0) -> str:
    """A release in words."""
    fate = "refused" if release["refuse"] else "held"
    words = f"released for {duration(release['since_secs'] + later)}: requests are {fate} until `llmux resume`"
    return printable(words + (f"; not asleep: {', '.join(release['holding'])}" if release["holding"] else ""))


def _state(model: dict[str, Any]) -> Text:
    """The state, and what operators have ordered."""
    orders = "".join(f", {order}" for order in ("pinned", "drained") if model[order])
    return text(model["state"] + orders, _STYLES.get(model["state"], ""))


def under_way(switch: dict[str, Any], later: float = 0.0) -> str:
    """A switch under way in words."""
    to, source = switch["to"], switch["from"]
    what = f"putting {source} to sleep" if to is None else f"switching {f'from {source} ' if source else ''}to {to}"
    return printable(f"{what}: {switch['phase']}, for {duration(switch['since_secs'] + later)}")


def _looks(model: dict[str, Any], later: float) -> str:
    next_look = model["lost"]["next_look_secs"]
    since = f"for {duration(model['lost']['since_secs'] + later)}"
    if next_look is None or next_look <= later:
        return f"{since}, is being looked at"
    return f"{since}, is looked at again in {duration(next_look - later)}"


_NAMES = 24
_ALIASES = 12
_LISTED = 16
"""So many cells are kept of names, aliases and lists of names where the columns do not fit."""


def _next_try(model: dict[str, Any], later: float) -> str:
    seconds = model["kept"]["next_try_secs"]
    if seconds is None or seconds <= later:
        return "it is tried again once its room is needed"
    return f"it is not tried again for {duration(seconds - later)}"


def _models(models: list[dict[str, Any]], later: float) -> Grid:
    devices = any(device != IMPLICIT_DEVICE for model in models for device in model["devices"])
    table = Grid(
        [
            Column("MODEL", least=_NAMES),
            Column("STATE"),
            Column("WAITING", right=True, keep=6),
            Column("OLDEST", right=True, keep=3),
            Column("IN FLIGHT", right=True, keep=5),
            Column("WAKE", right=True, keep=2),
            Column("SLEEP", right=True, keep=1),
            *((Column("DEVICES", keep=4),) if devices else ()),
        ]
    )
    for model in models:
        oldest = model["oldest_waiter_secs"]
        table.add_row(
            text(model["name"]),
            _state(model),
            str(model["waiting"] or _DASH),
            duration(None if oldest is None else oldest + later),
            str(model["in_flight"] or _DASH),
            duration(model["wake_secs"]),
            duration(model["sleep_secs"]),
            *((text(", ".join(model["devices"]) or _DASH),) if devices else ()),
        )
    return table


def _devices(state: dict[str, Any], *, briefly: bool = False) -> Grid:
    """The devices; `briefly`: in a line each, with the name of a model that is alone there, else how many there are."""
    from llmux.config.sizes import format_size

    table = Grid(
        [
            Column("DEVICE"),
            Column("USED", right=True),
            Column("PROMISED", right=True),
            Column("OF", right=True),
            Column("MODELS", least=_LISTED) if briefly else Column("MODELS", folds=_LISTED),
        ]
    )
    for device in state["devices"]:
        there = [model["name"] for model in state["models"] if device["name"] in model["devices"]]
        there += [f"{name} (promised)" for name in device["promised_to"]]
        if briefly and len(there) > 1:
            there = [f"{len(there)} models"]
        used = Text("lost", style="bold red") if device["lost"] else Text(size(device["used"]))
        table.add_row(
            text(device["name"]),
            used,
            size(device["promised"]) if device["promised"] else _DASH,
            format_size(device["capacity"]),
            text(", ".join(there) or _DASH),
        )
    return table


def size(amount: int) -> str:
    """Bytes, rounded for the eye."""
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if amount >= scale:
            return f"{amount / scale:.1f}".removesuffix(".0") + unit
    return str(amount)


def models(found: list[dict[str, Any]]) -> Grid:
    """The models, with what is not about this moment."""
    table = Grid(
        [
            Column("MODEL", least=_NAMES),
            Column("ALIASES", least=_ALIASES, keep=4),
            Column("STATE"),
            Column("DEVICES", keep=5),
            Column("WAKE", right=True, keep=3),
            Column("SLEEP", right=True, keep=2),
            Column("ASKED FOR", keep=1),
        ]
    )
    for model in found:
        table.add_row(
            text(model["name"]),
            text(", ".join(model["aliases"]) or _DASH),
            _state(model),
            text(", ".join(device for device in model["devices"] if device != IMPLICIT_DEVICE) or _DASH),
            duration(model["wake_secs"]),
            duration(model["sleep_secs"]),
            frequency(model["arrivals_per_sec"]),
        )
    return table


def requests(found: list[dict[str, Any]]) -> Grid:
    """The requests that wait or are served."""
    keys = any(request["key"] is not None for request in found)
    levels = any(request["level"] != "default" for request in found)
    table = Grid(
        [
            Column("ID", right=True),
            Column("MODEL", least=_NAMES),
            Column("STATE"),
            Column("AGE", right=True),
            Column("EVENTS", right=True, keep=3),
            *((Column("LEVEL", keep=2),) if levels else ()),
            *((Column("KEY", keep=5),) if keys else ()),
            Column("CLIENT", keep=4),
            Column("PATH", keep=1),
        ]
    )
    for request in found:
        table.add_row(
            str(request["id"]),
            text(request["model"]),
            "served" if request["granted"] else "waits",
            duration(request["age_secs"]),
            _events(request),
            *((request["level"],) if levels else ()),
            *((text(request["key"] or _DASH),) if keys else ()),
            text(request["client"] or _DASH),
            text(request["path"] or _DASH),
        )
    return table


def _events(request: dict[str, Any]) -> str:
    """How far a stream is, or that it is one, as far as that is known."""
    if request["events"]:
        return str(request["events"])
    return {True: "0", False: _DASH, None: "?"}[request["stream"]]


def frequency(per_second: float) -> str:
    """A rate in the unit in which it is a number that one can imagine."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if per_second * seconds >= 0.95:
            return f"{per_second * seconds:.1f}".removesuffix(".0") + f" per {unit}"
    return "rarely" if per_second > 1e-6 else _DASH
