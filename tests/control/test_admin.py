"""The admin API of a whole llmux: real hooks, real sockets, and its own description held against it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis.checks import not_a_server_error

from llmux import Config, build_app
from llmux.control.admin.operations import OPERATIONS, PREFIX, document
from llmux.testing import SimulatedBackend

pytestmark = pytest.mark.anyio


LONG = 100_000
"""Tokens of an answer that ends when somebody ends it. `SHORT` is what a request asks for that is to be answered."""

SHORT = {"max_tokens": 1}


@pytest.fixture
async def base(tmp_path: Path) -> AsyncIterator[str]:
    """Two models of one backend, of which one cannot be woken, and a third with a slash in its name."""
    async with SimulatedBackend(["good", "bad", "org/good"], tokens=LONG, tokens_per_second=20).serving() as (_, port):
        hooks = {"sleep": "true", "alive": "false"}
        config = Config.model_validate(
            {
                "models": {
                    "good": {"port": port, "wake": "echo up; echo really", "aliases": ["gpt"], **hooks},
                    "bad": {"port": port, "wake": "echo no memory >&2; exit 3", **hooks},
                    "org/good": {"port": port, "wake": "true", **hooks},
                }
            }
        )
        app, _ = await build_app(config)
        async with app.serving(port=0) as (host, bound):
            yield f"http://{host}:{bound}"


@pytest.fixture
async def client(base: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base, timeout=30) as made:
        yield made


async def get(client: httpx.AsyncClient, path: str) -> Any:
    response = await client.get(PREFIX + path)
    assert response.status_code == 200, response.text
    return response.json()


async def post(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    response = await client.post(PREFIX + path)
    assert response.status_code == status, response.text
    return response.json()


async def test_switching_and_what_is_told_of_it(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/models/gpt/switch"))["done"] is True  # an alias
    state = await get(client, "/state")
    assert state["ready"] is True
    assert state["policy"]
    assert {model["name"]: model["state"] for model in state["models"]} == {
        "good": "awake", "bad": "asleep", "org/good": "asleep",
    }  # fmt: skip
    await post(client, "/models/org/good/switch")
    assert (await get(client, "/models/org/good"))["state"] == "awake"
    assert [device["used"] for device in (await get(client, "/devices"))["devices"]] == [1]
    newest, oldest = (await get(client, "/switches"))["switches"]
    assert (oldest["from"], oldest["to"], oldest["result"], oldest["cause"]) == (None, "good", "success", "operator")
    assert (newest["from"], newest["to"], newest["victims"]) == ("good", "org/good", ["good"])
    assert len((await get(client, "/switches?limit=1"))["switches"]) == 1
    costs = {(cost["from"], cost["to"]) for cost in (await get(client, "/costs"))["costs"]}
    assert costs == {(None, "good"), ("good", "org/good")}
    await post(client, "/models/org%2Fgood/sleep")
    assert (await get(client, "/models/org/good"))["state"] == "asleep"


async def test_a_switch_that_clients_cause(client: httpx.AsyncClient) -> None:
    question = {"model": "good", "messages": [{"role": "user", "content": "hi"}], **SHORT}
    assert (await client.post("/v1/chat/completions", json=question)).status_code == 200
    (switch,) = (await get(client, "/switches"))["switches"]
    assert switch["cause"] == "demand"


async def test_an_order_that_fails_says_why(client: httpx.AsyncClient) -> None:
    error = (await post(client, "/models/bad/switch", 503))["error"]
    assert "exit code 3" in error["message"]
    assert "no memory" not in error["message"]
    (run,) = [run for run in (await get(client, "/hooks?model=bad"))["hooks"] if run["hook"] == "wake"]
    assert (run["outcome"], run["exit_code"], run["output"].strip()) == ("failed", 3, "no memory")
    (switch,) = (await get(client, "/switches"))["switches"]
    assert switch["result"] == "failure"
    assert "exit code 3" in switch["detail"]


async def test_what_is_not_there(client: httpx.AsyncClient) -> None:
    for path in (
        "/models/none/switch",
        "/models/none/sleep",
        "/models/none/free",
        "/models/none/look",
        "/requests/99/cancel",
    ):
        assert (await post(client, path, 404))["error"]["type"] == "llmux_error"
    assert (await client.get(f"{PREFIX}/models/none")).status_code == 404
    assert (await client.get(f"{PREFIX}/hooks?model=none")).status_code == 404
    for query in (
        "/switches?limit=0",
        "/switches?limit=many",
        f"/requests?limit={'9' * 23}",
        f"/hooks?limit={'9' * 5000}",
        "/timeline?since=nan",
    ):
        assert (await client.get(PREFIX + query)).status_code == 400
    assert (await post(client, "/requests/many/cancel", 400))["error"]["param"] == "id"
    assert (await post(client, "/reload", 409))["error"]["code"] == "nothing_to_reload"


@pytest.mark.fault(63)
async def test_what_changes_something_is_post(client: httpx.AsyncClient) -> None:
    for one in OPERATIONS:
        path = PREFIX + one.path.format(model="good", id=1)
        other = "POST" if one.method == "GET" else "GET"
        answer = await client.request(other, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed"), path
        assert one.method in answer.headers["Allow"], path
    assert (await get(client, "/switches"))["switches"] == []


async def test_what_is_nowhere_is_told_where_to_look(client: httpx.AsyncClient) -> None:
    for path in ("/admin", "/admin/v1/nope", "/admin/v2/state", "/ui/nope.js"):
        error = (await client.get(path)).json()["error"]
        assert error["code"] == "path_not_found"
        assert f"there is no {path};" in error["message"]
    assert (await client.get(f"{PREFIX}/models/none/switch")).status_code == 405
    assert (await client.get(f"{PREFIX}/models/none/nothing")).json()["error"]["code"] == "model_not_found"


async def test_cancelling_requests(client: httpx.AsyncClient) -> None:
    question = {"model": "good", "messages": [], "stream": True}
    async with client.stream("POST", "/v1/chat/completions", json=question) as response:
        lines = response.aiter_lines()
        await anext(lines)
        (served,) = (await get(client, "/requests"))["requests"]
        assert (served["model"], served["granted"]) == ("good", True)
        other = asyncio.create_task(client.post("/v1/chat/completions", json={"model": "org/good", "messages": []}))
        async with asyncio.timeout(20):
            while len(waiting := (await get(client, "/requests"))["requests"]) < 2:
                continue
        await post(client, f"/requests/{waiting[1]['id']}/cancel")
        assert (await other).json()["error"]["code"] == "request_cancelled"
        await post(client, f"/requests/{served['id']}/cancel")
        rest = await until_cut(lines)
    assert "data: [DONE]" not in rest
    (told,) = (json.loads(line.removeprefix("data: ")) for line in rest if '"error"' in line)
    assert told["error"]["code"] == "request_cancelled"


async def test_requests_can_be_told_apart(client: httpx.AsyncClient) -> None:
    await post(client, "/models/good/drain")  # so that they wait
    asked = [
        asyncio.create_task(client.post(path, json={"model": "good", **more}, headers=headers))
        for path, more, headers in (
            ("/v1/chat/completions", {"messages": [], "stream": True, **SHORT}, {}),
            ("/v1/embeddings", {"input": "x"}, {"x-llmux-priority": "flex"}),
            ("/v1/completions", {"prompt": "x", "service_tier": "priority", **SHORT}, {}),
        )
    ]
    await until_waiting(client, 3)
    seen = {one["path"]: one for one in (await get(client, "/requests"))["requests"]}
    assert {path: (one["stream"], one["level"]) for path, one in seen.items()} == {
        "/v1/chat/completions": (True, "default"),
        "/v1/embeddings": (False, "flex"),
        "/v1/completions": (False, "priority"),
    }
    assert all((one["client"], one["key"], one["events"]) == ("127.0.0.1", None, 0) for one in seen.values())
    await post(client, "/models/good/undrain")
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200, 200]


async def until_cut(lines: AsyncIterator[str]) -> list[str]:
    """What comes until the connection is cut; fails if it ends cleanly."""
    came = []
    try:
        async for line in lines:
            came.append(line)
    except httpx.RemoteProtocolError:
        return came
    raise AssertionError(f"a clean end after {came}")


@asynccontextmanager
async def listening(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    async with client.stream("GET", f"{PREFIX}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")

        async def events() -> AsyncIterator[tuple[str, Any]]:
            name = ""
            async for line in response.aiter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)

        yield events()


async def test_the_event_stream(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30), listening(client) as events:
        name, first = await anext(events)
        assert (name, first["models"][0]["state"]) == ("status", "asleep")
        order = asyncio.create_task(post(client, "/models/good/switch"))
        seen: dict[str, list[Any]] = {}
        while not {"hook", "hook_output", "status"} <= set(seen) or len(seen.get("switch", ())) < 2:
            name, record = await anext(events)
            seen.setdefault(name, []).append(record)
        await order
    assert [one["state"] for one in seen["state"]] == ["waking", "awake"]
    assert [one["line"] for one in seen["hook_output"]] == ["up", "really"]
    assert [one["result"] for one in seen["switch"]] == [None, "success"]
    timeline = (await get(client, "/timeline"))["states"]
    assert [one["state"] for one in timeline if one["model"] == "good"][-3:] == ["asleep", "waking", "awake"]


# --- the description -------------------------------------------------------------------------------------------------


def test_every_operation_is_described_once() -> None:
    described = document("1")
    ids = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert sorted(ids) == sorted(one.name for one in OPERATIONS)
    assert len(ids) == len(set(ids))


SEED = int(os.environ.get("LLMUX_SEED", "0"))
EXAMPLES = 20
NAMES = ("good", "bad", "gpt", "org/good")


async def test_the_api_is_as_it_describes_itself(client: httpx.AsyncClient, base: str) -> None:
    """Schemathesis asks all sorts of things, and holds every answer against the description. Half of what it asks is
    about models, and requests, that are there."""
    described = await get(client, "/openapi.json")
    del described["paths"][f"{PREFIX}/events"]  # it never ends
    answered = await asyncio.to_thread(explore, schemathesis.openapi.from_dict(described), base)
    assert len(answered) == len(OPERATIONS) - 1
    for label, statuses in answered.items():
        assert statuses & {200, 409}, label  # 409: there is no file to read again
        if "{" in label:
            assert statuses & {400, 404}, label
    assert {200, 404, 503} <= answered[f"POST {PREFIX}/models/{{model}}/switch"]


def explore(schema: Any, base: str) -> dict[str, set[int]]:
    """Ask for every operation; returns the statuses that were answered."""
    answered: dict[str, set[int]] = {}
    with httpx.Client(base_url=base, timeout=30) as operator, ThreadPoolExecutor() as clients:
        for result in schema.get_all_operations():
            operation = result.ok()
            known = cycle(NAMES)
            turns = cycle((True, False))

            @seed(SEED)
            @given(case=operation.as_strategy())
            @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
            def ask(case: Any) -> None:
                if next(turns):  # noqa: B023  (it is called in this round)
                    if "model" in case.path_parameters:
                        case.path_parameters["model"] = next(known)  # noqa: B023
                    elif "id" in case.path_parameters:
                        case.path_parameters["id"] = waiting(operator, clients)
                response = case.call(base_url=base)
                assert response.status_code != 500
                case.validate_response(response, excluded_checks=[not_a_server_error])  # 503 is an answer, too
                answered.setdefault(case.operation.label, set()).add(response.status_code)

            ask()
    return answered


def waiting(operator: httpx.Client, clients: ThreadPoolExecutor) -> int:
    """The number of a request that waits for as long as its model is drained."""
    assert operator.post(f"{PREFIX}/models/good/drain").status_code == 200
    clients.submit(httpx.post, f"{operator.base_url}/v1/chat/completions", json={"model": "good", **SHORT}, timeout=60)
    while not (requests := operator.get(f"{PREFIX}/requests").json()["requests"]):
        time.sleep(0.01)
    return int(requests[-1]["id"])


# --- orders that stand ------------------------------------------------------------------------------------------------


async def until_waiting(client: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(20):
        while sum(model["waiting"] for model in (await get(client, "/state"))["models"]) != count:  # noqa: ASYNC110  # only asking tells
            await asyncio.sleep(0.02)


async def test_a_release_holds_requests_until_it_is_resumed(client: httpx.AsyncClient) -> None:
    await post(client, "/models/good/switch")
    await post(client, "/release")
    state = await get(client, "/state")
    assert (state["ready"], state["released"]["refuse"], state["released"]["holding"]) == (True, False, [])
    assert (await get(client, "/models/good"))["state"] == "asleep"
    ready = await client.get("/ready")
    assert (ready.status_code, ready.json()["released"]["refuse"]) == (200, False)
    assert "llmux_released 1.0" in (await client.get("/metrics")).text
    asked = asyncio.create_task(client.post("/v1/chat/completions", json={"model": "good", **SHORT}))
    await until_waiting(client, 1)
    refused = await post(client, "/models/good/switch", 503)
    assert refused["error"]["code"] == "released"
    await post(client, "/resume")
    assert (await asked).status_code == 200
    assert "llmux_released 0.0" in (await client.get("/metrics")).text


async def test_a_release_that_refuses_tells_clients_when_to_come_back(client: httpx.AsyncClient) -> None:
    await post(client, "/release?refuse=true")
    answer = await client.post("/v1/chat/completions", json={"model": "good"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["code"] == "released"
    assert (await client.get("/ready")).status_code == 503
    await post(client, "/resume")
    assert (await client.get("/ready")).status_code == 200
    assert (await post(client, "/release?refuse=perhaps", 400))["error"]["param"] == "refuse"


async def test_drain_and_pin(client: httpx.AsyncClient) -> None:
    await post(client, "/models/gpt/drain")  # an alias
    model = await get(client, "/models/good")
    assert (model["drained"], model["pinned"]) == (True, False)
    assert (await post(client, "/models/good/switch", 503))["error"]["code"] == "model_drained"
    await post(client, "/models/good/undrain")
    await post(client, "/models/good/pin")
    await post(client, "/models/good/switch")
    refused = await post(client, "/models/org/good/switch", 503)
    assert "good is pinned" in refused["error"]["message"]
    metrics = (await client.get("/metrics")).text
    assert 'llmux_model_pinned{model="good"} 1.0' in metrics
    assert 'llmux_model_drained{model="good"} 0.0' in metrics
    await post(client, "/models/good/unpin")
    await post(client, "/models/org/good/switch")


async def test_how_far_a_stream_is(client: httpx.AsyncClient) -> None:
    body = {"model": "good", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        events = 0
        async for line in answer.aiter_lines():
            events += line.startswith("data:")
            if events >= 3:
                break
        (request,) = (await get(client, "/requests"))["requests"]
        assert request["granted"]
        assert request["events"] >= 3


async def test_hooks_are_told_of_when_they_begin(client: httpx.AsyncClient) -> None:
    seen: list[tuple[str, Any]] = []
    async with asyncio.timeout(20), client.stream("GET", f"{PREFIX}/events") as stream:
        name = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if name == "status" and not seen:
                    order = asyncio.create_task(client.post(f"{PREFIX}/models/good/switch"))
                if data.get("model") == "good" and data.get("hook") == "wake" and name != "hook_output":
                    seen.append((name, data))
                elif name == "status":
                    seen.append((name, data["hooks"]))
                if name == "hook" and data["hook"] == "wake":
                    break
    await order
    assert [name for name, _ in seen if name != "status"] == ["hook_started", "hook"]
    assert (await get(client, "/state"))["hooks"] == []
