"""How the commands reach a running llmux: where it is, with which key, and what went wrong in words for a terminal.

The standard library's HTTP client, one connection per question; proxies of the environment are not used and no redirect
is followed, so that an admin key goes nowhere but to the address that was named. The key is never shown.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from llmux.cli.options import DEFAULT_CONFIG
from llmux.version import version

PREFIX = "/admin/v1"

DEFAULT_URL = "http://127.0.0.1:3000"

CONNECT_SECS = 5.0
READ_SECS = 30.0
"""How long a question may take, in seconds; orders have no limit of ours, since hooks have their own."""

SILENCE_SECS = 60.0
"""How long the event stream may be silent, in seconds; llmux sends something every 15."""


class UsageError(Exception):
    """What the user gave cannot be used."""


class CallError(Exception):
    """The command could not be carried out; the message is for the terminal."""


class UnreachableError(CallError):
    """Nobody answers there, or not as llmux does."""


class RefusedError(CallError):
    """llmux said no. `status` and `code` are those of its answer."""

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Place:
    """Where llmux is. `pin` is the file of the one certificate that is believed there; None: those of known issuers.
    `doubt` says why it may be elsewhere; empty if that was said or found in a file."""

    url: str
    pin: Path | None = None
    doubt: str = ""


def find(url: str | None, config: Path | None) -> Place:
    """Where llmux is: `url`, else what the configuration file says, else `DEFAULT_URL`.

    Raises:
        UsageError: `url` is none, or `config` cannot be read.
    """
    if url is not None:
        parts = urlsplit(url)
        try:
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            usable = False
        if not usable or parts.username is not None or parts.query or parts.fragment:
            raise UsageError(f"{url!r} is not the address of an llmux: write it as in {DEFAULT_URL}")
        return Place(url.rstrip("/"))
    if config is None and not os.path.exists(DEFAULT_CONFIG):
        return Place(DEFAULT_URL)
    try:
        return _place_of(config or DEFAULT_CONFIG)
    except (OSError, ValueError) as error:
        if config is not None:
            raise UsageError(f"cannot read {config}: {error}") from error
        return Place(DEFAULT_URL, doubt=f"{DEFAULT_CONFIG}: {error}")


def _place_of(file: Path) -> Place:
    """What a configuration file says of its address. Not checked any further: that is for `llmux check`."""
    import yaml

    try:
        data = yaml.safe_load(file.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError("it is neither YAML nor JSON") from error
    data = data if isinstance(data, dict) else {}
    host, port, tls = data.get("host", "127.0.0.1"), data.get("port", 3000), data.get("tls")
    if not isinstance(port, int) or port == 0:
        raise ValueError("it does not say on which port llmux listens; give --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))  # noqa: S104  looked for, not bound
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(tls, dict) and isinstance(tls.get("cert"), str):
        return Place(f"https://{netloc}", file.parent / tls["cert"])
    return Place(f"http://{netloc}")


@dataclass(frozen=True, slots=True)
class Server:
    """A running llmux. All methods block, and raise a `CallError`."""

    place: Place
    key: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return self.place.url

    def get(self, path: str, *, timeout: float = READ_SECS) -> Any:
        """What the admin API answers to GET `path`."""
        return self._call("GET", path, timeout)

    def post(self, path: str) -> Any:
        """What the admin API answers to POST `path`, however long it takes."""
        return self._call("POST", path, None)

    def events(self) -> Iterator[tuple[str, Any]]:
        """The event stream: names and data, until it ends or breaks."""
        connection, response = self._send("GET", "/events", SILENCE_SECS)
        try:
            if response.status != http.HTTPStatus.OK:
                self._refused(response)
            name = ""
            while line := response.readline():
                field_name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if field_name == "event":
                    name = value
                elif field_name == "data":
                    yield name, json.loads(value)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnreachableError(f"the connection to {self.url} broke: {_words(error)}") from error
        finally:
            connection.close()
        raise UnreachableError(f"llmux at {self.url} has ended the event stream")

    def _call(self, method: str, path: str, timeout: float | None) -> Any:
        connection, response = self._send(method, path, timeout)
        try:
            if response.status != http.HTTPStatus.OK:
                self._refused(response)
            return json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"the connection to {self.url} broke: {_words(error)}") from error
        except ValueError as error:
            raise UnreachableError(f"what answers at {self.url} is not llmux: its answer is not JSON") from error
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, timeout: float | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(self.url)
        connection = _connection(self.place)
        headers = {"Accept": "application/json", "User-Agent": f"llmux/{version()}"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            connection.request(method, f"{parts.path}{PREFIX}{path}", headers=headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        if isinstance(error, ConnectionRefusedError | FileNotFoundError):
            doubt = f" ({self.place.doubt})" if self.place.doubt else ""
            return UnreachableError(
                f"nothing listens at {self.url}{doubt}. Is llmux running? Say where with --url or LLMUX_URL."
            )
        if isinstance(error, ValueError) and not isinstance(
            error, OSError
        ):  # a key that cannot be a header; its text is in the message
            return UnreachableError("the admin key has characters that no key can have")
        hint = ""
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = " SSL_CERT_FILE names a file with certificates of further issuers."
        elif isinstance(error, ssl.SSLError | http.client.HTTPException | ConnectionResetError):
            other = "http" if self.url.startswith("https") else "https"
            hint = f" Does it speak {other}?"
        return UnreachableError(f"cannot reach llmux at {self.url}: {_words(error)}.{hint}")

    def _refused(self, response: http.client.HTTPResponse) -> NoReturn:
        try:
            error = json.loads(response.read())["error"]
            message, code = str(error["message"]), str(error.get("code", ""))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UnreachableError(
                f"what answers at {self.url} is not llmux, or an older one: it said {response.status} {response.reason}"
            ) from None
        if response.status == http.HTTPStatus.UNAUTHORIZED:
            given = "the admin key is not one of `admin_keys`" if self.key else "an admin key is needed"
            message = f"{given}: set LLMUX_ADMIN_KEY, or give --admin-key"
        elif response.status == http.HTTPStatus.NOT_FOUND and code in ("model_missing", "not_found"):
            message = f"the llmux at {self.url} has no admin API, or not all of it: it is older than this one"
        raise RefusedError(message, status=response.status, code=code)


class _PinnedConnection(http.client.HTTPSConnection):
    """TLS to whoever has the private key of one certificate, whatever name it was made for."""

    def __init__(self, host: str, port: int | None, pin: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the certificate itself is compared, below
        context.verify_mode = ssl.CERT_NONE
        super().__init__(host, port, timeout=CONNECT_SECS, context=context)
        self._pin = pin

    def connect(self) -> None:
        text = self._pin.read_text(encoding="ascii")
        end = "-----END CERTIFICATE-----"
        expected = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end)] + end)
        super().connect()
        assert isinstance(self.sock, ssl.SSLSocket)  # noqa: S101  for mypy: HTTPSConnection wraps it
        if self.sock.getpeercert(binary_form=True) != expected:
            self.close()
            raise ssl.SSLError(f"it shows another certificate than {self._pin}")


def _connection(place: Place) -> http.client.HTTPConnection:
    parts = urlsplit(place.url)
    host, port = parts.hostname or "", parts.port
    if place.pin is not None:
        return _PinnedConnection(host, port, place.pin)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECS)
    return http.client.HTTPConnection(host, port, timeout=CONNECT_SECS)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, socket.gaierror):
        return "there is no machine of that name"
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "verify_message", "") or error.reason or error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def model_path(model: str, order: str = "") -> str:
    """The path of a model, or of an order about it. A dot alone would be taken for a step in the path."""
    name = quote(model, safe="").replace(".", "%2E") if set(model) == {"."} else quote(model, safe="")
    return f"/models/{name}{'/' + order if order else ''}"


def environment_key() -> str | None:
    """The admin key of the environment, if there is one."""
    return os.environ.get("LLMUX_ADMIN_KEY") or None
