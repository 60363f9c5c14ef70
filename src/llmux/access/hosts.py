"""The names that llmux answers to: the defence against DNS rebinding.

In such an attack a page of evil.example is loaded from the attacker's server, and then evil.example is made to resolve
to 127.0.0.1, or to the GPU box: to the browser, the page and llmux are now of the same origin. What the attacker cannot
change is the name in the Host field. So llmux answers to names that nobody outside can make resolve to it: addresses,
names without a dot, and names under the domains that are reserved for private use. All others must be listed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

PRIVATE_DOMAINS: Final = ("localhost", "local", "internal", "home.arpa", "lan", "localdomain", "test")
"""RFC 6761 (localhost, test), RFC 6762 (local), RFC 8375 (home.arpa), ICANN's resolution of 2024-07-29 (internal); and
two that home routers and Linux use though nobody reserved them, and that are no domains of the public DNS."""

_AUTHORITY: Final = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]*)?")
_LABEL_OF_ADDRESS: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
_REMEMBERED: Final = 1024


class Hosts:
    """Immutable, but for what it remembers.

    Args:
        listed: names besides the private ones; ``*.example.com`` stands for all names below that one, ``*`` for any.
        only_listed: private names are refused too, unless they are listed. Addresses and ``localhost`` never are:
            no browser can be made to use them for another site.
        own: names of this machine, and the one that it was told to bind; they count as private names.
    """

    __slots__ = ("_any", "_exact", "_known", "_only_listed", "_suffixes")

    def __init__(self, listed: Iterable[str] = (), *, only_listed: bool = False, own: Iterable[str] = ()) -> None:
        names = [_plain(name) for name in listed]
        self._any = "*" in names
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._exact = frozenset(names) | (frozenset() if only_listed else frozenset(map(_plain, own)))
        self._only_listed = only_listed
        self._known: set[bytes] = set()

    def allow(self, authority: bytes) -> bool:
        """Is `authority`, the value of a Host field, one of the names? So is none at all: no browser leaves it out."""
        known = self._known
        if authority in known:
            return True
        if not self._allowed(authority):
            return False
        if len(known) < _REMEMBERED and len(authority) <= 255:
            known.add(authority)
        return True

    def _allowed(self, authority: bytes) -> bool:
        if self._any or not authority:
            return True
        name = host_name(authority)
        if name is None:
            return False
        if name in self._exact or name.endswith(self._suffixes):
            return True
        if is_address(name) or name == "localhost":
            return True
        return not self._only_listed and is_private(name)


def host_name(authority: bytes) -> str | None:
    """The name of ``name:port`` in lower case, without the port, brackets and the dot at the end; None if it is not
    one."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    address, name = match.groups()
    if address is not None:
        return str(address, "ascii").lower()
    return _plain(str(name, "ascii")) or None


def is_address(name: str) -> bool:
    """Do browsers take `name` for an address, and so never look it up? They do whenever its last label is a number
    (WHATWG URL standard, section 3.5, "ends in a number")."""
    return ":" in name or _LABEL_OF_ADDRESS.fullmatch(name.rpartition(".")[2]) is not None


def is_private(name: str) -> bool:
    """Is `name` one that the public DNS does not have?"""
    return "." not in name or any(name.endswith("." + domain) for domain in PRIVATE_DOMAINS)


def is_loopback_name(authority: bytes) -> bool:
    """Does `authority` mean this machine wherever it is read? ``localhost``, names under it, 127.0.0.0/8 and ::1."""
    name = host_name(authority)
    if name is None:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _plain(name: str) -> str:
    return name.strip("[]").removesuffix(".").lower()
