"""The table of the admin API's operations, and the OpenAPI document that says the same."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from llmux.control.admin import answers

PREFIX = "/admin/v1"

MAX_LIMIT = 1_000_000
"""The most that may be asked for at a time."""

MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "The name of a model, or an alias. Slashes may be written as they are.",
    "schema": {"type": "string", "minLength": 1},
}
REQUEST = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The number of a request, as `/requests` has it.",
    "schema": {"type": "integer", "minimum": 0},
}
SINCE = {
    "name": "since",
    "in": "query",
    "description": "Unix time in seconds. Default: all that is known.",
    "schema": {"type": "number"},
}
LIMIT = {
    "name": "limit",
    "in": "query",
    "description": "At most so many. Default: all that are kept.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
}
REFUSE = {
    "name": "refuse",
    "in": "query",
    "description": "Refuse requests meanwhile. Default: they wait.",
    "schema": {"type": "boolean", "default": False},
}
OF_MODEL = {
    "name": "model",
    "in": "query",
    "description": "Only of this model. Default: of all.",
    "schema": {"type": "string", "minLength": 1},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `name` is that of the handler and the OpenAPI ``operationId``; `answer` is None for a stream."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    answer: type | None
    parameters: tuple[dict[str, Any], ...] = ()
    refusals: tuple[HTTPStatus, ...] = ()


#: What an order can run into: see `llmux.errors.SwitchError`.
_ORDER = (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
_BAD = (HTTPStatus.BAD_REQUEST,)
_UNKNOWN = (HTTPStatus.NOT_FOUND,)

OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/state", "state", "Everything at one moment", answers.State),
    Operation("GET", "/models", "models", "All models", answers.Models),
    Operation("GET", "/devices", "devices", "All devices", answers.Devices),
    Operation("GET", "/requests", "requests", "Requests that wait or are served", answers.Requests, (LIMIT,), _BAD),
    Operation("GET", "/costs", "costs", "What switches have cost", answers.Costs),
    Operation("GET", "/switches", "switches", "Recent switches", answers.Switches, (LIMIT,), _BAD),
    Operation(
        "GET",
        "/hooks",
        "hooks",
        "Recent hook runs, with their output",
        answers.HookRuns,
        (OF_MODEL, LIMIT),
        (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Operation("GET", "/timeline", "timeline", "Who was in what state when", answers.Timeline, (SINCE,), _BAD),
    Operation("GET", "/events", "events", "What happens, as server-sent events", None),
    Operation("GET", "/openapi.json", "openapi", "This description", dict),
    Operation("GET", "/models/{model}", "model", "One model", answers.ModelView, (MODEL,), _UNKNOWN),
    Operation(
        "POST", "/models/{model}/switch", "switch", "Wake a model, whoever waits", answers.Done, (MODEL,), _ORDER
    ),
    Operation("POST", "/models/{model}/sleep", "sleep", "Put a model to sleep", answers.Done, (MODEL,), _ORDER),
    Operation(
        "POST",
        "/models/{model}/free",
        "free",
        "Vouch that a lost or unconfirmed model holds no memory",
        answers.Done,
        (MODEL,),
        _ORDER,
    ),
    Operation("POST", "/models/{model}/look", "look", "Look at a lost model now", answers.Done, (MODEL,), _ORDER),
    Operation(
        "POST",
        "/models/{model}/pin",
        "pin",
        "Do not put a model to sleep for others",
        answers.Done,
        (MODEL,),
        _ORDER,
    ),
    Operation(
        "POST",
        "/models/{model}/unpin",
        "unpin",
        "Let a model be put to sleep for others again",
        answers.Done,
        (MODEL,),
        _ORDER,
    ),
    Operation(
        "POST",
        "/models/{model}/drain",
        "drain",
        "Let a model finish, put it to sleep, and hold its requests",
        answers.Done,
        (MODEL,),
        _ORDER,
    ),
    Operation(
        "POST",
        "/models/{model}/undrain",
        "undrain",
        "Give a drained model requests again",
        answers.Done,
        (MODEL,),
        _ORDER,
    ),
    Operation(
        "POST",
        "/release",
        "release",
        "Put everything to sleep, and wake nothing until it is resumed",
        answers.Done,
        (REFUSE,),
        (HTTPStatus.BAD_REQUEST, HTTPStatus.SERVICE_UNAVAILABLE),
    ),
    Operation(
        "POST",
        "/resume",
        "resume",
        "Wake models again for those who ask for them",
        answers.Done,
        (),
        (HTTPStatus.SERVICE_UNAVAILABLE,),
    ),
    Operation(
        "POST",
        "/requests/{id}/cancel",
        "cancel",
        "End a request that waits or is served",
        answers.Done,
        (REQUEST,),
        (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
    Operation(
        "POST",
        "/reload",
        "reload",
        "Read the configuration file again",
        answers.Done,
        (),
        (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
    ),
)

_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "A parameter is not what it should be.",
    HTTPStatus.UNAUTHORIZED: "An admin key is needed.",
    HTTPStatus.FORBIDDEN: "Without admin keys, only this machine may ask.",
    HTTPStatus.NOT_FOUND: "There is no such model or request.",
    HTTPStatus.CONFLICT: "There is no file to read again.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The file cannot be used; nothing was changed. The message has its faults.",
    HTTPStatus.SERVICE_UNAVAILABLE: "It could not be carried out; the message says why.",
}


def document(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 description of all `OPERATIONS`."""
    shapes = [answers.Refused, *dict.fromkeys(one.answer for one in OPERATIONS if one.answer not in (None, dict))]
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(f"{PREFIX}{one.path}", {})[one.method.lower()] = _described(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmux admin API", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"adminKey": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"adminKey": []}],
    }


def _described(one: Operation) -> dict[str, Any]:
    refusals = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, *one.refusals)
    return {
        "operationId": one.name,
        "summary": one.summary,
        "parameters": list(one.parameters),
        "responses": {
            "200": {"description": one.summary, "content": _content(one)},
            **{
                str(status.value): {
                    "description": _REFUSALS[status],
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refused"}}},
                }
                for status in refusals
            },
        },
    }


def _content(one: Operation) -> dict[str, Any]:
    if one.answer is None:
        return {"text/event-stream": {"schema": {"type": "string"}}}
    if one.answer is dict:
        return {"application/json": {"schema": {"type": "object"}}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{one.answer.__name__}"}}}
