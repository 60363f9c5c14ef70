"""A simulated backend's realtime API: as much of it as a conversation in text takes.

Private to `llmux.testing.backend`. For it, uvicorn needs a package that speaks WebSocket: `websockets`, or `wsproto`.
llmux itself needs neither, so it does without where none is installed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from llmux.testing._answers import Answer, last_text
from llmux.testing._exchange import error_response

PATHS = ("/v1/realtime", "/realtime")


class Voice(Protocol):
    """What a session needs of its backend."""

    models: tuple[str, ...]
    strict_model: bool
    tokens_per_second: float

    def answer(self, model: str, prompt: str, limit: Any, *, chat: bool) -> Answer:
        """What is said to `prompt`."""


def routes(voice: Voice) -> list[BaseRoute]:
    """With and without /v1."""

    async def endpoint(socket: WebSocket) -> None:
        model = socket.query_params.get("model") or voice.models[0]
        if voice.strict_model and model not in voice.models:
            await socket.send_denial_response(error_response(404, f"The model `{model}` does not exist."))
            return
        await _Session(voice, socket, model).run()

    return [one for path in PATHS for one in (WebSocketRoute(path, endpoint), Route(path, _no_socket))]


async def _no_socket(request: Request) -> Response:
    return error_response(426, "Open this as a WebSocket. The backend needs the package `websockets` for it.")


class _Session:
    """One conversation. Events have the names of the API, and those of its beta for clients that ask for it."""

    def __init__(self, voice: Voice, socket: WebSocket, model: str) -> None:
        self._voice = voice
        self._socket = socket
        self._session = {"id": "sess_1", "object": "realtime.session", "type": "realtime", "model": model}
        self._model = model
        self._events = itertools.count(1)
        self._items: list[Any] = []
        beta = "realtime" in socket.headers.get("openai-beta", "")
        self._text = "response.text" if beta else "response.output_text"

    async def run(self) -> None:
        """Talk until the client leaves."""
        offered = self._socket.scope["subprotocols"]
        await self._socket.accept("realtime" if "realtime" in offered else None)
        try:
            await self._say("session.created", session=self._session)
            while True:
                await self._hear(await self._socket.receive_text())
        except WebSocketDisconnect:
            pass

    async def _hear(self, text: str) -> None:
        try:
            event = json.loads(text)
            kind = event["type"]
            match kind:
                case "session.update":
                    self._session |= event["session"]
                    await self._say("session.updated", session=self._session)
                case "conversation.item.create":
                    self._items.append(event["item"])
                    await self._say("conversation.item.added", item=event["item"], previous_item_id=None)
                case "response.create":
                    asked = event.get("response") or {}
                    await self._respond(self._prompt(asked), asked.get("max_output_tokens"))
                case _ if kind.startswith("input_audio_buffer."):
                    pass  # it hears nothing, but that is no mistake
                case _:
                    raise ValueError(f"there is no event {kind!r}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            told = {"type": "invalid_request_error", "message": f"{type(error).__name__}: {error}", "param": None}
            await self._say("error", error=told)

    def _prompt(self, asked: dict[str, Any]) -> str:
        return last_text(asked.get("input") or self._items) or str(asked.get("instructions") or "")

    async def _respond(self, prompt: str, limit: Any) -> None:
        said = self._voice.answer(self._model, prompt, None if limit == "inf" else limit, chat=True)
        response = {"id": f"resp_{said.serial}", "object": "realtime.response", "status": "in_progress", "output": []}
        where = {"response_id": response["id"], "item_id": f"item_{said.serial}", "output_index": 0, "content_index": 0}
        await self._say("response.created", response=response)
        for piece in said.pieces:
            await asyncio.sleep(1 / self._voice.tokens_per_second)
            await self._say(f"{self._text}.delta", **where, delta=piece)
        text = "".join(said.pieces)
        await self._say(f"{self._text}.done", **where, text=text)
        part = {"type": "output_text", "text": text}
        item = {
            "id": where["item_id"],
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        self._items.append(item)
        tokens = {"input_tokens": said.prompt_tokens, "output_tokens": len(said.pieces)}
        usage = tokens | {"total_tokens": sum(tokens.values())}
        await self._say("response.done", response=response | {"status": "completed", "output": [item], "usage": usage})

    async def _say(self, kind: str, **more: Any) -> None:
        await self._socket.send_json({"type": kind, "event_id": f"event_{next(self._events)}", **more})
