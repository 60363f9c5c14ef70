"""Names of models that a shell, a log or a header would misread: looked up as they are, and never run."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from llmux import Config, ModelConfig, build_app
from tests.e2e.conftest import DEADLINE

pytestmark = [pytest.mark.anyio, pytest.mark.fault(22)]


@pytest.mark.parametrize(
    "name",
    [
        "$(touch canary)",
        "`touch canary`",
        "; touch canary #",
        "' ; touch canary ; '",
        '" ; touch canary ; "',
        "m\ntouch canary",
        "m\r\nX-Evil: 1",
        "m\0",
        "../m",
        "m/../m",
        "| touch canary",
        "m ",
        "M",
        "\x1b[31mm",
    ],
)
async def test_unknown_names_are_looked_up_exactly_and_nothing_is_run(name: str, tmp_path: Path) -> None:
    noting = f"cd {tmp_path}; echo ran >> hooks; false"
    config = Config(models={"m": ModelConfig(port=1, wake=noting, sleep=noting, alive=noting)}, alive_interval_secs=0)
    app, switcher = await build_app(config)
    async with app.serving(host="127.0.0.1", port=0) as (host, port), httpx.AsyncClient(timeout=DEADLINE) as client:
        ran = await settled(tmp_path)
        base = f"http://{host}:{port}"
        for answer in (
            await client.post(f"{base}/v1/chat/completions", json={"model": name}),
            await client.get(f"{base}/v1/x", params={"model": name}),
            await client.get(f"{base}/upstream/{quote(name, safe='')}/x"),
        ):
            assert answer.status_code == 404
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            assert error["message"].isprintable()
            assert set(answer.headers) <= {"content-type", "content-length", "connection"}
        assert await settled(tmp_path) == ran, "no hook ran for it"
        assert not switcher.is_registered(name)
    assert not list(tmp_path.glob("**/canary"))
    assert not Path("canary").exists()


async def settled(folder: Path) -> str:
    """What the hooks have noted once the one of the start, which asks who is awake, has ended."""

    def noted() -> str:
        with contextlib.suppress(FileNotFoundError):
            return (folder / "hooks").read_text()
        return ""

    async with asyncio.timeout(DEADLINE):
        while not (found := await asyncio.to_thread(noted)):  # noqa: ASYNC110  (a file has no event)
            await asyncio.sleep(0.01)
    return found


async def test_a_configured_name_with_a_shell_in_it_is_only_a_name(tmp_path: Path) -> None:
    name = "$(touch canary); 'x' \"y\" `z`"
    wake = f'cd {tmp_path}; printf %s "$LLMUX_MODEL" > woken; false'
    model = ModelConfig(port=1, wake=wake, sleep="true", alive="false")
    app, _ = await build_app(Config(models={name: model}, alive_interval_secs=0))
    async with app.serving(host="127.0.0.1", port=0) as (host, port), httpx.AsyncClient(timeout=DEADLINE) as client:
        answer = await client.post(f"http://{host}:{port}/v1/x", content=json.dumps({"model": name}))
        assert answer.status_code == 503
        assert await asyncio.to_thread((tmp_path / "woken").read_text) == name
    assert not list(tmp_path.glob("**/canary"))
