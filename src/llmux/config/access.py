"""The sections of the configuration about who may reach llmux: keys, TLS, pages of other sites.

What is said here about a key is where it is to be found; `llmux.config.secrets` goes and reads it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, SecretStr, StrictBool, field_validator, model_validator

from llmux.config.fields import FileName, Name, Section, without_default

SOURCES = ("env", "file", "key", "sha256")

_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[?[0-9A-Fa-f:.]+\]?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+")


def _check_variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("must be the name of an environment variable")
    return name


def _check_digest(digest: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", digest):
        raise ValueError('must be 64 hexadecimal digits, as `printf %s "$KEY" | sha256sum` prints them')
    return digest.lower()


def _check_host(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError("must be a host name without a port, *.example.com for all names below one, or * for any")
    return name


def _check_origin(origin: str) -> str:
    if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin.rstrip("/").lower()):
        raise ValueError("must be an origin such as https://chat.example.com, without a path; * for any; or null")
    return origin


HostName = Annotated[str, AfterValidator(_check_host)]
Origin = Annotated[str, AfterValidator(_check_origin)]


class AdminKeyConfig(Section):
    """Where one key is to be found: exactly one of `env`, `file`, `sha256` and `key`."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        json_schema_extra={"oneOf": [{"required": [source]} for source in SOURCES]},
    )

    env: Annotated[str, AfterValidator(_check_variable)] | None = Field(
        default=None,
        description="Environment variable of llmux that has the key. Hooks do not get it.",
        examples=["LLMUX_KEY_ALICE"],
        json_schema_extra=without_default,
    )
    file: FileName | None = Field(
        default=None,
        description="File that has the key, and nothing else, in one line. It is read again when it changes. A "
        "relative path means the folder of the configuration file.",
        examples=["keys/alice", "/run/secrets/llmux-alice"],
        json_schema_extra=without_default,
    )
    sha256: Annotated[str, AfterValidator(_check_digest)] | None = Field(
        default=None,
        description="SHA-256 digest of the key, in hexadecimal: the file then has no secret in it. Only for keys that "
        "were made at random, as `openssl rand -hex 32` makes them.",
        examples=["2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"],
        json_schema_extra=without_default,
    )
    key: SecretStr | None = Field(
        default=None,
        description="The key itself. Then the configuration file is a secret.",
        json_schema_extra=without_default,
    )

    @model_validator(mode="after")
    def _check_source(self) -> AdminKeyConfig:
        given = [source for source in SOURCES if getattr(self, source) is not None]
        if len(given) != 1:
            what = "none of them is there" if not given else f"{' and '.join(given)} are both there"
            raise ValueError(f"must have one of `env`, `file`, `sha256` and `key`; {what}")
        return self


class KeyConfig(AdminKeyConfig):
    """Where one key is to be found (exactly one of `env`, `file`, `sha256` and `key`), and what it opens."""

    models: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None,
        description="Models that the key opens, by name or alias; in a pattern such as `qwen-*`, * stands for any text "
        "and ? for one character. Default: all.",
        examples=[["small", "qwen-*"]],
        json_schema_extra=without_default,
    )

    may_raise_priority: StrictBool = Field(
        default=True,
        description="Whether requests with this key may ask to be served before others (`x-llmux-priority: priority`, "
        "`service_tier: priority`). If not, they wait like all others; `flex` is open to all. Default: true.",
    )


class CorsConfig(Section):
    """Which pages may use llmux from a browser."""

    origins: list[Origin] = Field(
        default=[],
        description="Origins whose pages may send requests for models and read the answers; `*` for any, `null` for "
        "pages without one. The admin API is open to none of them. Default: none.",
        examples=[["https://chat.example.com", "http://localhost:5173"]],
    )

    @field_validator("origins")
    @classmethod
    def _check_any(cls, origins: list[str]) -> list[str]:
        if "*" in origins and len(origins) > 1:
            raise ValueError("has * and others: * alone means all origins")
        return origins


class TlsConfig(Section):
    """The certificate with which llmux speaks TLS on its port. Both files are read again when they change."""

    cert: FileName = Field(
        description="PEM file with the certificate and those that lead to its root, in this order. A relative path "
        "means the folder of the configuration file. Required.",
        examples=["tls/fullchain.pem"],
    )
    key: FileName = Field(
        description="PEM file with the private key, without a passphrase. A relative path means the folder of the "
        "configuration file. Required.",
        examples=["tls/privkey.pem"],
    )


def is_secret_place(place: tuple[Any, ...]) -> bool:
    """May what stands at `place` of a configuration be a key, so that no message must repeat it?"""
    return bool(place) and place[0] in ("api_keys", "admin_keys")
