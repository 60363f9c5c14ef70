"""What llmux's state looks like on a terminal. Makes text of what the admin API says; asks nothing, decides nothing.

Names come from a configuration and messages from hooks: all of it is shown as it is written, never as markup.
"""

from __future__ import annotations

import sys
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

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


def grid(*headings: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines, as docker and kubectl print them."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
    return table


def status(state: dict[str, Any], url: str, *, later: float = 0.0) -> RenderableType:
    """The whole state, `later` seconds after it was told."""
    up = state["now"] - state["started"] + later
    head = Text("ready" if state["ready"] else "not ready", style="bold green" if state["ready"] else "bold red")
    head.append(f"   llmux {state['version']} at {url}, up {duration(up)}, policy {state['policy']}", style="default")
    lines: list[RenderableType] = [head]
    # That it is released has a line of its own, which says more.
    reasons = [reason for reason in state["reasons"] if not (state["released"] and reason.startswith("released"))]
    lines += [Text(f"  {printable(reason)}", style="red") for reason in reasons]
    if state["released"]:
        lines.append(Text(f"  {released(state['released'], later)}", style="bold magenta"))
    lines += [Text(f"  {under_way(switch, later)}", style="yellow") for switch in state["switches"]]
    lines += [Text(""), _models(state["models"], later)]
    remarks = [line for model in state["models"] for line in _remarks(model, later)]
    lines += [Text(""), *remarks] if remarks else []
    if any(device["name"] != IMPLICIT_DEVICE for device in state["devices"]):
        lines += [Text(""), _devices(state)]
    return Group(*lines)


def _remarks(model: dict[str, Any], later: float) -> list[Text]:
    """What is to be said of a model in whole lines."""
    lines = []
    if model["lost"]:
        lines.append(Text(f"{printable(model['name'])} is lost: {printable(model['lost']['error'])}", style="red"))
        lines.append(Text(f"  {_looks(model, later)}; `llmux look {printable(model['name'])}` looks now"))
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


def _models(models: list[dict[str, Any]], later: float) -> Table:
    numbers = ("WAITING", "OLDEST", "IN FLIGHT", "WAKE", "SLEEP")
    devices = any(device != IMPLICIT_DEVICE for model in models for device in model["devices"])
    table = grid("MODEL", "STATE", *numbers, *(("DEVICES",) if devices else ()), right=numbers)
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


def _devices(state: dict[str, Any]) -> Table:
    from llmux.config.sizes import format_size

    table = grid("DEVICE", "USED", "OF", "MODELS", right=("USED", "OF"))
    for device in state["devices"]:
        there = [model["name"] for model in state["models"] if device["name"] in model["devices"]]
        used = Text("lost", style="bold red") if device["lost"] else Text(size(device["used"]))
        table.add_row(text(device["name"]), used, format_size(device["capacity"]), text(", ".join(there) or _DASH))
    return table


def size(amount: int) -> str:
    """Bytes, rounded for the eye."""
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if amount >= scale:
            return f"{amount / scale:.1f}".removesuffix(".0") + unit
    return str(amount)


def models(found: list[dict[str, Any]]) -> Table:
    """The models, with what is not about this moment."""
    table = grid("MODEL", "ALIASES", "STATE", "DEVICES", "WAKE", "SLEEP", "ASKED FOR", right=("WAKE", "SLEEP"))
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


def frequency(per_second: float) -> str:
    """A rate in the unit in which it is a number that one can imagine."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if per_second * seconds >= 0.95:
            return f"{per_second * seconds:.1f}".removesuffix(".0") + f" per {unit}"
    return "rarely" if per_second > 1e-6 else _DASH
