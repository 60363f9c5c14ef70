"""Backends whose address is known only once they run: the wake hook tells it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from llmux.testing import SimulatedBackend
from tests.e2e.conftest import llmux_process
from tests.e2e.test_process import client_of, lines
from tests.e2e.test_reload import ask, reload, serving

pytestmark = pytest.mark.anyio

NOWHERE = 9


def hooks(folder: Path) -> dict[str, str]:
    """Hooks that are told by files what to do. `address` has where the backend is, `up` says that it is."""

    def noting(script: str) -> str:
        return f'echo "$LLMUX_HOOK $LLMUX_MODEL $LLMUX_PORT" >> {folder}/journal; {script}'

    return {
        "wake": noting(f'cat {folder}/address > "$LLMUX_BACKEND_FILE"; touch {folder}/up'),
        "sleep": noting(f"rm -f {folder}/up"),
        "alive": f"test -e {folder}/up",
    }


def quiet(port: int) -> dict[str, object]:
    return {"port": port, "wake": "true", "sleep": "true", "alive": "false"}


async def test_requests_go_where_the_last_wake_hook_has_said(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    first, second, other = SimulatedBackend("first"), SimulatedBackend("second"), SimulatedBackend("b")
    async with first.serving() as (_, one), second.serving() as (_, two), other.serving() as (_, port):
        a = {"port": NOWHERE, "canary": True, **hooks(tmp_path)}
        models = {"a": a, "b": quiet(port)}
        (tmp_path / "address").write_text(f"http://127.0.0.1:{one}\n")
        async with serving(path, models) as server, client_of(server) as client:
            assert (await ask(client, "a")).status_code == 200
            assert (await server.wait_for("hook_completed"))["backend"] == f"http://127.0.0.1:{one}"
            assert len(first.requests) == 2, "the canary was sent there, too"
            # What the file says of the model counts from its next wake, and of where it is not even then.
            await reload(server, path, models | {"a": a | {"port": NOWHERE + 1}})
            assert (await ask(client, "a")).status_code == 200
            (tmp_path / "address").write_text(f"http://localhost:{two}\n")
            assert (await ask(client, "b")).status_code == 200
            assert (await ask(client, "a")).status_code == 200
            assert (len(first.requests), len(second.requests)) == (3, 2)
            assert (await ask(client, "b")).status_code == 200
        assert await lines(tmp_path / "journal") == [
            f"wake a {NOWHERE}",
            f"sleep a {one}",
            f"wake a {NOWHERE + 1}",
            f"sleep a {two}",
        ]


async def test_another_llmux_has_it_told_again(tmp_path: Path) -> None:
    """Nothing is remembered: a model that is found awake is woken once more before it is given a request."""
    path = tmp_path / "config.json"
    backend = SimulatedBackend("a")
    async with backend.serving() as (_, port):
        (tmp_path / "address").write_text(f"http://127.0.0.1:{port}\n")
        for count in (1, 2):
            async with (
                serving(path, {"a": {"port": NOWHERE, **hooks(tmp_path)}}) as server,
                client_of(server) as client,
            ):
                assert (await ask(client, "a")).status_code == 200
                assert await server.stop() == 0
            assert len(backend.requests) == count
        assert await lines(tmp_path / "journal") == [f"wake a {NOWHERE}"] * 2


async def test_a_backend_that_leaves_its_place_is_woken_and_not_looked_for_elsewhere(tmp_path: Path) -> None:
    """The file's port is not tried in its stead, whatever the file says by now."""
    path = tmp_path / "config.json"
    strange, moved = SimulatedBackend("strange"), SimulatedBackend("a")
    async with strange.serving() as (_, port):
        a = {"port": port, **hooks(tmp_path)}
        async with serving(path, {"a": a}) as server, client_of(server) as client:
            async with SimulatedBackend("a").serving() as (_, was):
                (tmp_path / "address").write_text(f"http://127.0.0.1:{was}\n")
                assert (await ask(client, "a")).status_code == 200
                await reload(server, path, {"a": a | {"url": f"http://localhost:{port}", "port": None}})
            (tmp_path / "up").unlink()
            assert (await ask(client, "a")).status_code == 502
            async with moved.serving() as (_, now):
                (tmp_path / "address").write_text(f"http://127.0.0.1:{now}\n")
                for _ in range(200):
                    if (await ask(client, "a")).status_code == 200:
                        break
                assert len(moved.requests) == 1
        assert strange.requests == []


async def test_what_is_no_address_is_a_failed_wake(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    (tmp_path / "address").write_text("gpu01\n")
    path.write_text(json.dumps({"models": {"a": {"port": NOWHERE, **hooks(tmp_path)}}, "port": 0}))
    async with llmux_process("-c", str(path)) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        answer = await ask(client, "a")
        assert answer.status_code == 503
        assert "LLMUX_BACKEND_FILE" in answer.json()["error"]["message"]
        assert "gpu01" not in answer.text, "what a hook writes is for the operator"
        assert "must begin with http://" in (await server.wait_for("hook_failed"))["stderr"]
    assert await lines(tmp_path / "journal") == [f"wake a {NOWHERE}", f"sleep a {NOWHERE}"]
