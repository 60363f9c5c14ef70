"""Which model a request is for, read from its body, path or query; and, for `send_model_as`, written back.

Pure: bytes in, a name out. It looks at the top-level `model` only, never at fields such as `api_base`, and whatever
the bytes are it answers with a name, None or a `BadRequestError`, never with another exception.

Bodies are read as backends read them: of duplicate keys the last one counts. msgspec skips what it is not asked for at
about 1.3 µs per KB; as it does not check skipped strings, their UTF-8 is checked here.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from llmux.errors import BadRequestError
from llmux.wire.multipart import model_in_form, with_model_in_form

_OBJECT: Final = re.compile(rb"[ \t\r\n]*\{")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_UPSTREAM: Final = b"/upstream/"
_CHUNK: Final = 1 << 16
_JSON: Final = b"application/json"


class _Peek(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw()
    service_tier: msgspec.Raw = msgspec.Raw()  # read on the way, which costs nothing: a search takes 1 µs per KB


class _Stream(msgspec.Struct):
    stream: msgspec.Raw = msgspec.Raw()


_PEEK: Final = msgspec.json.Decoder(_Peek)
_STREAM: Final = msgspec.json.Decoder(_Stream)
_STRING: Final = msgspec.json.Decoder(str)
# Numbers are kept as text: an int of 5,000 digits costs nothing and cannot raise.
_VALUES: Final = json.JSONDecoder(parse_int=str, parse_float=str)


def model_in_body(content_type: bytes | None, body: bytes | bytearray) -> str | None:
    """The model that a request's body names; see `model_and_tier`."""
    return model_and_tier(content_type, body)[0]


def model_and_tier(content_type: bytes | None, body: bytes | bytearray) -> tuple[str | None, str | None]:
    """The model that a request's body names, the top-level `model` of a JSON object, or the form field `model`; and the
    top-level `service_tier` of a JSON object, if that is a string.

    Everything that is not multipart/form-data and begins with ``{`` is read as JSON, whatever its content type says:
    2.4.0 did so, and ``curl -d`` sends ``application/x-www-form-urlencoded`` unless told otherwise. A body that says
    that it is JSON must be JSON. None: no body, no such member, or not an object.

    Raises:
        BadRequestError: not JSON or not UTF-8, not a readable form, or a `model` that is not a name (then ``param`` is
            ``model``).
    """
    kind = _media_type(content_type)
    if kind == b"multipart/form-data":
        return model_in_form(content_type or b"", body), None
    if not body or not (_is_json(kind) or _OBJECT.match(body)):
        return None, None
    return _peek(body)


def checked_json(content_type: bytes | None, body: bytes | bytearray) -> bool:
    """Is `body` read as JSON, as `model_in_body` has it?

    Raises:
        BadRequestError: it would have to be, and is not valid; or its `model` is not a name.
    """
    kind = _media_type(content_type)
    if kind == b"multipart/form-data" or not body or not (_is_json(kind) or _OBJECT.match(body)):
        return False
    _peek(body)
    return True


def is_object(body: bytes | bytearray) -> bool:
    """Does `body`, which is valid JSON, have members?"""
    return _OBJECT.match(body) is not None


def wants_stream(body: bytes | bytearray) -> bool:
    """Whether `body` is a JSON object that says ``"stream": true``."""
    if b'"stream"' not in body:
        return False
    try:
        return bytes(_STREAM.decode(body).stream) == b"true"
    except (msgspec.DecodeError, RecursionError):
        return False


def with_model(content_type: bytes | None, body: bytes | bytearray, model: str) -> bytes:
    """`body` with every top-level `model` naming `model` instead, and everything else byte for byte as it was.

    A body in which `model_in_body` finds no model comes back unchanged.

    Raises:
        BadRequestError: as `model_in_body` does.
    """
    kind = _media_type(content_type)
    if kind == b"multipart/form-data":
        return with_model_in_form(content_type or b"", body, model)
    if not _OBJECT.match(body) or _peek(body)[0] is None:
        return bytes(body)
    text = body.decode()
    pieces: list[str] = []
    done = 0
    for start, end in _model_spans(text):
        pieces += (text[done:start], json.dumps(model))
        done = end
    return "".join([*pieces, text[done:]]).encode()


