"""From a file to a `Config`, or to one `ConfigError` that has all its faults, each with its path and line.

Reads the file, and looks whether the scripts that hooks name exist; touches nothing else.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from llmux.config.access import is_secret_place
from llmux.config.checks import Claim, alias_faults, find_faults
from llmux.config.config import FAULT, Config
from llmux.config.faults import message_of, place_of
from llmux.config.fields import Aliases, Devices, Needs
from llmux.config.json_reader import read_json
from llmux.config.policy import BUILT_IN_POLICIES, PRIORITY_POLICY
from llmux.config.scripts import hook_folders
from llmux.config.tree import Location, Node, UnreadableError, dotted
from llmux.errors import ConfigError
from llmux.messages import SCRIPTS

MAX_FILE_BYTES = 2**20
# Built when first needed: only files with faults need them.
_LATER = ConfigDict(defer_build=True)
_ALIASES: TypeAdapter[list[str]] = TypeAdapter(Aliases, config=_LATER)
_NEEDS: TypeAdapter[dict[str, int] | int | None] = TypeAdapter(Needs | None, config=_LATER)
_DEVICES: TypeAdapter[dict[str, int] | None] = TypeAdapter(Devices | None, config=_LATER)
_MAPPINGS = ("dict_type", "model_type")
_NAMED = 5  # so many models are named in a warning about several
_HOOKS = tuple(hook.value for hook in SCRIPTS)
_T = TypeVar("_T")


def load(path: Path) -> Config:
    """Read and check the configuration at `path`.

    Raises:
        ConfigError: with all faults of the file.
    """
    source = str(path)
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    text = _read(path, source)
    if is_yaml:
        from llmux.config.yaml_reader import read_yaml  # 15 ms, which a file of JSON is spared
    try:
        root, unplaced = read_yaml(text) if is_yaml else read_json(text)
    except UnreadableError as error:
        hint = "" if is_yaml or text.lstrip()[:1] in ("{", "[") else " (only .yaml and .yml files are read as YAML)"
        raise ConfigError(source, [("", error.line, error.message + hint)]) from None
    if root is None:
        raise ConfigError(source, [("", None, "the file is empty")])
    if not isinstance(root.value, dict):
        raise ConfigError(source, [("", root.line, "must be a mapping with a key `models`")])

    config, errors, warnings = _validate(root)
    problems = [(dotted(place), line, _discreet(place, message)) for place, line, message in unplaced]
    unread = {place for place, _, _ in unplaced if root.find(place).value is None}
    for place, message in errors:
        # Of a key whose source could not be read it would be said, too, that it has none.
        if place not in unread and not (is_secret_place(place) and any(one[:-1] == place for one in unread)):
            problems.append((dotted(place), root.find(place).line, message))
    if problems or config is None:
        raise ConfigError(source, sorted(problems, key=lambda problem: problem[1] or 0))
    return _placed(config, path, root, warnings)


def _discreet(place: Location, message: str) -> str:
    """`message` without the value that it is about, where that may be a key."""
    return re.sub(r"^'.*' cannot", "cannot", message, flags=re.DOTALL) if is_secret_place(place) else message


def _read(path: Path, source: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(source, [("", None, f"cannot be read: {reason}")]) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(source, [("", None, f"larger than {MAX_FILE_BYTES} bytes")])
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(source, [("", line, f"not UTF-8: byte 0x{raw[error.start]:02x}")]) from None


def _validate(root: Node) -> tuple[Config | None, list[tuple[Location, str]], list[str]]:
    data, warnings = root.data(), []
    try:
        return Config.model_validate(data), [], []
    except ValidationError as error:
        details = error.errors(include_url=False)
        warnings = _reread(root, data, details)
    try:
        return Config.model_validate(data), [], warnings
    except ValidationError as error:
        details = error.errors(include_url=False)
    faults = [(place_of(detail), message_of(detail)) for detail in details]
    if all(detail["type"] != FAULT for detail in details):
        # Faults in single fields kept pydantic from looking at the whole.
        faults += _faults_of_the_whole(data)
    return None, faults, warnings


def _reread(root: Node, data: Any, details: list[ErrorDetails]) -> list[str]:
    """Give plain YAML scalars the meaning that their place asks for, as 2.4.0's reader did.

    Where text belongs, ``true`` and ``8001`` are text; where a hook belongs, nothing at all is the empty script, and
    where a mapping belongs, an empty mapping. Changes `data`; returns warnings.
    """
    warnings = []
    for detail in details:
        place = place_of(detail)
        node = root.find(place)
        if node.text is None or not place:
            continue
        if detail["type"] == "string_type" and node.value is not None:
            _replace(data, place, node.text)
        elif detail["type"] == "string_type" and not node.text and place[-1] in _HOOKS:
            _replace(data, place, "")
            where = f"{dotted(place)} (line {node.line})"
            warnings.append(f"{where} is empty: nothing is run, and that counts as success")
        elif detail["type"] in _MAPPINGS and not node.text:
            _replace(data, place, {})
    return warnings


def _replace(data: Any, place: Location, value: Any) -> None:
    for part in place[:-1]:
        data = data[part]
    data[place[-1]] = value


def _faults_of_the_whole(data: dict[str, Any]) -> list[tuple[Location, str]]:
    """Check what concerns several models, as far as the fields that it is about are sound themselves."""
    models = data.get("models")
    if not isinstance(models, dict):
        return []
    claims = {}
    for name, model in models.items():
        fields = model if isinstance(model, dict) else {}
        aliases = _sound(_ALIASES, fields.get("aliases", []))
        claims[name] = Claim(aliases or [], _sound(_NEEDS, fields.get("needs")), fields.get("pinned") is True)
    devices = _sound(_DEVICES, data.get("devices"))
    if devices is None and data.get("devices") is not None:
        return list(alias_faults(claims))
    return list(find_faults(claims, devices))


def _sound(adapter: TypeAdapter[_T], value: Any) -> _T | None:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None


def _placed(config: Config, path: Path, root: Node, warnings: list[str]) -> Config:
    """Tell the configuration where its file is, and what follows from that."""
    path = Path(os.path.abspath(path))
    base = path.parent
    folders, more = hook_folders(config, base, _working_folder())
    warnings = [*warnings, *more]
    warnings += _idle_priorities(config)
    if not config.models:
        warnings.append("models is empty: whatever is asked for is not found")
    config._path = path
    config._base_dir = base
    config._file = (str(path), root)
    config._hook_dirs = folders
    config._warnings = tuple(warnings)
    return config


def _working_folder() -> Path | None:
    """None if it was removed meanwhile, as that of a deployment which another has replaced."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _idle_priorities(config: Config) -> list[str]:
    """What is to be said of priorities that nobody goes by. What a third party's policy goes by is not known."""
    policy = config.policy.name
    given = [name for name, model in config.models.items() if model.priority]
    if not given or policy == PRIORITY_POLICY or policy not in BUILT_IN_POLICIES:
        return []
    more = f" and {len(given) - _NAMED} more" if len(given) > _NAMED else ""
    return [
        f"`priority` of {', '.join(given[:_NAMED])}{more} does nothing: the policy {policy} does not go by it, "
        f"only `policy: {{name: {PRIORITY_POLICY}}}` does"
    ]
