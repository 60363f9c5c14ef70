"""The certificate that llmux shows to its clients, and how another takes its place while connections are open.

Reads two files, when it is told to; never on the loop. A certificate is loaded into a context of its own, and only once
that has succeeded do handshakes get it: a new file that cannot be used changes nothing, and connections that are open
keep what they have.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

ALPN = "http/1.1"
"""The only protocol that is spoken here (RFC 7301)."""


class CertificateError(Exception):
    """The certificate or its private key cannot be used. `part` is ``cert`` or ``key``."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


def load_certificate(cert: Path, key: Path) -> ssl.SSLContext:
    """A context that shows this certificate, for TLS 1.2 and newer. Blocks.

    Raises:
        CertificateError: one of the files cannot be read, is not PEM, or they do not belong together.
    """
    for part, path in (("cert", cert), ("key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise CertificateError(part, f"{path} cannot be read: {error.strerror or error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError("key", f"{key} is not the private key of {cert}") from error
        raise CertificateError("cert", f"{cert} and {key} cannot be used: {error.reason or error}") from error
    except (OSError, ValueError) as error:
        raise CertificateError("cert", f"{cert} and {key} cannot be used: {error}") from error
    return context


def not_after(cert: Path) -> float | None:
    """Until when the first certificate of a PEM file is valid, in seconds since 1970; None if that cannot be told.
    Blocks."""
    try:
        text = cert.read_text(encoding="latin-1")
        begin = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
        return _not_after(ssl.PEM_cert_to_DER_cert(text[begin:end]))
    except (OSError, ValueError, IndexError):
        return None


def _not_after(der: bytes) -> float:
    """The second time of `validity` (RFC 5280, section 4.1), which Python's ssl tells of peers' certificates only."""
    certificate = _parts(_content(der))
    fields = _parts(certificate[0][1])
    if fields[0][0] == _VERSION:
        del fields[0]
    _serial, _signature, _issuer, (_, validity), *_ = fields
    kind, digits = _parts(validity)[1]
    text = digits.decode("ascii").removesuffix("Z")
    if kind == _UTC_TIME:  # two digits of the year, from 1950 on
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()


_VERSION = 0xA0
_UTC_TIME = 0x17


def _content(der: bytes) -> bytes:
    return _parts(der)[0][1]


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """The tag and the content of each of the values that follow each other in `der` (X.690)."""
    found = []
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _no_passphrase() -> str:
    return ""  # or OpenSSL would ask for one on the terminal


class Certificate:
    """The certificate of some listeners, that can be exchanged.

    Attributes:
        context: for listeners. Every handshake that begins gets the context that was given last.
    """

    def __init__(self, loaded: ssl.SSLContext) -> None:
        self._current = loaded
        self.context = loaded
        loaded.sni_callback = self._choose

    def exchange(self, loaded: ssl.SSLContext) -> None:
        """Show this one from the next handshake on."""
        self._current = loaded

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # Called for every handshake, with or without a name; a context set here brings its certificate along.
        if self._current is not context:
            handshake.context = self._current
