"""From a name in the configuration to a policy object.

A name is one of the built-in ones, an entry point of the group ``llmux.policies``, or ``package.module:Class``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from llmux.policy.base import SwitchPolicy
from llmux.policy.break_even import BreakEvenPolicy
from llmux.policy.drain_first import DrainFirstPolicy
from llmux.policy.fifo import FifoPolicy
from llmux.policy.priority import PriorityPolicy
from llmux.policy.round_robin import RoundRobinPolicy

BUILT_IN: Mapping[str, Callable[..., SwitchPolicy]] = {
    "break-even": BreakEvenPolicy,
    "drain-first": DrainFirstPolicy,
    "fifo": FifoPolicy,
    "priority": PriorityPolicy,
    "round-robin": RoundRobinPolicy,
}
GROUP = "llmux.policies"

#: What a third party's module can raise when it is imported or its class is called. A script may exit at its end.
_ANYTHING = (Exception, SystemExit)


def load_policy(name: str, options: Mapping[str, Any] | None = None) -> SwitchPolicy:
    """Make the policy that `name` means, with `options` as its keyword arguments.

    Raises:
        ValueError: there is no such policy, it does not take these options, or it is not a policy; the message says
            which and what to do.
    """
    factory = _factory(name)
    try:
        policy = factory(**(options or {}))
    except _ANYTHING as error:
        raise ValueError(f"policy {name!r} could not be made: {error}") from error
    if not isinstance(policy, SwitchPolicy):
        raise ValueError(f"policy {name!r} is no policy: it needs an attribute `name` and a method `decide(view, now)`")
    return policy


def _told(error: BaseException) -> str:
    """What is wrong, with the name of the error where its text alone does not say what happened."""
    plain = isinstance(error, ImportError | AttributeError)
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _factory(name: str) -> Callable[..., Any]:
    built_in = BUILT_IN.get(name)
    if built_in is not None:
        return built_in
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            return getattr(import_module(module), attribute)  # type: ignore[no-any-return]  # a third party's class
        except _ANYTHING as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
            hint = "; install it, or have its folder in PYTHONPATH" if absent else ""
            raise ValueError(f"policy {name!r} cannot be imported: {_told(error)}{hint}") from error
    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()  # type: ignore[no-any-return]  # a third party's class
        except _ANYTHING as error:
            raise ValueError(
                f"policy {name!r} (entry point {entry.value}) cannot be imported: {_told(error)}"
            ) from error
    raise ValueError(
        f"no policy {name!r}: built in are {', '.join(sorted(BUILT_IN))}; others are named by an entry point of the "
        f"group {GROUP} or as package.module:Class"
    )
