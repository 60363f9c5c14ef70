"""Who owns the GPU, and whether a model serves: real hooks, real sockets, real backends.

The marks name rows of the table of faults; tests/core/test_ownership.py has the same, and more, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from llmux import Config, ModelConfig, build_app
from llmux.core import CoreSettings
from llmux.errors import DeviceLostError
from llmux.messages import HookEnded, ModelDied, ModelState, Outcome, RunHook
from llmux.settings import core_settings
from llmux.switcher import Switcher
from llmux.testing import Fault, SimulatedBackend
from tests.e2e.conftest import DEADLINE

pytestmark = pytest.mark.anyio


class World:
    """An llmux in this process, with all that its core was told and said, and what its hooks wrote into the journal."""

    def __init__(self, client: httpx.AsyncClient, switcher: Switcher, journal: Path) -> None:
        self.client = client
        self.switcher = switcher
        self.messages: list[Any] = []
        self._journal = journal
        self._grown = asyncio.Event()
        switcher.subscribe(self._watch)

    def _watch(self, now: float, message: Any) -> None:
        self.messages.append(message)
        self._grown.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._grown.clear()
                await self._grown.wait()

    def ended(self, hook: str, model: str) -> int:
        """How many runs of a hook are over."""
        runs = {m.run_id for m in self.messages if isinstance(m, RunHook) and (m.hook, m.model) == (hook, model)}
        return sum(isinstance(m, HookEnded) and m.run_id in runs for m in self.messages)

    async def chat(self, model: str, **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        return await self.client.post("/v1/chat/completions", json=body)

    async def journal(self) -> list[str]:
        return (await asyncio.to_thread(self._journal.read_text)).split("\n")[:-1]


@contextlib.asynccontextmanager
async def world(
    folder: Path, models: dict[str, dict[str, Any]], *backends: SimulatedBackend, **config: Any
) -> AsyncIterator[World]:
    """`models` say what differs: a model is served by the backend of its place, and its hooks note that they ran."""
    journal = folder / "journal"
    async with contextlib.AsyncExitStack() as stack:
        made: dict[str, ModelConfig] = {}
        for (name, model), backend in zip(models.items(), backends, strict=True):
            _, port = await stack.enter_async_context(backend.serving())
            plain = {"port": port, "wake": "true", "sleep": "true", "alive": "true"} | model
            noted: dict[str, Any] = {
                key: f'echo "$LLMUX_HOOK $LLMUX_MODEL" >> {journal}; {value}'
                if key in ("wake", "sleep", "verify")
                else value
                for key, value in plain.items()
            }
            made[name] = ModelConfig(**noted)
        app, switcher = await build_app(Config(models=made, **{"alive_interval_secs": 0, **config}))
        host, port = await stack.enter_async_context(app.serving(host="127.0.0.1", port=0))
        client = httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=DEADLINE)
        yield World(await stack.enter_async_context(client), switcher, journal)


def fast(name: str = "m") -> SimulatedBackend:
    return SimulatedBackend(name, tokens_per_second=1e6)


def honest(model: str, folder: Path) -> dict[str, Any]:
    """Hooks of a model that says honestly whether it is up."""
    up = folder / f"up-{model}"
    return {"wake": f"touch {up}", "sleep": f"rm -f {up}", "alive": f"test -e {up}"}


# --- verify ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(43)
async def test_memory_that_comes_free_late_is_waited_for(tmp_path: Path) -> None:
    held = tmp_path / "held"
    a = honest("a", tmp_path) | {"verify": f"test ! -e {held}"}
    a["wake"] += f"; touch {held}"
    async with world(tmp_path, {"a": a, "b": honest("b", tmp_path)}, fast(), fast()) as w:
        assert (await w.chat("a")).status_code == 200
        waiting = asyncio.create_task(w.chat("b"))
        await w.until(lambda: w.ended("verify", "a") >= 3)
        assert w.switcher.model_states() == {"a": ModelState.SLEEPING, "b": ModelState.ASLEEP}
        assert 'llmux_hook_duration_seconds_count{hook="verify",model="a"}' in (await w.client.get("/metrics")).text
        assert not [line for line in await w.journal() if line == "wake b"]
        await asyncio.to_thread(held.unlink)
        assert (await waiting).status_code == 200
        journal = await w.journal()
        assert journal.index("wake b") > max(i for i, line in enumerate(journal) if line == "verify a")
        assert journal.count("sleep a") == 1


@pytest.mark.fault(43, 44)
async def test_memory_that_never_comes_free_is_lost_and_shown_and_found_again_when_a_check_passes(
    tmp_path: Path,
) -> None:
    held = tmp_path / "held"
    a = honest("a", tmp_path) | {"verify": f"test ! -e {held}"}
    a["wake"] += f"; touch {held}"
    a["hook_timeout_secs"] = {"verify": 0.2}
    async with world(tmp_path, {"a": a, "b": honest("b", tmp_path)}, fast(), fast()) as w:
        assert (await w.chat("a")).status_code == 200
        refused = await w.chat("b")
        assert refused.status_code == 503
        assert "memory of a is not free" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert (await w.chat("b")).json()["error"]["code"] == "device_lost"

        ready = await w.client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"] == ["device lost: default (it may be held by a)"]
        shown = ready.json()["models"][0]
        assert shown["state"] == "lost"
        assert "verify hook failed" in shown["lost"]["error"]
        assert shown["lost"]["since_secs"] >= 0
        assert ready.json()["devices"][0]["lost_models"] == ["a"]
        metrics = (await w.client.get("/metrics")).text
        assert 'llmux_device_lost{device="default"} 1.0' in metrics
        assert 'llmux_model_state{model="a",state="lost"} 1.0' in metrics
        assert "wake b" not in await w.journal()

        with pytest.raises(DeviceLostError, match="memory of a"):
            await w.switcher.look_again("a")
        await asyncio.to_thread(held.unlink)
        async with asyncio.timeout(DEADLINE):
            while w.switcher.model_states()["a"] is not ModelState.ASLEEP:
                with contextlib.suppress(DeviceLostError):  # the check has not ended in its 0.2 s
                    await w.switcher.look_again("a")
        assert w.switcher.model_states()["a"] is ModelState.ASLEEP
        assert (await w.client.get("/ready")).status_code == 200
        assert (await w.chat("b")).status_code == 200


@pytest.mark.fault(44)
async def test_memory_that_was_lost_is_found_again_without_an_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llmux looks again by itself: here after a tenth of a second, where it would be ten."""

    def hasty(config: Config) -> CoreSettings:
        return msgspec.structs.replace(core_settings(config), lost_check_base=0.1)

    monkeypatch.setattr("llmux.app.core_settings", hasty)
    held = tmp_path / "held"
    a = honest("a", tmp_path)
    a["wake"] += f"; touch {held}"
    a |= {"sleep": f"{a['sleep']}; test ! -e {held}", "alive": "false"}
    async with world(tmp_path, {"a": a, "b": honest("b", tmp_path)}, fast(), fast()) as w:
        assert (await w.chat("a")).status_code == 200
        assert (await w.chat("b")).json()["error"]["code"] == "hook_failed"
        await w.until(lambda: w.ended("sleep", "a") >= 5)  # three for b, and it has looked twice
        assert (await w.client.get("/ready")).json()["devices"][0]["lost_models"] == ["a"]
        assert "wake b" not in await w.journal()
        await asyncio.to_thread(held.unlink)
        await w.until(lambda: w.switcher.model_states()["a"] is ModelState.ASLEEP)
        assert (await w.client.get("/ready")).status_code == 200
        assert (await w.chat("b")).status_code == 200


