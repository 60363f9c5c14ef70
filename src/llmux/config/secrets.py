"""Goes and gets the keys that a configuration speaks of, from the environment and from files.

Reads those, and nothing else. What it returns are digests; the keys themselves are forgotten, and no message has one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmux.config.access import AdminKeyConfig, KeyConfig
from llmux.config.checks import Fault, Location, did_you_mean

if TYPE_CHECKING:
    from llmux.config.config import Config

MAX_KEY_BYTES = 4096
SHORT_KEY = 16


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, by the SHA-256 digest of its bytes. `models` are the names of those that it opens; None: all.
    `may_raise_priority` says whether requests with it may ask to go before others."""

    name: str
    digest: bytes = field(repr=False)
    models: frozenset[str] | None = None
    may_raise_priority: bool = True


@dataclass(frozen=True, slots=True)
class Secrets:
    """All keys of a configuration that could be found, and what is wrong with the others."""

    api_keys: tuple[FoundKey, ...]
    admin_keys: tuple[FoundKey, ...]
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def read_secrets(config: Config) -> Secrets:
    """Find the keys of `config`. Blocks. Does not raise: what is missing is among the faults."""
    faults: list[Fault] = []
    warnings: list[str] = []
    owners: dict[bytes, str] = {}
    found: dict[str, list[FoundKey]] = {"api_keys": [], "admin_keys": []}
    for section, sources in (("api_keys", config.api_keys), ("admin_keys", config.admin_keys)):
        for name, source in sources.items():
            place: Location = (section, name)
            where, digest, problem, warning = _digest(source, config.base_dir or Path())
            if warning:
                warnings.append(f"{section}.{name} {warning}")
            if digest is None:
                faults.append(((*place, where), problem))
            elif digest in owners:
                faults.append(((*place, where), f"is the same key as {owners[digest]}"))
            else:
                owners[digest] = f"{section}.{name}"
                models = opened(source.models, config) if isinstance(source, KeyConfig) else None
                may_raise_priority = not isinstance(source, KeyConfig) or source.may_raise_priority
                found[section].append(FoundKey(name, digest, models, may_raise_priority))
    return Secrets(tuple(found["api_keys"]), tuple(found["admin_keys"]), tuple(faults), tuple(warnings))


COLLECTOR_VARIABLES: Final = frozenset({"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"})
"""Where OpenTelemetry's exporter looks for header fields, which mostly are a collector's key."""


def secret_files(config: Config) -> Iterator[Path]:
    """The files that keys of `config` are read from."""
    for source in (*config.api_keys.values(), *config.admin_keys.values()):
        if source.file is not None:
            yield (config.base_dir or Path()) / source.file


def secret_variables(config: Config) -> frozenset[str]:
    """The environment variables that are nobody's business but llmux's: those that keys of `config` are read from, and
    with tracing those that open the collector."""
    sources: list[AdminKeyConfig] = [*config.api_keys.values(), *config.admin_keys.values()]
    keys = frozenset(source.env for source in sources if source.env is not None)
    return keys | COLLECTOR_VARIABLES if config.tracing else keys


def opened(patterns: list[str] | None, config: Config) -> frozenset[str] | None:
    """The models of `config` that one of the patterns names, by name or alias; None for all."""
    if patterns is None:
        return None
    return frozenset(model for name, model in config.names().items() if any(_matches(name, one) for one in patterns))


def pattern_faults(keys: Mapping[str, KeyConfig], names: Mapping[str, str]) -> Iterator[Fault]:
    """Names of models in keys that are no models, with their places. A pattern may wait for a model to come."""
    for name, key in keys.items():
        for index, pattern in enumerate(key.models or ()):
            if not _is_pattern(pattern) and pattern not in names:
                yield ("api_keys", name, "models", index), f"unknown model{did_you_mean(pattern, names)}"


def empty_keys(
    given: set[str], api_keys: Mapping[str, KeyConfig], admin_keys: Mapping[str, AdminKeyConfig]
) -> Iterator[Fault]:
    """Sections for keys that are there, and empty: whoever wrote them did not mean that everybody may come in."""
    for section, keys in (("api_keys", api_keys), ("admin_keys", admin_keys)):
        if section in given and not keys:
            yield (
                (section,),
                "has no key in it; leave it out to let everybody in, or add a key: `name: {env: VARIABLE}`",
            )


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _matches(name: str, pattern: str) -> bool:
    # Brackets have no meaning of their own: they may be part of a model's name.
    return name == pattern or (_is_pattern(pattern) and fnmatchcase(name, pattern.replace("[", "[[]")))


def _digest(source: AdminKeyConfig, base: Path) -> tuple[str, bytes | None, str, str]:
    """Of one key: which source it has, its digest or None, and then why there is none, and a warning."""
    if source.sha256 is not None:
        return "sha256", bytes.fromhex(source.sha256), "", ""
    if source.env is not None:
        value, where = os.environb.get(source.env.encode()), "env"
        problem = f"the environment variable {source.env} is not set"
    elif source.file is not None:
        where = "file"
        value, problem = _content(base / source.file)
    else:
        where, problem = "key", "is missing"
        value = None if source.key is None else source.key.get_secret_value().encode("utf-8", "surrogatepass")
    if value is None:
        return where, None, problem, ""
    value = value.strip()
    if not value or len(value) > MAX_KEY_BYTES or not all(0x21 <= byte <= 0x7E for byte in value):
        what = "it is empty" if not value else "what is there is not: too long, or with a space or an odd character"
        return where, None, f"a key is one line of printable ASCII; {what}", ""
    short = f"is a key of fewer than {SHORT_KEY} characters: it can be guessed" if len(value) < SHORT_KEY else ""
    return where, hashlib.sha256(value).digest(), "", short


def _content(path: Path) -> tuple[bytes | None, str]:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES + 2), ""
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror or error}"
