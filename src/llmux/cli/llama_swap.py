"""From a llama-swap configuration to one of llmux: what has the same meaning is carried over, the rest is told.

Reads the file, runs nothing, writes nothing.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmux.cli.llama_swap_groups import Group, Places, left_awake, one_way, places, read_groups

SCRIPT = "./hooks/process.sh"
START_PORT = 5800
"""The first of llama-swap's ports, unless its file says otherwise."""

LOADING_SECS = 1
"""How often those who wait hear of it, where llama-swap was told to let them."""

_MACRO = re.compile(r"\$\{([^}]+)\}")
_FROM_ENVIRONMENT = re.compile(r"\$\{env\.([A-Za-z_]\w*)\}")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_TOP = {
    "models", "groups", "routing", "macros", "startPort", "healthCheckTimeout", "globalTTL", "sendLoadingState",
    "hooks", "apiKeys",
}  # fmt: skip
_MODEL = {
    "cmd", "cmdStop", "proxy", "aliases", "env", "checkEndpoint", "ttl", "useModelName", "macros", "metadata",
    "filters", "concurrencyLimit", "sendLoadingState",
}  # fmt: skip
_NOTHING = "llmux has nothing of that name"
_INSTEAD = {
    "capabilities": "llmux tells clients what `metadata` says",
    "description": "llmux tells clients what `metadata` says",
    "includeAliasesInList": "the list of models always has their aliases, with each model",
    "logLevel": "llmux says more with --verbose",
    "name": "llmux tells clients what `metadata` says",
    "peers": "give llmux a model with a `url` for each",
    "timeouts": "see `timeouts_secs`, which is for all models",
    "unloadTimeout": "hooks/process.sh uses force after 20 seconds",
}
"""What llmux has instead of keys that are not carried over."""


class ConversionError(Exception):
    """The file cannot be read, or is not one of llama-swap's."""


@dataclass(slots=True)
class Converted:
    """`notes` says what could not be carried over and what does not mean quite the same, a line each, in the order of
    the models' names and then of the file."""

    configuration: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def left_out(self, place: str, why: str = _NOTHING) -> None:
        """`place` is not carried over."""
        self.notes.append(f"not carried over: {place}: {why}")

    def differs(self, place: str, how: str) -> None:
        """`place` is carried over, and means something a little different."""
        self.notes.append(f"different: {place}: {how}")


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
    try:
        groups = read_groups(_group_data(data, result), result.configuration["models"])
    except ValueError as error:
        raise ConversionError(f"{file}: {error}") from error
    _top_level(data, groups, result)
    _groups(groups, result)
    result.configuration["port"] = 3000
    return result


def _macros(value: Any) -> dict[str, Any]:
    """Macros as llama-swap has them: a mapping, or a list of mappings."""
    if isinstance(value, list):
        value = {key: text for one in value if isinstance(one, dict) for key, text in one.items()}
    return {str(key): text for key, text in value.items()} if isinstance(value, dict) else {}


def _seconds_between_signs(value: Any) -> int:
    return LOADING_SECS if value else 0


def _top_level(data: dict[str, Any], groups: list[Group], result: Converted) -> None:
    made = result.configuration
    if isinstance(data.get("globalTTL"), int) and data["globalTTL"] > 0:
        made["idle_sleep_secs"] = data["globalTTL"]
    if data.get("sendLoadingState") is not None:
        made["waiting_keepalive_secs"] = _seconds_between_signs(data["sendLoadingState"])
    if data.get("sendLoadingState"):
        result.differs("sendLoadingState", "those who wait get comments in their stream, which clients do not show")
    keys = [str(key) for key in data.get("apiKeys") or ()]
    if keys:
        made["api_keys"] = {f"key{number}": _key(key) for number, key in enumerate(keys, start=1)}
    for key, value in _mapping(_mapping(data.get("hooks")).get("on_startup")).items():
        if key == "preload":
            _preload([str(name) for name in value or ()], groups, result)
        else:
            result.left_out(f"hooks.on_startup.{key}")
    for key in data:
        if key not in _TOP:
            result.left_out(str(key), _INSTEAD.get(key, _NOTHING))


def _key(key: str) -> dict[str, str]:
    """A key by its digest, so that the file has no secret in it, or where llama-swap found it."""
    variable = _FROM_ENVIRONMENT.fullmatch(key)
    return {"env": variable[1]} if variable else {"sha256": sha256(key.encode()).hexdigest()}


def _preload(given: list[str], groups: list[Group], result: Converted) -> None:
    models = result.configuration["models"]
    names = {alias: name for name, model in models.items() for alias in model.get("aliases", ())}
    order = []
    for name in given:
        model = name if name in models else names.get(name)
        if model is None:
            result.left_out("hooks.on_startup.preload", f"there is no model {name!r}")
        else:
            order.append(model)
    staying = left_awake(order, groups)
    if staying:
        result.configuration["preload"] = staying
    for model in dict.fromkeys(order):
        if model not in staying:
            result.differs(
                "hooks.on_startup.preload", f"llama-swap unloads {model} for the next one, so it is left out"
            )