@pytest.mark.fault(43)
async def test_a_verify_hook_that_hangs_is_ended_by_force_at_the_deadline(tmp_path: Path) -> None:
    a = honest("a", tmp_path) | {"verify": "exec sleep 600"}
    a["hook_timeout_secs"] = {"verify": 0.2}
    async with world(tmp_path, {"a": a, "b": honest("b", tmp_path)}, fast(), fast()) as w:
        assert (await w.chat("a")).status_code == 200
        refused = await w.chat("b")
        assert refused.status_code == 503
        assert "still running after 0.2" in refused.json()["error"]["message"]
        assert w.switcher.model_states()["a"] is ModelState.LOST


# --- the canary ------------------------------------------------------------------------------------------------------


@pytest.mark.fault(36)
async def test_a_model_that_does_not_answer_its_canary_is_slept_and_woken_once_more(tmp_path: Path) -> None:
    backend = fast()
    backend.fail(Fault("status", status=500))
    model = honest("a", tmp_path) | {"canary": True, "send_model_as": "org/a"}
    async with world(tmp_path, {"a": model}, backend) as w:
        answer = await w.chat("a")
        assert answer.status_code == 200
        assert await w.journal() == ["wake a", "sleep a", "wake a"]
        bodies = [json.loads(request.body) for request in backend.requests]
        assert [body["messages"][0]["content"] for body in bodies] == ["Hi", "Hi", "hi"]
        assert {body["model"] for body in bodies} == {"org/a"}
        assert bodies[0]["max_tokens"] == 1
        metrics = (await w.client.get("/metrics")).text
        assert 'llmux_hook_failures_total{hook="canary",model="a"} 1.0' in metrics
        assert 'llmux_switch_total{from="idle",result="success",to="a"} 1.0' in metrics


