"""The routes of a simulated backend that are not chat, completions, embeddings or transcriptions: the rest of OpenAI's,
and Anthropic's, Ollama's and llama.cpp's own. Private to `llmux.testing.backend`.

They say the same things in other shapes, as far as clients look at them.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from llmux.testing._answers import Answer, Wording, last_text
from llmux.testing._exchange import Exchange, error_response, question_of

MISTAKES = (KeyError, TypeError, ValueError, AttributeError)
"""What handlers raise for a body that is not what they expect."""


class Speaker(Protocol):
    """What the routes need of their backend."""

    models: tuple[str, ...]
    strict_model: bool

    def answer(self, model: str, prompt: str, limit: Any, *, chat: bool) -> Answer:
        """What is said to `prompt`."""

    async def say(self, exchange: Exchange, answer: Answer, wording: Wording | bytes) -> Response:
        """Say it: streamed in a `wording`, or whole, as these bytes of JSON."""


def routes(speaker: Speaker) -> list[Route]:
    """All of them, with and without /v1."""
    made = [Route("/", _page), Route("/props", _props)]
    for path, handler in _HANDLERS.items():

        async def endpoint(request: Request, handler: _Handler = handler) -> Response:
            question = await _read(request)
            model = str(question.get("model") or speaker.models[0])
            request.scope["llmux.exchange"].record.model = model
            if speaker.strict_model and model not in speaker.models:
                return error_response(404, f"The model `{model}` does not exist.")
            answer = handler(question, model)
            if isinstance(answer, _Said):
                exchange: Exchange = request.scope["llmux.exchange"]
                said = speaker.answer(model, answer.prompt, answer.limit, chat=answer.chat)
                wording = answer.wording(said) if answer.streamed else json.dumps(answer.whole(said)).encode()
                return await speaker.say(exchange, said, wording)
            return answer if isinstance(answer, Response) else JSONResponse(answer)

        made += [Route(prefix + path, endpoint, methods=["POST"]) for prefix in ("", "/v1")]
    return made


async def refuse(request: Request, mistake: Exception) -> Response:
    """What a body is answered with that handlers make nothing of, as the API that was asked writes it."""
    why = f"`{mistake.args[0]}` is needed." if isinstance(mistake, KeyError) else f"This cannot be read: {mistake}"
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": why}, status_code=400)
    if "/messages" in request.url.path:
        return JSONResponse({"type": "error", "error": {"type": "invalid_request_error", "message": why}}, 400)
    return error_response(400, why)


class _Said:
    """An answer of words, and how this API writes it."""

    def __init__(
        self,
        prompt: str,
        limit: Any,
        whole: Callable[[Answer], Any],
        wording: Callable[[Answer], Wording],
        *,
        streamed: bool,
        chat: bool = True,
    ) -> None:
        self.prompt = prompt
        self.limit = limit
        self.whole = whole
        self.wording = wording
        self.streamed = streamed
        self.chat = chat


_Handler = Callable[[dict[str, Any], str], "_Said | Response | dict[str, Any]"]


async def _read(request: Request) -> dict[str, Any]:
    if not request.headers.get("content-type", "").startswith("multipart/"):
        return await question_of(request)
    async with request.form() as form:
        return {
            name: await value.read() if isinstance(value, UploadFile) else value for name, value in form.multi_items()
        }


async def _page(request: Request) -> Response:
    return HTMLResponse("<!doctype html><title>simulated</title><h1>A page of the model's own</h1>")


async def _props(request: Request) -> Response:
    return JSONResponse({"total_slots": 1, "query": request.url.query})


def _text(said: Answer) -> str:
    return "".join(said.pieces)


# --- Anthropic --------------------------------------------------------------------------------------------------------


def _messages(question: dict[str, Any], model: str) -> _Said:
    def message(said: Answer, content: list[Any], stop: str | None, tokens: int) -> dict[str, Any]:
        usage = {"input_tokens": said.prompt_tokens, "output_tokens": tokens}
        frame = {"id": f"msg_{said.serial}", "type": "message", "role": "assistant", "model": model}
        return frame | {"content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage}

    def whole(said: Answer) -> dict[str, Any]:
        return message(said, [{"type": "text", "text": _text(said)}], "end_turn", len(said.pieces))

    def wording(said: Answer) -> Wording:
        block = {"type": "text", "text": ""}
        ended = {"stop_reason": "end_turn", "stop_sequence": None}
        return Wording(
            "text/event-stream",
            _event("message_start", message=message(said, [], None, 0))
            + _event("content_block_start", index=0, content_block=block),
            lambda piece: _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece}),
            _event("content_block_stop", index=0)
            + _event("message_delta", delta=ended, usage={"output_tokens": len(said.pieces)})
            + _event("message_stop"),
        )

    streamed = bool(question.get("stream"))
    return _Said(last_text(question["messages"]), question.get("max_tokens"), whole, wording, streamed=streamed)


def _count(question: dict[str, Any], model: str) -> dict[str, Any]:
    return {"input_tokens": len(last_text(question["messages"]).split())}


def _event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | more)}\n\n".encode()


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def _responses(question: dict[str, Any], model: str) -> _Said:
    def response(said: Answer, status: str, text: str | None) -> dict[str, Any]:
        part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
        item = {"id": f"msg_{said.serial}", "type": "message", "role": "assistant", "status": status, "content": [part]}
        frame = {"id": f"resp_{said.serial}", "object": "response", "created_at": 0, "model": model, "status": status}
        usage = {"input_tokens": said.prompt_tokens, "output_tokens": len(said.pieces)}
        counted = usage | {"total_tokens": said.prompt_tokens + len(said.pieces)}
        rest = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
        return frame | rest | {"output": [] if text is None else [item], "usage": counted}

    def wording(said: Answer) -> Wording:
        where = {"item_id": f"msg_{said.serial}", "output_index": 0, "content_index": 0, "sequence_number": 1}
        item = {"id": where["item_id"], "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
        return Wording(
            "text/event-stream",
            _event("response.created", sequence_number=0, response=response(said, "in_progress", None))
            + _event("response.output_item.added", output_index=0, sequence_number=1, item=item)
            + _event("response.content_part.added", **where, part=part),
            lambda piece: _event("response.output_text.delta", **where, delta=piece, logprobs=[]),
            _event("response.completed", sequence_number=2, response=response(said, "completed", _text(said))),
        )

    given = question["input"]
    prompt = given if isinstance(given, str) else last_text(given)
    limit = question.get("max_output_tokens")
    return _Said(
        prompt,
        limit,
        lambda said: response(said, "completed", _text(said)),
        wording,
        streamed=bool(question.get("stream")),
    )


def _moderations(question: dict[str, Any], model: str) -> dict[str, Any]:
    return {"id": "modr-1", "model": model, "results": [{"flagged": False, "categories": {}, "category_scores": {}}]}


def _image(question: dict[str, Any], model: str) -> dict[str, Any]:
    drawn = f"{model} drew {question.get('prompt', 'a variation')}"
    if isinstance(given := question.get("image"), bytes):
        drawn += f" over {len(given)} bytes"
    return {"created": 0, "data": [{"b64_json": base64.b64encode(drawn.encode()).decode()}]}


def _speech(question: dict[str, Any], model: str) -> Response:
    return Response(f"{model} says {question['input']}".encode(), media_type="audio/wav")


def _translation(question: dict[str, Any], model: str) -> dict[str, Any]:
    return {"text": f"{model} heard {len(question['file'])} bytes"}


# --- vLLM and llama.cpp -----------------------------------------------------------------------------------------------


def _scores(query: Any, texts: list[Any]) -> Iterator[float]:
    for text in texts:
        yield zlib.crc32(f"{query} {text}".encode()) / 2**32


def _rerank(question: dict[str, Any], model: str) -> dict[str, Any]:
    scores = _scores(question["query"], question["documents"])
    return {"model": model, "results": [{"index": i, "relevance_score": score} for i, score in enumerate(scores)]}


def _score(question: dict[str, Any], model: str) -> dict[str, Any]:
    given = question["text_2"]
    scores = _scores(question["text_1"], given if isinstance(given, list) else [given])
    return {"model": model, "data": [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]}


def _tokenize(question: dict[str, Any], model: str) -> dict[str, Any]:
    tokens = [zlib.crc32(word.encode()) % 50_000 for word in question["prompt"].split()]
    return {"tokens": tokens, "count": len(tokens), "max_model_len": 4096}


def _detokenize(question: dict[str, Any], model: str) -> dict[str, Any]:
    return {"prompt": " ".join(str(token) for token in question["tokens"])}


def _completion(question: dict[str, Any], model: str) -> _Said:
    def line(text: str, stop: bool) -> dict[str, Any]:
        return {"content": text, "stop": stop, "model": model}

    prompt = str(question.get("prompt", question.get("input_prefix", "")))
    return _Said(
        prompt,
        question.get("n_predict"),
        lambda said: line(_text(said), True),
        lambda said: Wording(
            "text/event-stream",
            b"",
            lambda piece: b"data: " + json.dumps(line(piece, False)).encode() + b"\n\n",
            b"data: " + json.dumps(line("", True)).encode() + b"\n\n",
        ),
        streamed=bool(question.get("stream")),
        chat=False,
    )


def _template(question: dict[str, Any], model: str) -> dict[str, Any]:
    return {"prompt": f"<user>{last_text(question['messages'])}</user>"}


# --- Ollama -----------------------------------------------------------------------------------------------------------


def _ollama(question: dict[str, Any], model: str) -> _Said:
    chat = "messages" in question

    def line(text: str, done: bool, said: Answer) -> dict[str, Any]:
        words = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        counts = {"prompt_eval_count": said.prompt_tokens, "eval_count": len(said.pieces), "done_reason": "stop"}
        frame = {"model": model, "created_at": "2025-01-01T00:00:00Z", "done": done}
        return frame | words | (counts if done else {})

    def wording(said: Answer) -> Wording:
        return Wording(
            "application/x-ndjson",
            b"",
            lambda piece: json.dumps(line(piece, False, said)).encode() + b"\n",
            json.dumps(line("", True, said)).encode() + b"\n",
        )

    prompt = last_text(question["messages"]) if chat else str(question.get("prompt", ""))
    limit = (question.get("options") or {}).get("num_predict")
    streamed = bool(question.get("stream", True))
    return _Said(prompt, limit, lambda said: line(_text(said), True, said), wording, streamed=streamed, chat=chat)


def _embed(question: dict[str, Any], model: str) -> dict[str, Any]:
    given = question["input"]
    texts = given if isinstance(given, list) else [given]
    return {"model": model, "embeddings": [list(_scores(model, [text] * 4)) for text in texts]}


_HANDLERS: dict[str, _Handler] = {
    "/messages": _messages,
    "/messages/count_tokens": _count,
    "/responses": _responses,
    "/moderations": _moderations,
    "/images/generations": _image,
    "/images/edits": _image,
    "/images/variations": _image,
    "/audio/speech": _speech,
    "/audio/translations": _translation,
    "/rerank": _rerank,
    "/score": _score,
    "/tokenize": _tokenize,
    "/detokenize": _detokenize,
    "/completion": _completion,
    "/infill": _completion,
    "/apply-template": _template,
    "/api/chat": _ollama,
    "/api/generate": _ollama,
    "/api/embed": _embed,
}