def _group_data(data: dict[str, Any], result: Converted) -> Any:
    """The groups, wherever the file has them."""
    routing = data.get("routing")
    if not isinstance(routing, dict):
        return data.get("groups")
    router = _mapping(routing.get("router"))
    settings = _mapping(router.get("settings"))
    if router.get("use") == "matrix":
        result.left_out("routing.router.settings.matrix", "declare `devices`, and what each model `needs`")
        return None
    if "scheduler" in routing:
        result.left_out("routing.scheduler", "see `policy`, and the `priority` of models")
    return settings.get("groups") or data.get("groups")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _groups(groups: list[Group], result: Converted) -> None:
    made = result.configuration
    models = made["models"]
    sleepers = {
        name: bool(model.get("idle_sleep_secs", made.get("idle_sleep_secs", 0))) for name, model in models.items()
    }
    found: Places = places(groups, sleepers)
    if found.devices is not None:
        made["devices"] = found.devices
        for name, needs in found.needs.items():
            models[name]["needs"] = needs
        for name in found.pinned:
            models[name]["pinned"] = True
    for first, second in one_way(groups):
        result.differs(
            f"groups.{second.name}",
            f"llama-swap unloads its models when it loads one of {first.name}, and then loads them beside it for the "
            "next request; here they stay awake",
        )


class _Model:
    def __init__(self, name: str, data: dict[str, Any], macros: dict[str, Any], port: int, result: Converted) -> None:
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
        self._macros["PORT"] = self._next_port
        parts = urlsplit(self._expand(proxy))
        port = parts.port or self._next_port
        fields: dict[str, Any] = {}
        if parts.hostname in _LOCAL and not parts.path.strip("/"):
            fields["port"] = port
        else:
            fields["url"] = self._expand(proxy)
            self._differs("proxy", "its health is asked for at its port on this machine; see the alive hook")
        self._names(fields)
        self._hooks(fields, cmd, port)
        self._limits(fields)
        self._shaping(fields)
        for key in data:
            if key not in _MODEL:
                self._left_out(str(key), _INSTEAD.get(key, _NOTHING))
        for macro in sorted(self._unknown):
            self._left_out(f"${{{macro}}}", "nothing says what it stands for; see the hooks")
        self._result.configuration["models"][self._name] = fields
        return self._next_port + taken

    def _names(self, fields: dict[str, Any]) -> None:
        if self._data.get("aliases"):
            fields["aliases"] = [str(alias) for alias in self._data["aliases"]]
        if self._data.get("useModelName"):
            fields["send_model_as"] = self._expand(str(self._data["useModelName"]))

    def _limits(self, fields: dict[str, Any]) -> None:
        ttl = self._data.get("ttl")
        if isinstance(ttl, int | float) and ttl >= 0:  # below: the one for all
            fields["idle_sleep_secs"] = ttl
        limit = self._data.get("concurrencyLimit")
        if isinstance(limit, int) and limit > 0:
            fields["max_in_flight"] = limit
            self._differs("concurrencyLimit", "one more request waits, instead of being refused; see `max_queue`")
        if self._data.get("sendLoadingState") is not None:
            fields["waiting_keepalive_secs"] = _seconds_between_signs(self._data["sendLoadingState"])

    def _shaping(self, fields: dict[str, Any]) -> None:
        """What clients are told of the model, and what becomes of the bodies that they send it."""
        if self._data.get("metadata"):
            fields["metadata"] = self._value(self._data["metadata"])
        for key, value in _mapping(self._data.get("filters")).items():
            if key == "stripParams":
                given = value if isinstance(value, list) else str(value or "").split(",")
                names = dict.fromkeys(str(name).strip() for name in given)
                fields["strip_params"] = [name for name in names if name not in ("", "model")]
            elif key == "setParams" and isinstance(value, dict):
                fields["set_params"] = {str(name): self._value(one) for name, one in value.items() if name != "model"}
            else:
                self._left_out(f"filters.{key}")

    def _value(self, value: Any) -> Any:
        """With its macros expanded; one that is a macro and nothing more has the macro's own type."""
        if isinstance(value, dict):
            return {str(key): self._value(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._value(one) for one in value]
        if not isinstance(value, str):
            return value
        whole = _MACRO.fullmatch(value)
        if whole and not isinstance(macro := self._macros.get(whole[1], value), str):
            return macro
        return self._expand(value)

    def _hooks(self, fields: dict[str, Any], cmd: str, port: int) -> None:
        before = "" if "port" in fields else f"LLMUX_PORT={port} "
        check = str(self._data.get("checkEndpoint") or "/health")
        if check == "none":
            self._left_out("checkEndpoint", "llmux must know when a model serves, so /health is asked")
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
            text = _MACRO.sub(lambda match: _text(self._macros.get(match[1], match[0])), text)
            if text == before:
                break
        self._unknown |= {name for name in _MACRO.findall(text) if name not in ("PORT", "PID")}
        return text

    def _left_out(self, key: str, why: str = _NOTHING) -> None:
        self._result.left_out(f"models.{self._name}.{key}", why)

    def _differs(self, key: str, how: str) -> None:
        self._result.differs(f"models.{self._name}.{key}", how)


def _text(macro: Any) -> str:
    return str(macro).lower() if isinstance(macro, bool) else str(macro)


def _one_line(command: Any) -> str:
    """A command that may be written over several lines, with comments and backslashes."""
    lines = [line for line in str(command or "").splitlines() if not line.lstrip().startswith("#")]
    return " ".join(line.rstrip().removesuffix("\\").strip() for line in lines).strip()
