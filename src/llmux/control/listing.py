"""The models as clients see them: OpenAI's and Anthropic's list, what Ollama's clients ask before they chat, and the
way to their own pages.

Answered from the configuration and the scheduler's books alone: no backend is asked, and nothing is woken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmux.access import Key
from llmux.control.guard import KEY
from llmux.control.view import ControlView, ModelEntry
from llmux.errors import BadRequestError, ModelNotAllowedError, ModelNotFoundError
from llmux.messages import ModelState
from llmux.wire.names import other_spelling


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    """As in OpenAI's API reference, "The model object", and what llmux knows besides. `created` is in seconds since
    1970."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "llmux"
    state: ModelState
    aliases: tuple[str, ...]
    metadata: Mapping[str, Any]


class _ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[_Model]


class _AnthropicModel(msgspec.Struct, frozen=True, kw_only=True):
    """As in Anthropic's API reference, "Get a Model", and what llmux knows besides."""

    type: str = "model"
    id: str
    display_name: str
    created_at: str
    state: ModelState
    aliases: tuple[str, ...]
    metadata: Mapping[str, Any]


class _AnthropicList(msgspec.Struct, frozen=True):
    data: list[_AnthropicModel]
    first_id: str | None
    last_id: str | None
    has_more: bool = False


class Listing:
    """The handlers. The `created` time of all models is the time of this call."""

    def __init__(self, view: ControlView, version: str) -> None:
        self._view = view
        self._version = version
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        routes = []
        for prefix in ("/v1", ""):
            routes.append(Route(f"{prefix}/models", self.models))
            routes.append(Route(f"{prefix}/models/{{id:path}}", self.model))
        return [
            *routes,
            Route("/upstream/{id:path}", self.page),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.running),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/version", self.version),
        ]

    # --- OpenAI and Anthropic -------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        found = [self._described(request, entry, state) for entry, state in self._shown(request)]
        if _is_anthropic(request):
            data = [one for one in found if isinstance(one, _AnthropicModel)]
            return _json(_AnthropicList(data, data[0].id if data else None, data[-1].id if data else None))
        return _json(_ModelList(data=[one for one in found if isinstance(one, _Model)]))

    async def model(self, request: Request) -> Response:
        entry = self._wanted(request, request.path_params["id"])
        return _json(self._described(request, entry, self._states()[entry.name]))

    async def page(self, request: Request) -> Response:
        """A model's own pages are below `/upstream/<model>/`, with that slash: their links may be relative to it."""
        self._wanted(request, request.path_params["id"])
        last = request.scope["raw_path"].rpartition(b"/")[2].decode("latin-1")
        query = f"?{request.url.query}" if request.url.query else ""
        # Relative, as there may be a proxy that has put llmux below a path of its own.
        return Response(status_code=HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": f"./{last}/{query}"})

    def _described(self, request: Request, entry: ModelEntry, state: ModelState) -> _Model | _AnthropicModel:
        if not _is_anthropic(request):
            return _Model(
                id=entry.name, created=self._started, state=state, aliases=entry.aliases, metadata=entry.metadata
            )
        return _AnthropicModel(
            id=entry.name,
            display_name=entry.name,
            created_at=self._since(),
            state=state,
            aliases=entry.aliases,
            metadata=entry.metadata,
        )

    # --- Ollama ---------------------------------------------------------------------------------------------------

    async def tags(self, request: Request) -> Response:
        return _json({"models": [self._tag(entry) for entry, _ in self._shown(request)]})

    async def running(self, request: Request) -> Response:
        awake = [entry for entry, state in self._shown(request) if state in (ModelState.AWAKE, ModelState.DRAINING)]
        return _json({"models": [self._tag(entry) | {"size_vram": 0} for entry in awake]})

    async def show(self, request: Request) -> Response:
        """What `metadata` says under the names that Ollama has for it. A model's own answer is under `/upstream`."""
        try:
            asked = msgspec.json.decode(await request.body())
        except msgspec.MsgspecError as error:
            raise BadRequestError(f"the request's body is not valid JSON: {error}") from None
        name = asked.get("model") or asked.get("name") if isinstance(asked, dict) else None
        if not isinstance(name, str):
            raise BadRequestError("'model' must be a string", param="model")
        entry = self._wanted(request, name)
        said = {
            "capabilities": entry.metadata.get("capabilities", ["completion"]),
            "model_info": entry.metadata.get("model_info", {}),
        }
        texts = {"license": "", "modelfile": "", "parameters": "", "template": ""}
        return _json(texts | {"details": self._tag(entry)["details"], "modified_at": self._since()} | said)

    async def version(self, request: Request) -> Response:
        return _json({"version": self._version})

    def _tag(self, entry: ModelEntry) -> dict[str, Any]:
        """An entry of Ollama's lists. What llmux does not know (sizes, digests) is empty, as clients want the keys."""
        unknown = {"parent_model": "", "format": "", "family": "", "families": None}
        details = unknown | {"parameter_size": "", "quantization_level": ""}
        said = entry.metadata.get("details")
        return {
            "name": entry.name,
            "model": entry.name,
            "modified_at": self._since(),
            "size": 0,
            "digest": "",
            "details": details | (said if isinstance(said, dict) else {}),
        }

    # --- what all of them need ------------------------------------------------------------------------------------

    def _shown(self, request: Request) -> Iterator[tuple[ModelEntry, ModelState]]:
        """The models that the request's key opens, by name."""
        key: Key | None = request.scope[KEY]
        states = self._states()
        for entry in sorted(self._view.models(), key=lambda entry: entry.name):
            if (key is None or key.opens(entry.name)) and entry.name in states:
                yield entry, states[entry.name]

    def _wanted(self, request: Request, name: str) -> ModelEntry:
        key: Key | None = request.scope[KEY]
        states = self._states()
        for spelling in (name, other_spelling(name)):
            for entry in self._view.models():
                if entry.name in states and (spelling == entry.name or spelling in entry.aliases):
                    if key is not None and not key.opens(entry.name):
                        raise ModelNotAllowedError(f"this key does not open the model {name!r}")
                    return entry
        raise ModelNotFoundError(name)

    def _states(self) -> dict[str, ModelState]:
        return {model.name: model.state for model in self._view.snapshot().models}

    def _since(self) -> str:
        return datetime.fromtimestamp(self._started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), status_code=HTTPStatus.OK, media_type="application/json")
