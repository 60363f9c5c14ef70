"""The `model` field of a multipart/form-data body (RFC 7578).

Pure: bytes in, spans out. It never copies or decodes a file part, and its time is linear in the body: parts, header
lines and their lengths are capped before or while python-multipart reads them.

What counts is what Starlette-based backends see: of several fields called `model`, the last one; a part that never
ends is no field.
"""

from __future__ import annotations

import codecs
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from llmux.errors import BadRequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 128
MAX_PART_HEADERS = 8
MAX_HEADER_BYTES = 2048
MAX_BOUNDARY_BYTES = 70  # RFC 2046, section 5.1.1
MAX_MODEL_BYTES = 4096
_MAX_PADDING = 64
_SILENT = logging.Logger("llmux.wire.multipart", level=logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class ModelField:
    """Where in the body the content of one part called `model` lies; `is_file`: it came with a file name."""

    start: int
    end: int
    is_file: bool


def model_in_form(content_type: bytes, body: bytes | bytearray) -> str | None:
    """The value of the last field called `model`, or None.

    Raises:
        BadRequestError: the body is not multipart/form-data, is past a cap, or its `model` is not a name.
    """
    fields = model_fields(content_type, body)
    if not fields:
        return None
    field = fields[-1]
    if field.is_file:
        raise BadRequestError("the form field 'model' must be text, not a file", param="model")
    if field.end - field.start > MAX_MODEL_BYTES:
        raise BadRequestError(f"the form field 'model' is longer than {MAX_MODEL_BYTES} bytes", param="model")
    try:
        model = body[field.start : field.end].decode()
    except UnicodeDecodeError:
        raise BadRequestError("the form field 'model' is not UTF-8", param="model") from None
    if not model:
        raise BadRequestError("the form field 'model' is empty", param="model")
    return model


def with_model_in_form(content_type: bytes, body: bytes | bytearray, model: str) -> bytes:
    """`body` with the content of every text field called `model` replaced, and nothing else."""
    pieces: list[bytes | bytearray] = []
    done = 0
    for field in model_fields(content_type, body):
        if not field.is_file:
            pieces += (body[done : field.start], model.encode())
            done = field.end
    return b"".join([*pieces, body[done:]])


def model_fields(content_type: bytes, body: bytes | bytearray) -> list[ModelField]:
    """Every complete part called `model`, in order.

    Raises:
        BadRequestError: the body is not multipart/form-data, or is past a cap.
    """
    boundary = _boundary(content_type)
    delimiter = b"\r\n--" + boundary
    # Both checks run at C speed, ahead of a parser that would take a Python step for each match or padding byte.
    if body.count(delimiter) > MAX_PARTS:
        raise BadRequestError(f"multipart body: more than {MAX_PARTS} parts")
    if re.search(re.escape(delimiter) + rb"[ \t]{%d}" % (_MAX_PADDING + 1), body):
        raise BadRequestError(f"multipart body: more than {_MAX_PADDING} bytes of padding after a boundary")
    reader = _Reader()
    try:
        parser = MultipartParser(
            boundary, reader.callbacks(), max_header_count=MAX_PART_HEADERS, max_header_size=MAX_HEADER_BYTES
        )
        parser.logger = _SILENT  # else every malformed form would be a line in the operator's log
        # In one piece: then every offset that a callback gets is one into `body`.
        parser.write(body)  # type: ignore[arg-type]  # reads any bytes-like object; its annotation says bytes
        parser.finalize()
    except FormParserError as error:
        raise BadRequestError(f"multipart body: {error}") from None
    return reader.found


def _boundary(content_type: bytes) -> bytes:
    _, options = parse_options_header(content_type.decode("latin-1"))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise BadRequestError("multipart body without a boundary in its Content-Type")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise BadRequestError(f"multipart boundary longer than {MAX_BOUNDARY_BYTES} bytes")
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    try:
        known = codecs.lookup(charset).name in ("utf-8", "ascii")
    except (LookupError, ValueError):
        known = False
    if not known:
        # A backend that honours it could read other field names than llmux does.
        raise BadRequestError("multipart body in a charset other than UTF-8")
    return boundary


class _Reader:
    """Callbacks of one parse. They keep spans, and the bytes of one header at a time."""

    def __init__(self) -> None:
        self.found: list[ModelField] = []
        self._name = b""
        self._disposition: bytes | None = None
        self._is_model = False
        self._is_file = False
        self._start = self._end = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
        }

    def _part_begin(self) -> None:
        self._disposition = None
        self._is_model = False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name = bytes(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(data[start:end])
        # Where the content begins if this is the last header: an empty part gets no call of `_part_data`.
        self._start = self._end = end + len(b"\r\n\r\n")

    def _headers_finished(self) -> None:
        _, options = parse_options_header((self._disposition or b"").decode("latin-1"))
        self._is_model = options.get(b"name") == b"model"
        self._is_file = b"filename" in options

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._end = end

    def _part_end(self) -> None:
        if self._is_model:
            self.found.append(ModelField(self._start, self._end, self._is_file))
