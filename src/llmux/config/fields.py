"""The kinds of values that fields of the configuration have, and what all its sections have in common.

Pure. Validators raise ValueError with a message for whoever wrote the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictFloat,
    Tag,
    WithJsonSchema,
)

from llmux.addresses import parse_network
from llmux.config.sizes import SIZE_PATTERN, parse_size

#: What pydantic puts into the place of an error in `needs`, to say which form it took it for.
BY_DEVICE = "<needs by device>"
ON_ONE_DEVICE = "<needs on one device>"
_LONGEST = 1e9  # 31 years: what is longer means the same, and event loops count milliseconds in 64 bits


def _check_name(name: str) -> str:
    if not name:
        raise ValueError("a name must not be empty")
    if not name.isprintable():
        raise ValueError("a name must not have control characters")
    return name


def _check_device(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", name):
        raise ValueError("a device's name is made of letters, digits and _ . : -")
    return name


def _check_script(script: str) -> str:
    if "\0" in script or any("\ud800" <= character <= "\udfff" for character in script):
        raise ValueError("a script must not have NUL characters or lone surrogates")
    return script


def _check_network(text: str) -> str:
    parse_network(text)
    return text


def _check_file(name: str) -> str:
    if not name.isprintable() or Path(name).name in ("", ".."):
        raise ValueError("must name a file, and must not have control characters")
    return name


def _read_size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a size such as 24GiB, 500MB or a number of bytes")
    return parse_size(value)


def _no_longer(seconds: float) -> float:
    return min(seconds, _LONGEST)


def _needs_kind(value: object) -> str:
    return BY_DEVICE if isinstance(value, dict) else ON_ONE_DEVICE


def without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def or_true(schema: dict[str, Any]) -> None:
    schema["anyOf"].insert(0, {"type": "boolean"})


Name = Annotated[str, AfterValidator(_check_name)]
DeviceName = Annotated[str, AfterValidator(_check_device)]
Script = Annotated[str, AfterValidator(_check_script)]
FileName = Annotated[str, AfterValidator(_check_file)]
Size = Annotated[
    int,
    BeforeValidator(_read_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": SIZE_PATTERN}]}),
]
Duration = Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False), AfterValidator(_no_longer)]
Limit = Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False), AfterValidator(_no_longer)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
NotNegative = Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False)]
NetworkName = Annotated[str, AfterValidator(_check_network)]
Needs = Annotated[
    Annotated[dict[DeviceName, Size], Tag(BY_DEVICE)] | Annotated[Size, Tag(ON_ONE_DEVICE)],
    Discriminator(_needs_kind),
]
Devices = Annotated[dict[DeviceName, Size], Field(min_length=1)]
Aliases = list[Name]


class Section(BaseModel):
    """What all parts of the configuration have in common: unknown keys are errors, and nothing changes later."""

    # They are read as parts of the whole: to build for each a validator of its own, too, takes 20 to 40 ms.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