@pytest.mark.fault(36, 37)
async def test_a_canary_that_fails_twice_is_reported_as_a_failed_wake(tmp_path: Path) -> None:
    backend = fast()
    backend.fail(Fault("status", status=500, count=2))
    async with world(tmp_path, {"a": honest("a", tmp_path) | {"canary": True}}, backend) as w:
        refused = await w.chat("a")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "hook_failed"
        assert "canary of a failed: the backend answered with status 500" in refused.json()["error"]["message"]
        assert (await w.chat("a")).status_code == 200  # after the pause
        assert (await w.journal())[:4] == ["wake a", "sleep a", "wake a", "sleep a"]


async def test_a_canary_of_its_own_for_an_embedding_model(tmp_path: Path) -> None:
    backend = fast()
    canary = {"path": "/v1/embeddings", "headers": {"Authorization": "Bearer key"}}
    async with world(tmp_path, {"a": honest("a", tmp_path) | {"canary": canary}}, backend) as w:
        answer = await w.client.post("/v1/embeddings", json={"model": "a", "input": "x"})
        assert answer.status_code == 200
    assert [request.path for request in backend.requests] == ["/v1/embeddings"] * 2
    assert ("authorization", "Bearer key") in backend.requests[0].headers


# --- backends that fail ----------------------------------------------------------------------------------------------


@pytest.mark.fault(36)
async def test_a_backend_that_is_healthy_but_does_not_generate_is_taken_out(tmp_path: Path) -> None:
    backend = fast()
    async with world(tmp_path, {"a": honest("a", tmp_path)}, backend, doubt_after_failures=3) as w:
        assert (await w.chat("a")).status_code == 200
        backend.fail(Fault("status", status=500, count=3, path="/v1/chat/completions"))
        assert [(await w.chat("a")).status_code for _ in range(3)] == [500, 500, 500]
        await w.until(lambda: w.ended("sleep", "a") == 1)
        assert (await w.chat("a")).status_code == 200  # it was woken again
        assert await w.journal() == ["wake a", "sleep a", "wake a"]
        assert 'llmux_model_deaths_total{model="a"} 1.0' in (await w.client.get("/metrics")).text


@pytest.mark.fault(36)
async def test_an_application_that_sends_bad_requests_cannot_knock_a_model_out(tmp_path: Path) -> None:
    backend = fast()
    async with world(tmp_path, {"a": honest("a", tmp_path) | {"canary": True}}, backend) as w:
        assert (await w.chat("a")).status_code == 200
        backend.fail(Fault("status", status=400, count=20, path="/v1/completions"))
        backend.fail(Fault("status", status=500, count=20, path="/v1/completions"))
        for _ in range(40):
            await w.client.post("/v1/completions", json={"model": "a", "prompt": "x"})
        await w.until(lambda: w.ended("canary", "a") >= 2)  # llmux asked for itself, and was answered
        assert (await w.chat("a")).status_code == 200
        assert await w.journal() == ["wake a"]


@pytest.mark.fault(28, 34)
async def test_a_backend_that_is_gone_is_woken_again_though_alive_says_yes(tmp_path: Path) -> None:
    """`alive: true`, as in many a file of 2.4.0, where it was never asked."""
    journal = tmp_path / "journal"
    backend = fast()
    async with contextlib.AsyncExitStack() as listening:
        _, port = await listening.enter_async_context(backend.serving())
        model: dict[str, Any] = {"port": port, "wake": f"echo wake >> {journal}", "sleep": "true", "alive": "true"}
        app, switcher = await build_app(Config(models={"a": ModelConfig(**model)}))
        async with (
            app.serving(host="127.0.0.1", port=0) as (host, own_port),
            httpx.AsyncClient(base_url=f"http://{host}:{own_port}", timeout=DEADLINE) as client,
        ):
            w = World(client, switcher, journal)
            assert (await w.chat("a")).status_code == 200
            await listening.aclose()
            while switcher.model_states()["a"] is ModelState.AWAKE:
                assert (await w.chat("a")).status_code == 502
            assert switcher.model_states()["a"] is ModelState.UNCONFIRMED
            async with backend.serving(port=port):
                assert (await w.chat("a")).status_code == 200
            assert await w.journal() == ["wake", "wake"]


# --- drains ----------------------------------------------------------------------------------------------------------


async def collect(lines: AsyncIterator[str], seen: list[str]) -> None:
    async for line in lines:
        seen.append(line)


