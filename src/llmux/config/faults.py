"""What pydantic found wrong, in words for whoever wrote the file.

Pure.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from llmux.config.access import AdminKeyConfig, CorsConfig, KeyConfig, TlsConfig, is_secret_place
from llmux.config.canary import CanaryConfig
from llmux.config.checks import Location, did_you_mean
from llmux.config.config import Config
from llmux.config.fields import BY_DEVICE, ON_ONE_DEVICE
from llmux.config.model import ModelConfig
from llmux.config.policy import PolicyConfig
from llmux.config.timeouts import HookTimeouts, ModelHookTimeouts, RelayTimeouts

_SECTIONS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Config,
    ("policy",): PolicyConfig,
    ("hook_timeout_secs",): HookTimeouts,
    ("timeouts_secs",): RelayTimeouts,
    ("api_keys", "*"): KeyConfig,
    ("admin_keys", "*"): AdminKeyConfig,
    ("tls",): TlsConfig,
    ("cors",): CorsConfig,
    ("models", "*"): ModelConfig,
    ("models", "*", "hook_timeout_secs"): ModelHookTimeouts,
    ("models", "*", "canary"): CanaryConfig,
}

_HOMES: dict[tuple[str, ...], str] = {
    (): "at the top level",
    ("policy",): "under `policy`",
    ("models", "*"): "under a model",
}
"""Where people look for a key, and how that is said."""


def place_of(error: ErrorDetails) -> Location:
    """Where in the file the error is: its location without what pydantic adds (union branches, ``[key]``)."""
    loc = error["loc"][:-1] if error["loc"][-1:] == ("[key]",) else error["loc"]
    return tuple(part for part in loc if part not in (BY_DEVICE, ON_ONE_DEVICE))


def message_of(error: ErrorDetails) -> str:
    """One line that says what is wrong and, where it can, what to write."""
    value = error["input"]
    if is_secret_place(error["loc"]) and isinstance(value, str | int | float) and not isinstance(value, bool):
        value = _Hidden()
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            place = place_of(error)
            return "unknown key" + _instead_of(place)
        case "string_type":
            hint = f"; write it in quotes: {_quoted(value)}" if isinstance(value, bool | int | float) else ""
            return f"must be text, not {_describe(value)}{hint}"
        case "int_type":
            return f"must be a whole number, not {_describe(value)}{_unquote(value)}"
        case "float_type" if isinstance(value, int) and not isinstance(value, bool):
            return "is too large a number"
        case "float_type":
            return f"must be a number, not {_describe(value)}{_unquote(value)}"
        case "bool_type":
            return f"must be true or false, not {_describe(value)}"
        case "list_type":
            return f"must be a list, not {_describe(value)}"
        case "dict_type" | "model_type":
            return f"must be a mapping (key: value), not {_describe(value)}"
        case "finite_number":
            return "must be a finite number; for no limit write null, where that is allowed"
        case "greater_than":
            return f"must be more than {error['ctx']['gt']:g}, not {_describe(value)}"
        case "greater_than_equal":
            return f"must be at least {error['ctx']['ge']:g}, not {_describe(value)}"
        case "less_than_equal":
            return f"must be at most {error['ctx']['le']:g}, not {_describe(value)}"
        case "literal_error":
            return f"must be {error['ctx']['expected']}, not {_describe(value)}"
        case "too_short":
            return "must not be empty"
        case "string_pattern_mismatch":
            return f"must be a host name or an address, not {_describe(value)}"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            return error["msg"]


class _Hidden:
    """In the place of a value that may be a key."""


def _instead_of(place: Location) -> str:
    """What may have been meant by an unknown key: the same one elsewhere, or one that is written much like it."""
    key, here = str(place[-1]), _section(place[:-1])
    if here in _HOMES and key != "name":  # a model's name is no policy's
        for section, words in _HOMES.items():
            if key in _SECTIONS[section].model_fields:
                return f"; it belongs {words}"
    return did_you_mean(key, list(_SECTIONS[here].model_fields))


def _section(place: Location) -> tuple[str, ...]:
    return tuple("*" if index == 1 else str(part) for index, part in enumerate(place))


def _describe(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case _Hidden():
            return "what is there"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case int() if abs(value) >= 10**15:
            return "a number of that size"
        case int() | float():
            return str(value)
        case str():
            return f"the text {value!r}" if len(value) <= 40 else f"the text {value[:40]!r}…"
        case _:
            return f"a {type(value).__name__}"


def _quoted(value: float) -> str:
    return f'"{json.dumps(value)}"'


def _unquote(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return "; leave out the quotes"
