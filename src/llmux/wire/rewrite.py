"""Members of a JSON body taken out and put in, and the model's name in a query.

Pure. `llmux.wire.peek` has what reads and writes the model's name in bodies. Values that are kept stay byte for byte as
they came: msgspec cuts a body into the raw values of its members, at about the cost of looking for the model in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

from llmux.errors import BadRequestError
from llmux.wire.peek import checked_json, is_object

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Params:
    """What is done to a JSON object: members called as in `strip` are taken out, then those of `put` are put in, in the
    place of what the client has sent under these names. Made by `of`."""

    strip: frozenset[str] = frozenset()
    put: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, *, strip: Collection[str] = (), put: Mapping[str, Any] | None = None) -> Params:
        """`put` has the values as Python has them."""
        return cls(frozenset(strip), {name: _ENCODER.encode(value) for name, value in (put or {}).items()})

    def __bool__(self) -> bool:
        return bool(self.strip or self.put)


def with_params(content_type: bytes | None, body: bytes | bytearray, params: Params) -> bytes | bytearray:
    """`body` with `params` applied, if it is a JSON object; else as it is. What counts as JSON is what `model_in_body`
    takes for it.

    Raises:
        BadRequestError: it says that it is JSON, or begins like a JSON object, and is not valid JSON in UTF-8.
    """
    if not checked_json(content_type, body) or not is_object(body):
        return body
    try:
        members = _MEMBERS.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequestError(f"the request's body is not valid JSON: {error}") from None
    for name in params.strip:
        members.pop(name, None)
    for name, value in params.put.items():
        members[name] = msgspec.Raw(value)
    return _ENCODER.encode(members)


def with_model_in_query(query: bytes, model: str) -> bytes:
    """`query` (without its question mark) with every ``model=`` naming `model` instead."""
    value = b"model=" + quote(model, safe="").encode()
    pairs = query.split(b"&")
    return b"&".join(value if unquote_to_bytes(pair.partition(b"=")[0]) == b"model" else pair for pair in pairs)
