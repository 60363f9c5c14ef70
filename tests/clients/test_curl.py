"""curl, as people type it: routes that no library has, a model's own pages, and Ollama's."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import World

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")]


async def curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-sS",
        "--fail-with-body",
        "--noproxy",
        "*",
        "--max-time",
        "30",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


ROUTES: list[tuple[str, dict[str, Any], str]] = [
    ("/rerank", {"query": "a", "documents": ["b", "c"]}, "relevance_score"),
    ("/score", {"text_1": "a", "text_2": ["b"]}, "score"),
    ("/tokenize", {"prompt": "one two"}, '"count":2'),
    ("/detokenize", {"tokens": [1, 2]}, '"prompt":"1 2"'),
    ("/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}, "org/beta heard: hello"),
    ("/completions", {"prompt": "hello"}, "org/beta heard: hello"),
    ("/embeddings", {"input": "hello"}, '"embedding"'),
    ("/responses", {"input": "hello"}, "org/beta heard: hello"),
    ("/moderations", {"input": "hello"}, "flagged"),
    ("/images/generations", {"prompt": "hello"}, "b64_json"),
    ("/completion", {"prompt": "hello"}, "org/beta heard: hello"),
    ("/completion", {"prompt": "hello", "stream": True}, 'data: {"content": " hello", "stop": false'),
    ("/infill", {"input_prefix": "hello"}, "org/beta heard: hello"),
    ("/apply-template", {"messages": [{"role": "user", "content": "hello"}]}, "<user>hello</user>"),
    ("/api/chat", {"messages": [{"role": "user", "content": "hello"}], "stream": False}, "org/beta heard: hello"),
    ("/api/chat", {"messages": [{"role": "user", "content": "hello"}]}, '"content": " hello"}}\n'),
    ("/api/generate", {"prompt": "hello"}, '"response": " hello"}\n'),
    ("/api/embed", {"input": "hello"}, "embeddings"),
]


async def test_every_route_is_routed_by_its_body(world: World) -> None:
    for path, body, expected in ROUTES:
        for prefix in ("",) if path.startswith("/api/") else ("", "/v1"):
            asked = json.dumps(body | {"model": "claude:latest"})
            answer = await curl(f"{world.url}{prefix}{path}", "-d", asked)  # as people type it: no content type
            assert expected in answer, path


async def test_forms(world: World, tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    sound.write_bytes(bytes(5000))
    for path, expected in (
        ("/v1/audio/transcriptions", "org/beta heard 5000 bytes of a.wav"),
        ("/audio/translations", "org/beta heard 5000 bytes"),
        ("/v1/images/variations", "b64_json"),
    ):
        answer = await curl(f"{world.url}{path}", "-F", f"file=@{sound}", "-F", "model=claude")
        assert expected in answer


async def test_a_models_own_pages(world: World) -> None:
    assert "A page of the model's own" in await curl(f"{world.url}/upstream/org/beta/")
    for name in ("org/beta", "org%2Fbeta", "claude", "claude:latest"):
        page = await curl("-L", "-w", "%{url_effective}", f"{world.url}/upstream/{name}")
        assert "A page of the model's own" in page
        assert page.endswith(f"{world.url}/upstream/{name}/")
    assert '"query":"a=b"' in await curl(f"{world.url}/upstream/alpha/props?a=b")
    assert '"total_slots":1' in await curl(f"{world.url}/props?model=claude")
    tokens = await curl(f"{world.url}/upstream/org%2Fbeta/tokenize", "-d", '{"prompt": "one two three"}')
    assert '"count":3' in tokens


async def test_what_ollamas_clients_ask(world: World) -> None:
    assert (await curl("-I", f"{world.url}/")).startswith("HTTP/1.1 200 OK")  # before anything else
    assert await curl(f"{world.url}/") == "llmux is running\n"
    tags = json.loads(await curl(f"{world.url}/api/tags"))
    assert [model["name"] for model in tags["models"]] == ["alpha", "org/beta"]
    assert json.loads(await curl(f"{world.url}/api/ps")) == {"models": []}
    assert "completion" in await curl(f"{world.url}/api/show", "-d", '{"model": "alpha:latest"}')
    said = json.loads(await curl(f"{world.url}/api/version"))["version"]
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", said), "strict readers take nothing else"
    assert not any(backend.counts for backend in world.backends.values())
