"""From a llama-swap configuration to one of llmux: what has the same meaning is carried over, the rest is told.

Reads the file, runs nothing, writes nothing.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCRIPT = "./hooks/process.sh"
START_PORT = 5800
"""The first of llama-swap's ports, unless its file says otherwise."""

_MACRO = re.compile(r"\$\{([^}]+)\}")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_TOP = {"models", "groups", "macros", "startPort", "healthCheckTimeout"}
_MODEL = {"cmd", "cmdStop", "proxy", "aliases", "env", "checkEndpoint", "ttl", "useModelName", "macros"}


class ConversionError(Exception):
    """The file cannot be read, or is not one of llama-swap's."""


@dataclass(slots=True)
class Converted:
    """`notes` says what could not be carried over, a line each."""

    configuration: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def convert(file: Path) -> Converted:
    """The configuration that does with llmux what `file` does with llama-swap.

    Raises:
        ConversionError: with a message for the terminal.
    """
    import yaml

    try:
        data = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ConversionError(f"cannot read {file}: {error}") from error
    models = data.get("models") if isinstance(data, dict) else None
    if not isinstance(models, dict) or not models or not all(isinstance(one, dict) for one in models.values()):
        raise ConversionError(f"{file} is no configuration of llama-swap: it has no `models`")
    result = Converted({"models": {}})
    timeout = data.get("healthCheckTimeout")
    if isinstance(timeout, int | float) and timeout > 0:
        result.configuration["hook_timeout_secs"] = {"wake": timeout}
    port = data.get("startPort", START_PORT)
    for name in sorted(models, key=str):
        port = _Model(str(name), models[name], _macros(data.get("macros")), port, result).convert()
    result.notes += [f"{key}: llmux has nothing of that name" for key in data if key not in _TOP]
    _groups(data.get("groups"), result)
    result.configuration["port"] = 3000
    return result


def _macros(value: Any) -> dict[str, str]:
    """Macros as llama-swap has them: a mapping, or a list of mappings."""
    if isinstance(value, list):
        value = {key: text for one in value if isinstance(one, dict) for key, text in one.items()}
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


class _Model:
    def __init__(self, name: str, data: dict[str, Any], macros: dict[str, str], port: int, result: Converted) -> None:
        self._name = name
        self._data = data
        self._result = result
        self._next_port = port
        self._macros = macros | _macros(data.get("macros")) | {"MODEL_ID": name}
        self._unknown: set[str] = set()

    def convert(self) -> int:
        """Adds the model to the result; returns the port that the next one may have."""
        data = self._data
        cmd = _one_line(data.get("cmd"))
        proxy = str(data.get("proxy") or "http://localhost:${PORT}")
        taken = "${PORT}" in self._expand(f"{cmd} {proxy}")
        self._macros["PORT"] = str(self._next_port)
        parts = urlsplit(self._expand(proxy))
        port = parts.port or self._next_port
        fields: dict[str, Any] = {}
        if parts.hostname in _LOCAL and not parts.path.strip("/"):
            fields["port"] = port
        else:
            fields["url"] = self._expand(proxy)
            self._note("proxy: its health is asked for at its port on this machine; see the alive hook")
        self._names(fields)
        self._hooks(fields, cmd, port)
        ttl = data.get("ttl")
        if ttl:
            fields["idle_sleep_secs"] = ttl
        for key in data.keys() - _MODEL:
            self._note(f"{key}: llmux has nothing of that name")
        for macro in sorted(self._unknown):
            self._note(f"${{{macro}}}: nothing says what it stands for; see the hooks")
        self._result.configuration["models"][self._name] = fields
        return self._next_port + taken

    def _names(self, fields: dict[str, Any]) -> None:
        if self._data.get("aliases"):
            fields["aliases"] = [str(alias) for alias in self._data["aliases"]]
        if self._data.get("useModelName"):
            fields["send_model_as"] = self._expand(str(self._data["useModelName"]))

    def _hooks(self, fields: dict[str, Any], cmd: str, port: int) -> None:
        before = "" if "port" in fields else f"LLMUX_PORT={port} "
        check = str(self._data.get("checkEndpoint") or "/health")
        if check == "none":
            self._note("checkEndpoint: none: llmux must know when a model serves, so /health is asked")
        elif check != "/health":
            before += f"HEALTH={shlex.quote(self._expand(check))} "
        variables = "".join(f"{self._assignment(str(one))} " for one in self._data.get("env") or ())
        fields["wake"] = f"{before}{variables}{SCRIPT} wake {self._words(cmd)}".strip()
        fields["sleep"] = f"{before}{SCRIPT} sleep"
        if self._data.get("cmdStop"):
            self._macros["PID"] = "PID"
            stop = self._words(_one_line(self._data["cmdStop"]), pid=f'"$(cat run/process-{port}.pid)"')
            # First its own way of stopping, then ours, which waits until the process is gone.
            fields["sleep"] = f"{stop} || true; {fields['sleep']}"
        fields["alive"] = f"{before}{SCRIPT} alive"

    def _words(self, text: str, *, pid: str = "") -> str:
        """As words of a shell that mean what they say: llama-swap has no shell, so nothing in them is special."""
        try:
            words = shlex.split(self._expand(text))
        except ValueError as error:
            raise ConversionError(f"models.{self._name}: {text!r}: {error}") from error
        return " ".join(pid if pid and word == "PID" else shlex.quote(word) for word in words)

    def _assignment(self, text: str) -> str:
        name, _, value = self._expand(text).partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConversionError(f"models.{self._name}.env: {text!r} is not NAME=VALUE")
        return f"{name}={shlex.quote(value)}"

    def _expand(self, text: str) -> str:
        for _ in range(10):  # a macro may stand for text with macros in it, in llama-swap a few deep
            before = text
            text = _MACRO.sub(lambda match: self._macros.get(match[1], match[0]), text)
            if text == before:
                break
        self._unknown |= {name for name in _MACRO.findall(text) if name not in ("PORT", "PID")}
        return text

    def _note(self, text: str) -> None:
        self._result.notes.append(f"models.{self._name}.{text}")


def _one_line(command: Any) -> str:
    """A command that may be written over several lines, with comments and backslashes."""
    lines = [line for line in str(command or "").splitlines() if not line.lstrip().startswith("#")]
    return " ".join(line.rstrip().removesuffix("\\").strip() for line in lines).strip()


def _groups(groups: Any, result: Converted) -> None:
    for name, given in (groups if isinstance(groups, dict) else {}).items():
        group = given if isinstance(given, dict) else {}
        members = ", ".join(map(str, group.get("members") or ()))
        if group.get("swap") is False:
            together = f"its members ({members}) may be awake together"
            result.notes.append(f"groups.{name}: {together}: declare `devices`, and what each model `needs`")
        if group.get("exclusive") is False or group.get("persistent") is True:
            result.notes.append(
                f"groups.{name}: it leaves other groups alone: declare `devices`, and what each model `needs`"
            )
