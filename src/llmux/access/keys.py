"""Keys: which there are, and which one a request shows.

Only SHA-256 digests are kept. What a client shows is hashed first and then looked up by its digest. The time that takes
depends on the length of what was shown and on nothing else: two digests that begin alike are no closer to each other
for a dict, which compares salted hashes (PEP 456), and `hmac.compare_digest` has the last word, whether anything was
found or not. So it costs the same for one key as for thousands.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmux.errors import BadRequestError

CREDENTIAL_FIELDS: Final = frozenset({b"authorization", b"x-api-key"})
"""``Authorization: Bearer <key>``, as OpenAI's clients send it (RFC 6750, section 2.1), and ``x-api-key: <key>``, as
Anthropic's do. Handshakes of WebSockets have another way: `with_key_protocols_apart`."""

_PROTOCOLS: Final = b"sec-websocket-protocol"
"""Where pages put the key of a WebSocket, since browsers let them set no other field of its handshake."""

_KEY_PROTOCOL: Final = b"openai-insecure-api-key."
"""What stands before the key there, as OpenAI's clients write it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, by the SHA-256 digest of its UTF-8 bytes.

    Attributes:
        name: what the log calls it.
        digest: 32 bytes.
        models: the models that it opens, by their own names; None for all of them.
        may_raise_priority: requests with it may ask to be served before others.
    """

    name: str
    digest: bytes = field(repr=False)
    models: frozenset[str] | None = None
    may_raise_priority: bool = True

    def opens(self, model: str) -> bool:
        """May whoever has this key use `model`?"""
        return self.models is None or model in self.models


_NOBODY: Final = Key("", bytes(32))


class Keyring:
    """Some keys. Of two with the same digest the first counts; a configuration has no such two.

    Attributes:
        any: whether there is one; asked for every request, of which `__len__` would be 1 µs.
    """

    __slots__ = ("_by_digest", "any")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_digest: dict[bytes, Key] = {}
        for key in keys:
            self._by_digest.setdefault(key.digest, key)
        self.any = bool(self._by_digest)

    def __len__(self) -> int:
        return len(self._by_digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyring) and self._by_digest == other._by_digest

    def __hash__(self) -> int:
        return hash(frozenset(self._by_digest))

    def find(self, shown: Iterable[bytes]) -> Key | None:
        """The key that one of `shown` is, if any is one."""
        found = None
        for one in shown:
            digest = digest_of(one)
            candidate = self._by_digest.get(digest, _NOBODY)
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate
        return found


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def presented_keys(lines: Sequence[bytes]) -> list[bytes]:
    """The keys that header lines (``name: value``) show; other fields, and other schemes than Bearer, show none.

    Raises:
        BadRequestError: a field is there twice; which one counts would be a matter of taste.
    """
    if len(lines) > 1:
        names = [line.partition(b":")[0].lower() for line in lines]
        if len(set(names)) < len(names):
            raise BadRequestError("malformed request: a field with a key is there twice")
    return [key for line in lines if (key := _shown(line))]


def _shown(line: bytes) -> bytes:
    """The key that a header line shows; empty if it shows none."""
    name, _, value = line.partition(b":")
    value = value.strip()
    match name.lower():
        case b"x-api-key":
            return value
        case b"authorization" if value[:7].lower() == b"bearer ":
            return value[7:].strip()
        case b"sec-websocket-protocol" if value.startswith(_KEY_PROTOCOL):
            return value[len(_KEY_PROTOCOL) :]
        case _:
            return b""


def with_key_protocols_apart(lines: Sequence[bytes]) -> tuple[list[bytes], tuple[bytes, ...]]:
    """The header lines of a WebSocket's handshake, keys among the protocols on lines of their own; and those lines.

    A field that is a list may be written in several lines (RFC 9110, section 5.3; for this one RFC 6455, section
    11.3.4), so it means the same, and the line with the key can be left out where a backend should not have it.
    """
    made: list[bytes] = []
    keys: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        if _KEY_PROTOCOL not in value or name.lower() != _PROTOCOLS:
            made.append(line)
            continue
        offered = [one.strip() for one in value.split(b",")]
        others = [one for one in offered if not one.startswith(_KEY_PROTOCOL)]
        if others:
            made.append(name + b": " + b", ".join(others))
        shown = [name + b": " + one for one in offered if one.startswith(_KEY_PROTOCOL)]
        made += shown
        keys += shown
    return made, tuple(keys)


def is_credential(name: bytes) -> bool:
    """Is `name`, in lower case, a field that shows a key?"""
    return name in CREDENTIAL_FIELDS
