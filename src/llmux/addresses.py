"""Where a backend listens: the meaning of `port:` and `url:` in the configuration. And which networks addresses are in.

Pure. Knows nothing of sockets; `llmux.upstream` connects.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """One backend: TCP `host` and `port`, or a unix socket `path`; `tls` for https; `base` is put before every
    request's path (it has no trailing slash and is empty for most)."""

    host: str = ""
    port: int = 0
    unix_path: str = ""
    tls: bool = False
    base: str = ""

    @property
    def host_header(self) -> str:
        """The Host field's value (RFC 9110, section 7.2); the port is left out where it is the scheme's own."""
        if self.unix_path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"{'https' if self.tls else 'http'}://{self.host_header}{self.base}"

    @classmethod
    def local(cls, port: int) -> BackendAddress:
        """The backend at 127.0.0.1 and `port`."""
        return cls(host="127.0.0.1", port=port)

    @classmethod
    def parse(cls, url: str) -> BackendAddress:
        """Read ``http(s)://host[:port][/base]`` or ``unix:/absolute/path``.

        Raises:
            ValueError: with a message that says what is wrong with `url`.
        """
        if url.startswith("unix:"):
            path = url.removeprefix("unix:")
            if path.startswith("//"):
                path = path[2:]
            if not path.startswith("/"):
                raise ValueError(f"a unix socket needs an absolute path, as in unix:/run/model.sock, not {url!r}")
            return cls(unix_path=path)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"must begin with http://, https:// or unix:, not {url!r}")
        if not parts.hostname:
            raise ValueError(f"no host in {url!r}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("user and password do not belong in a backend's url")
        if parts.query or parts.fragment:
            raise ValueError(f"a backend's url has neither a query nor a fragment: {url!r}")
        tls = parts.scheme == "https"
        port = parts.port  # raises ValueError itself when out of range
        if port == 0:
            raise ValueError("port 0 is not an address")
        if not (parts.path.isascii() and parts.path.isprintable()) or " " in parts.path:
            raise ValueError(f"the path of {url!r} has characters that need percent-encoding")
        return cls(host=parts.hostname, port=port or (443 if tls else 80), tls=tls, base=parts.path.rstrip("/"))


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(text: str) -> Network:
    """An address, or a network such as ``10.0.0.0/8``.

    Raises:
        ValueError: it is neither.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"must be an IP address, or a network such as 10.0.0.0/8: {error}") from None


def in_networks(address: str, networks: Iterable[Network]) -> bool:
    """Is `address`, as a socket gives it, in one of `networks`? IPv4 addresses in IPv6 count as IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in networks)