def model_in_target(path: bytes, query: bytes) -> tuple[str | None, bytes]:
    """The model that a request's target names, and the path to ask its backend for.

    ``/upstream/<model>/<rest>`` gives the percent-decoded model and ``/<rest>``. The model ends at the first slash, so
    a slash inside a name is written ``%2F``: ``/upstream/org%2Fname/v1/completions``. Else ``?model=<model>`` gives
    the model, the last one if several, and `path` as it is; the query itself is never changed.

    Raises:
        BadRequestError: the name is empty, badly percent-encoded, or not UTF-8.
    """
    if path.startswith(_UPSTREAM):
        name, _, rest = path[len(_UPSTREAM) :].partition(b"/")
        return _decoded(name, "path"), b"/" + rest
    for pair in reversed(query.split(b"&")) if query else ():
        key, _, value = pair.partition(b"=")
        if unquote_to_bytes(key) == b"model":
            return _decoded(value.replace(b"+", b" "), "query"), path
    return None, path


def _media_type(content_type: bytes | None) -> bytes:
    if content_type == _JSON:  # as nearly everybody says it
        return _JSON
    return (content_type or b"").partition(b";")[0].strip().lower()


def _is_json(kind: bytes) -> bool:
    return kind == _JSON or kind.endswith(b"+json")


def _peek(body: bytes | bytearray) -> tuple[str | None, str | None]:
    try:
        seen = _PEEK.decode(body)
        _check_utf8(body)
        tier = _tier(seen.service_tier) if seen.service_tier else None
        if not seen.model:
            return None, tier
        model = _STRING.decode(seen.model)
    except msgspec.ValidationError:
        # Only two types are ever checked: that of the body, and that of the model.
        if not _OBJECT.match(body):
            return None, None
        raise BadRequestError("'model' must be a string", param="model") from None
    except msgspec.DecodeError as error:
        raise BadRequestError(f"the request's body is not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise BadRequestError("the request's body is not UTF-8") from None
    except RecursionError:
        raise BadRequestError("the request's body is nested too deeply") from None
    if not model:
        raise BadRequestError("'model' must not be empty", param="model")
    return model, tier


def _tier(raw: msgspec.Raw) -> str | None:
    try:
        return _STRING.decode(raw)
    except msgspec.DecodeError:  # no string: no tier that llmux knows
        return None


def _check_utf8(body: bytes | bytearray) -> None:
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _CHUNK):  # in pieces, as decoded text takes up to four times the memory
        decoder.decode(body[start : start + _CHUNK])
    decoder.decode(b"", final=True)


def _model_spans(text: str) -> list[tuple[int, int]]:
    """Where the values of the top-level members called `model` are, in a `text` that is a JSON object.

    The json module reads each member at C speed; this only walks from one to the next.
    """
    spans: list[tuple[int, int]] = []
    at = _skip(text, 0) + 1  # past the {
    at = _skip(text, at)
    while text[at] != "}":
        key, at = _value(text, at)
        start = _skip(text, _skip(text, at) + 1)  # past the :
        _, end = _value(text, start)
        if key == "model":
            spans.append((start, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return spans


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _VALUES.raw_decode(text, at)
    except RecursionError:
        raise BadRequestError("the request's body is nested too deeply") from None


def _decoded(name: bytes, where: str) -> str:
    if not name:
        raise BadRequestError(f"the model in the request's {where} is empty", param="model")
    if _BAD_PERCENT.search(name):
        raise BadRequestError(f"the model in the request's {where} is badly percent-encoded", param="model")
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise BadRequestError(f"the model in the request's {where} is not UTF-8", param="model") from None
