"""The fields that say what clients are told of a model, and what becomes of the bodies that they send it.

Kinds of values for `llmux.config.model` and `toplevel`, each with its description. Pure.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool

from llmux.config.fields import Name

_LARGEST = 64 * 1024


def _is_json(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must be JSON: text, finite numbers, true, false, null, lists and mappings") from None
    if size > _LARGEST:
        raise ValueError(f"must be no larger than {_LARGEST} bytes")
    return value


def _not_the_model(name: str) -> str:
    if name == "model":
        raise ValueError("the model's name is what `send_model_as` is for")
    return name


def _puts_no_model(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        _not_the_model(name)
    return value


Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_is_json),
    Field(
        description="What clients are told of the model, as `metadata` of its entry in `/v1/models`: anything that is "
        "JSON. Default: nothing.",
        examples=[{"context_length": 131072, "capabilities": ["completion", "tools"]}],
    ),
]
StripParams = Annotated[
    list[Annotated[Name, AfterValidator(_not_the_model)]],
    Field(
        description="Members that are taken out of JSON bodies before the backend sees them, such as sampling "
        "parameters that it does not know. Default: none.",
        examples=[["temperature", "logit_bias"]],
    ),
]
SetParams = Annotated[
    dict[str, Any],
    AfterValidator(_is_json),
    AfterValidator(_puts_no_model),
    Field(
        description="Members that are put into JSON bodies, in the place of what the client has sent under these "
        "names. Default: none.",
        examples=[{"temperature": 0.7, "chat_template_kwargs": {"enable_thinking": False}}],
    ),
]
KeepAliases = Annotated[
    StrictBool,
    Field(
        description="Whether a request that names the model by an alias reaches the backend with that alias, as it "
        "must where aliases are the names of LoRA adapters. Else the backend gets the name that it knows: "
        "`send_model_as`, or the model's own. Default: false.",
        examples=[True],
    ),
]
DefaultModel = Annotated[
    Name | None,
    Field(
        description="Model (or alias) for requests that name none; it is put into a JSON body. Only for methods that "
        "ask for work, such as POST, and for WebSockets. null = such requests are answered with 404. Default: null.",
        examples=["llama"],
    ),
]
