"""The lines of an event log, as data. Pure: makes and takes apart bytes.

A file is JSON lines of three kinds:

- a header, at the beginning of each file and of each run of llmux within it: what is needed to make the same core;
- ``{"at", "event", "effects"}``: what happened, and what the core said must be done about it. Where the core raised,
  which is a bug, there are no effects but ``"raised"``, the name of the exception's type;
- ``{"at", "gap"}``: so many events are missing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from llmux.core.settings import CoreEvent, CoreSettings
from llmux.core.settings import PolicyNote as PolicyNote  # part of a header
from llmux.costs import Learned
from llmux.messages import Effect

FORMAT = 1
"""The version of the format that this llmux writes, and the newest that it reads."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the events after it are to be read with.

    Attributes:
        format: see `FORMAT`.
        version: of the llmux that wrote it.
        run: of one process; the same in all the files that it wrote.
        part: 0 where the run began, so that the core knew nothing yet; every further file of the run has the next
            number, and begins with whatever the core knew at that moment.
        started: when the run began, in seconds since 1970.
        epoch: the time of an event, in seconds since 1970, is this plus its ``at``.
        settings, policy, costs: what the core was made from, `costs` being what an earlier run had learned. What has
            changed since is in the events.
    """

    format: int = msgspec.field(name="llmux_event_log", default=FORMAT)
    version: str
    run: str
    part: int
    started: float
    epoch: float
    settings: CoreSettings
    policy: PolicyNote
    costs: Learned = Learned()


class Recorded(msgspec.Struct, frozen=True):
    """One event as it was recorded; `effects` is the JSON array as it stands in the file, None where the core raised
    an exception of the type `raised`."""

    at: float
    event: CoreEvent
    effects: bytes | None
    raised: str | None = None

    def decoded(self) -> list[Effect]:
        """The effects that this llmux knows; none where the core raised."""
        if self.effects is None:
            return []
        try:
            return _EFFECTS.decode(self.effects)
        except msgspec.DecodeError:
            return list(_known(self.effects))


def _known(effects: bytes) -> Iterator[Effect]:
    for effect in _ANY.decode(effects):
        with suppress(msgspec.ValidationError):
            yield msgspec.convert(effect, Effect)


class Gap(msgspec.Struct, frozen=True):
    """`gap` events were not written here: the disk, or llmux, had no room for them."""

    at: float
    gap: int


class _Happened(msgspec.Struct, gc=False):
    at: float
    event: CoreEvent
    effects: Sequence[Effect]


class _Raised(msgspec.Struct, gc=False):
    at: float
    event: CoreEvent
    raised: str


class _Line(msgspec.Struct):
    at: float | None = None
    event: CoreEvent | None = None
    effects: msgspec.Raw = msgspec.Raw()  # as it stands there; empty where it does not
    raised: str | None = None
    gap: int | None = None
    llmux_event_log: int | None = None


_EFFECTS = msgspec.json.Decoder(list[Effect])
_ANY = msgspec.json.Decoder()
_LINES = msgspec.json.Decoder(_Line)
_HEADERS = msgspec.json.Decoder(Header)
_encode = msgspec.json.Encoder(enc_hook=repr).encode  # an option made in Python may be anything


def event_line(at: float, event: CoreEvent, effects: Sequence[Effect]) -> bytes:
    """Without a line break, as all lines here. Raises ValueError where a text cannot be encoded."""
    return _encode(_Happened(at, event, effects))


def raised_line(at: float, event: CoreEvent, raised: str) -> bytes:
    return _encode(_Raised(at, event, raised))


def gap_line(at: float, events: int) -> bytes:
    return _encode(Gap(at, events))


def header_line(header: Header) -> bytes:
    return _encode(header)


def parse(line: bytes) -> Header | Recorded | Gap:
    """What a line says.

    Raises:
        ValueError: it is not a line of an event log (`msgspec.DecodeError` where it is not even JSON, as when it was
            cut), or one that is newer than this llmux.
    """
    found = _LINES.decode(line)
    if found.llmux_event_log is not None:
        if not 1 <= found.llmux_event_log <= FORMAT:
            raise ValueError(f"format {found.llmux_event_log} is not known to this llmux, which reads up to {FORMAT}")
        return _HEADERS.decode(line)
    effects = bytes(found.effects) or None
    if found.at is not None and found.event is not None and (effects is None) != (found.raised is None):
        return Recorded(found.at, found.event, effects, found.raised)
    if found.at is not None and found.gap is not None:
        return Gap(found.at, found.gap)
    raise ValueError("neither a header nor an event nor a gap")
