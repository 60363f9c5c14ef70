"""From a configuration to who may reach llmux, and how: keys, names, origins, the certificate. And keeps them fresh.

Reads files and the environment, in threads. What it makes is immutable, and exchanged as a whole: a file that has
become unusable changes nothing, and the log says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmux import logs
from llmux.access import Access, Hosts, Key, Keyring, Origins
from llmux.certificates import Certificate, CertificateError, load_certificate, not_after
from llmux.config import Config, FoundKey, Secrets, read_secrets, secret_files

LOOK_SECONDS: Final = 5.0
"""How often files with keys and certificates are looked at. Not with inotify: it does not see what happens on network
file systems, nor behind the links that container platforms put in the place of mounted secrets."""

log = logs.get_logger("llmux")

Signature = dict[Path, tuple[int, int, int, int] | None]
"""Files, and what changes where one of them does; None where it is not there."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a configuration says about who may reach llmux, with all that it names read.

    Attributes:
        read: the files as they were before they were read: what is written later is a change.
        not_after: until when the certificate is valid, in seconds since 1970; None if that is not known.
    """

    access: Access
    certificate: ssl.SSLContext | None
    warnings: tuple[str, ...] = ()
    read: Signature = field(default_factory=dict)
    not_after: float | None = None


def expose(config: Config) -> Exposure:
    """Read what `config` names: keys, certificate. Blocks.

    Raises:
        ConfigError: with everything that cannot be used.
    """
    read = _signature(watched_files(config))
    secrets = read_secrets(config)
    faults = list(secrets.faults)
    certificate = expiry = None
    if config.tls_files is not None:
        try:
            certificate = load_certificate(*config.tls_files)
            expiry = not_after(config.tls_files[0])
        except CertificateError as error:
            faults.append((("tls", error.part), str(error)))
    if faults:
        raise config.error(faults)
    return Exposure(access_of(config, secrets), certificate, secrets.warnings, read, expiry)


def access_of(config: Config, secrets: Secrets) -> Access:
    """Who is let in, by a configuration and the keys that it names."""
    listed = config.allowed_hosts
    return Access(
        keys=_keyring(secrets.api_keys),
        admin_keys=_keyring(secrets.admin_keys),
        metrics_need_key=config.metrics_need_key,
        forward_to=frozenset(model for model in config.models if config.forwards_authorization(model)),
        hosts=Hosts(listed or (), only_listed=listed is not None, own=(config.host, socket.gethostname())),
        origins=Origins(config.cors.origins),
    )


def _keyring(found: Iterable[FoundKey]) -> Keyring:
    return Keyring(Key(one.name, one.digest, one.models, one.may_raise_priority) for one in found)


class Keeper:
    """Looks at the files that a configuration names, and passes on what is new in them.

    Args:
        config: what to read them for; `adopt` gives it another.
        exposure: what was read for it.
        certificate: gets a certificate when there is a new one.
        apply: is called with who is let in when that has changed.

    Attributes:
        not_after: until when the certificate that is shown is valid, in seconds since 1970; None if there is none, or
            that is not known.
    """

    def __init__(
        self, config: Config, exposure: Exposure, certificate: Certificate | None, apply: Callable[[Access], None]
    ) -> None:
        self._config = config
        self._certificate = certificate
        self._apply = apply
        self._read = self._seen = exposure.read  # as the files were when they were read, and at the last look
        self._keys_good = self._certificate_good = True
        self._said: set[str] = set()  # what of them cannot be used, as the log has it
        self.not_after = None if certificate is None else exposure.not_after

    def adopt(self, config: Config, exposure: Exposure) -> None:
        """Go by another configuration from now on, which was read just now: the next request and the next handshake do.

        Listeners stay as they are: from plain HTTP to TLS, or back, is a restart. Until then, `config` names the
        certificate that there was, and `exposure` has none."""
        self._config = config
        known = self._read | exposure.read
        self._read = self._seen = {path: known.get(path) for path in watched_files(config)}
        self._keys_good = self._certificate_good = True
        self._apply(exposure.access)
        if self._certificate is not None and exposure.certificate is not None:
            self._certificate.exchange(exposure.certificate)
            self.not_after = exposure.not_after

    @property
    def good(self) -> bool:
        """Whether all of them could be used when they were last read."""
        return self._keys_good and self._certificate_good

    async def keep(self, seconds: float = LOOK_SECONDS) -> None:
        """Look every so many seconds, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(seconds)

    async def look(self) -> None:
        """Look once. What has changed is read once it has stayed the same from one look to the next: a certificate and
        its key are two files, and are seldom put there at the same moment. What could not be used is read again at each
        look: it may have been the file system that failed, or llmux that had no descriptors."""
        config = self._config
        files = watched_files(config)
        if not files:
            self._read = self._seen = {}
            return
        now = await asyncio.to_thread(_signature, files)
        if config is not self._config:
            return  # another one was adopted meanwhile
        settled = now == self._seen
        self._seen = now
        if not settled:
            return
        changed = now != self._read
        self._read = now
        if changed:
            self._said.clear()
        keys_good, certificate_good = self._keys_good, self._certificate_good
        if changed or not keys_good:
            keys_good = await self._renew_keys(config)
        if changed or not certificate_good:
            certificate_good = await self._renew_certificate(config)
        if config is self._config:
            self._keys_good, self._certificate_good = keys_good, certificate_good

    async def _renew_keys(self, config: Config) -> bool:
        secrets = await asyncio.to_thread(read_secrets, config)
        if config is not self._config:
            return False
        if secrets.faults:
            if self._is_news(told := str(config.error(secrets.faults))):
                log.error("keys_not_reloaded", error=told)
            return False
        self._apply(access_of(config, secrets))
        log.info("keys_reloaded", api_keys=len(secrets.api_keys), admin_keys=len(secrets.admin_keys))
        return True

    async def _renew_certificate(self, config: Config) -> bool:
        files = config.tls_files
        if files is None or self._certificate is None:
            return True
        try:
            loaded = await asyncio.to_thread(load_certificate, *files)
        except CertificateError as error:
            if self._is_news(str(error)):
                log.error("certificate_not_reloaded", error=str(error))
            return False
        expiry = await asyncio.to_thread(not_after, files[0])
        if config is self._config:
            self._certificate.exchange(loaded)
            self.not_after = expiry
            log.info("certificate_reloaded", cert=str(files[0]))
        return True

    def _is_news(self, error: str) -> bool:
        """Whether the log was not told yet of what cannot be used."""
        news = error not in self._said
        self._said.add(error)
        return news


def watched_files(config: Config) -> tuple[Path, ...]:
    """The files whose changes matter while llmux runs."""
    return (*secret_files(config), *(config.tls_files or ()))


def _signature(files: Iterable[Path]) -> Signature:
    return {path: _state(path) for path in files}


def _state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
