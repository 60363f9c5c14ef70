"""Keeps what a hook asks of this machine from a proxy of the web, which knows nothing of what listens here.

llmux speaks to backends directly, whatever the environment says. curl, wget, Python, Go and most others that a hook may
ask its backend with go by `http_proxy` and its like, unless `no_proxy` names the host: behind a proxy, no wake hook
that waits for its server's health would ever end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PROXIES: Final = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")

# Some programs read only the one, or prefer it.
_EXEMPT: Final = ("no_proxy", "NO_PROXY")

THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


def exempt(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that let programs with `environment` speak to this machine directly; none where no proxy is set."""
    if not any(environment.get(name) for name in _PROXIES):
        return {}
    lower, upper = (environment.get(name, "") for name in _EXEMPT)
    return {"no_proxy": _with_this_machine(lower or upper), "NO_PROXY": _with_this_machine(upper or lower)}


def _with_this_machine(hosts: str) -> str:
    named = [host for host in map(str.strip, hosts.split(",")) if host]
    if "*" in named:
        return "*"
    return ",".join([*named, *(host for host in THIS_MACHINE if host not in named)])