@pytest.mark.fault(49)
async def test_an_endless_stream_is_cut_at_the_drains_deadline_and_counted(tmp_path: Path) -> None:
    a = SimulatedBackend("a", tokens=1_000_000, tokens_per_second=50)
    models = {"a": honest("a", tmp_path), "b": honest("b", tmp_path)}
    fifo = {"name": "fifo"}  # break-even would let the stream go on until b is due
    async with world(tmp_path, models, a, fast("b"), drain_timeout_secs=0.2, policy=fifo) as w:
        body = {"model": "a", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with w.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            waiting = asyncio.create_task(w.chat("b"))
            seen: list[str] = []
            with pytest.raises(httpx.RemoteProtocolError):
                await collect(lines, seen)
        assert not any("[DONE]" in line for line in seen)
        assert any("request_aborted" in line for line in seen)
        assert (await waiting).json()["model"] == "b"
        assert 'llmux_aborted_requests_total{model="a"} 1.0' in (await w.client.get("/metrics")).text
        assert await w.journal() == ["wake a", "sleep a", "wake b"]


# --- leaving while a model wakes -------------------------------------------------------------------------------------


@pytest.mark.fault(45)
async def test_a_wake_is_finished_although_every_client_has_left(tmp_path: Path) -> None:
    go = tmp_path / "go"
    model = honest("a", tmp_path)
    model["wake"] += f"; until test -e {go}; do sleep 0.02; done"
    async with world(tmp_path, {"a": model | {"canary": True}}, fast()) as w:
        asking = asyncio.create_task(w.chat("a"))
        await w.until(lambda: w.switcher.queue_depths()["a"] == 1)
        asking.cancel()
        await w.until(lambda: w.switcher.queue_depths()["a"] == 0)
        await asyncio.to_thread(go.touch)
        await w.until(lambda: w.switcher.active_model() == "a")
        assert (await w.chat("a")).status_code == 200
        assert await w.journal() == ["wake a"]


@pytest.mark.fault(46)
async def test_a_storm_of_requests_for_two_models_makes_one_switch_for_each(tmp_path: Path) -> None:
    go = tmp_path / "go"
    a = honest("a", tmp_path) | {"verify": "true", "canary": True}
    a["wake"] = f"until test -e {go}; do sleep 0.02; done; {a['wake']}"
    models = {"a": a, "b": honest("b", tmp_path)}
    async with world(tmp_path, models, fast("a"), fast("b")) as w:
        first = asyncio.create_task(w.chat("a"))
        await w.until(lambda: w.switcher.queue_depths()["a"] == 1)
        others = asyncio.gather(*(w.chat(model) for _ in range(20) for model in "ab"))
        await w.until(lambda: w.switcher.queue_depths() == {"a": 21, "b": 20})
        await asyncio.to_thread(go.touch)
        answers = [await first, *await others]
        assert {answer.status_code for answer in answers} == {200}
        assert await w.journal() == ["wake a", "sleep a", "verify a", "wake b"]


# --- alive -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(35)
async def test_an_alive_hook_that_flaps_and_hangs_kills_nobody_and_one_that_keeps_failing_does(tmp_path: Path) -> None:
    """Every eighth check fails, another hangs and is ended by force; none begins while another runs. One in between may
    take too long on its own, as on a busy machine."""
    runs, busy, dead = tmp_path / "runs", tmp_path / "busy", tmp_path / "dead"
    alive = f"""
        test -e {tmp_path}/up-a || exit 1
        test -e {dead} && exit 1
        trap 'rmdir {busy}; exit 1' TERM
        mkdir {busy} || touch {tmp_path}/two-at-a-time
        echo >> {runs}
        count=$(wc -l < {runs})
        [ $((count % 8)) = 4 ] && while :; do sleep 0.02; done
        rmdir {busy}
        [ $((count % 8)) != 0 ]
    """
    a = honest("a", tmp_path) | {"alive": alive, "hook_timeout_secs": {"alive": 0.3}}
    async with world(tmp_path, {"a": a}, fast(), alive_interval_secs=0.01) as w:
        assert (await w.chat("a")).status_code == 200
        await w.until(lambda: w.ended("alive", "a") >= 12)
        outcomes = {m.outcome for m in w.messages if isinstance(m, HookEnded)}
        assert outcomes >= {Outcome.OK, Outcome.FAILED, Outcome.TIMEOUT}
        assert w.switcher.model_states() == {"a": ModelState.AWAKE}
        assert not [m for m in w.messages if isinstance(m, ModelDied)]
        await asyncio.to_thread(dead.touch)
        await w.until(lambda: any(isinstance(m, ModelDied) for m in w.messages))
        assert not await asyncio.to_thread((tmp_path / "two-at-a-time").exists)
