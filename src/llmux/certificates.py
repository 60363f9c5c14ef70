"""The certificate that llmux shows to its clients, and how another takes its place while connections are open.

Reads two files, when it is told to; never on the loop. A certificate is loaded into a context of its own, and only once
that has succeeded do handshakes get it: a new file that cannot be used changes nothing, and connections that are open
keep what they have.
"""

from __future__ import annotations

import ssl
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
