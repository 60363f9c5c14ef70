"""Keys, TLS and secrets, with the real process, real hooks and the official clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import trustme

from llmux.testing import Fault, SimulatedBackend
from tests.e2e.conftest import DEADLINE, Server, llmux_process

pytestmark = pytest.mark.anyio

AUTHORITY = trustme.CA()
#: Each begins so that one search finds them all, wherever they came out.
CANARY = "canary-4c1d"
ALICE, BOB, CI, OPS = (f"{CANARY}-{name}-0123456789" for name in ("alice", "bob", "ci", "ops"))


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def write_certificate(folder: Path) -> None:
    issued = AUTHORITY.issue_cert("localhost", "127.0.0.1")
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


def configuration(folder: Path, ports: dict[str, int], **more: Any) -> Path:
    models = {name: {"port": port, "wake": "true", "sleep": "true", "alive": "false"} for name, port in ports.items()}
    path = folder / "config.json"
    path.write_text(json.dumps({"models": models, **more}))
    return path


KEYS = {
    "api_keys": {"alice": {"env": "ALICE_KEY"}, "bob": {"file": "bob", "models": ["beta*"]}, "ci": {"key": CI}},
    "admin_keys": {"ops": {"env": "OPS_KEY"}},
}
HOOKS = ("wake", "sleep")
VARIABLES: dict[str, Any] = {"ALICE_KEY": ALICE, "OPS_KEY": OPS}


@contextlib.asynccontextmanager
async def serving(folder: Path, *arguments: str, **config: Any) -> AsyncIterator[tuple[Server, dict[str, Any]]]:
    """An llmux with the models alpha and beta, and their backends."""
    backends = {name: SimulatedBackend(name, tokens_per_second=2000) for name in ("alpha", "beta")}

    def prepare() -> Path:
        (folder / "bob").write_text(BOB + "\n")
        write_certificate(folder)
        return configuration(folder, ports, **config)

    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for name, backend in backends.items():
            _, ports[name] = await stack.enter_async_context(backend.serving())
        path = await asyncio.to_thread(prepare)
        process = llmux_process("-c", str(path), "-p", "0", *arguments, **VARIABLES)
        yield await stack.enter_async_context(process), backends


def openai_http() -> Any:
    return openai.DefaultAsyncHttpxClient(verify=trusting(), timeout=DEADLINE)


def anthropic_http() -> Any:  # of another httpx than OpenAI's, by now
    return anthropic.DefaultAsyncHttpxClient(verify=trusting(), timeout=DEADLINE)


TLS = {"tls": {"cert": "cert.pem", "key": "key.pem"}}
QUESTION: Any = [{"role": "user", "content": f"{CANARY}-prompt"}]


@pytest.mark.fault(65)
async def test_the_official_clients_over_tls_with_keys(tmp_path: Path) -> None:
    async with serving(tmp_path, **KEYS, **TLS) as (server, backends):
        assert server.url.startswith("https://127.0.0.1:")
        base = f"https://localhost:{server.port}"

        async with (
            openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=ALICE, max_retries=0, http_client=openai_http()) as alice,
            openai.AsyncOpenAI(base_url=f"{base}/v1", api_key=BOB, max_retries=0, http_client=openai_http()) as bob,
            openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="guess", max_retries=0, http_client=openai_http()) as eve,
            anthropic.AsyncAnthropic(base_url=base, api_key=CI, max_retries=0, http_client=anthropic_http()) as claude,
            anthropic.AsyncAnthropic(
                base_url=base, api_key="guess", max_retries=0, http_client=anthropic_http()
            ) as mallory,
        ):
            for model in ("alpha", "beta"):
                stream = await alice.chat.completions.create(model=model, messages=QUESTION, stream=True)
                words = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
                assert "".join(words).startswith(f"{model} heard")
            assert [model.id async for model in alice.models.list()] == ["alpha", "beta"]
            assert [model.id async for model in bob.models.list()] == ["beta"]
            with pytest.raises(openai.PermissionDeniedError) as forbidden:
                await bob.chat.completions.create(model="alpha", messages=QUESTION)
            assert forbidden.value.code == "model_not_allowed"
            assert (await bob.chat.completions.create(model="beta", messages=QUESTION)).choices
            with pytest.raises(openai.AuthenticationError) as refused:
                await eve.chat.completions.create(model="alpha", messages=QUESTION)
            assert refused.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                await eve.models.list()
            with pytest.raises(anthropic.AuthenticationError):
                await mallory.messages.create(model="alpha", max_tokens=5, messages=QUESTION)
            answer = await claude.messages.create(model="alpha", max_tokens=5, messages=QUESTION)
            assert answer.content[0].type == "text"
            assert answer.content[0].text.startswith("alpha heard")
        async with httpx.AsyncClient(verify=trusting(), timeout=DEADLINE) as client:
            assert (await client.get(f"{base}/health")).status_code == 200
            assert (await client.get(f"{base}/ready")).status_code == 200
            assert (await client.get(f"{base}/metrics")).status_code == 200
            assert (await client.get(f"{base}/admin/v1/state")).status_code == 401
            admin = await client.get(f"{base}/admin/v1/state", headers={"Authorization": f"Bearer {OPS}"})
            assert admin.status_code == 200
        shown = json.dumps(
            [[request.headers for request in backend.requests] for backend in backends.values()], default=str
        )
        assert "heard" not in shown
        assert CANARY not in shown
        assert await server.stop() == 0


@pytest.mark.fault(69)
async def test_secrets_come_out_nowhere(tmp_path: Path) -> None:
    """Keys that are right and keys that are wrong, prompts, and the environment, while everything is logged and all
    sorts of things go wrong."""
    seen: list[str] = []
    async with serving(tmp_path, "-v", event_log="events.jsonl", metrics_need_key=False, **KEYS) as (server, backends):
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as client:

            async def ask(path: str, key: str | None = None, field: str = "authorization", **request: Any) -> int:
                headers = {**request.pop("headers", {})}
                if key is not None:
                    headers[field] = f"Bearer {key}" if field == "authorization" else key
                response = await client.request(request.pop("method", "POST"), path, headers=headers, **request)
                seen.append(f"{response.headers} {response.text}")
                return response.status_code

            chat = "/v1/chat/completions"
            for key in (None, f"{CANARY}-wrong", OPS, BOB):
                assert await ask(chat, key, json={"model": "alpha", "messages": QUESTION}) in (401, 403)
                assert await ask(chat, key, "x-api-key", json={"model": "alpha", "messages": QUESTION}) in (401, 403)
            assert await ask(chat, ALICE, json={"model": "unknown", "messages": QUESTION}) == 404
            assert await ask(chat, ALICE, content=f'{{"model": "alpha", "{CANARY}-broken'.encode()) == 400
            assert await ask(chat, ALICE, headers={"x-api-key": f"{CANARY}-x", "Host": "evil.example"}, json={}) == 404
            assert await ask("/health", f"{CANARY}-y", headers={"Host": "evil.example"}, method="GET") == 403
            assert await ask("/health", headers={"Origin": "http://evil.example"}, method="GET") == 403
            backends["alpha"].fail(Fault("malformed"))
            assert await ask(chat, ALICE, json={"model": "alpha", "messages": QUESTION}) == 502
            for path in ("/ready", "/metrics", "/v1/models", "/v1/models/alpha", "/admin/v1/x", "/nowhere"):
                for key in (None, ALICE, OPS):
                    await ask(path, key, method="GET")
        assert await server.stop() == 0
    events = await asyncio.to_thread((tmp_path / "events.jsonl").read_text)
    assert len(server.raw) > 20
    assert "access_refused" in "".join(server.raw)
    assert events
    answers = "".join(seen)
    assert "invalid_api_key" in answers
    for where, text in (("log", "".join(server.raw)), ("event log", events), ("answers", answers)):
        assert CANARY not in text, (where, re.findall(f".{{0,200}}{CANARY}.{{0,50}}", text)[:3])


@pytest.mark.fault(69)
async def test_hooks_do_not_get_the_keys(tmp_path: Path) -> None:
    """So not even a hook that prints its environment, which is logged, gives them away."""
    async with SimulatedBackend("alpha").serving() as (_, port):
        path = await asyncio.to_thread(
            configuration, tmp_path, {"alpha": port}, api_keys={"alice": {"env": "ALICE_KEY"}}
        )
        config = json.loads(await asyncio.to_thread(path.read_text))
        config["models"]["alpha"] |= {"wake": "env", "sleep": "env"}
        await asyncio.to_thread(path.write_text, json.dumps(config))
        async with llmux_process("-c", str(path), "-p", "0", "-v", **VARIABLES, OTHER="other-value") as server:
            async with httpx.AsyncClient(base_url=server.url, headers={"x-api-key": ALICE}, timeout=DEADLINE) as client:
                assert (await client.post("/v1/chat/completions", json={"model": "alpha"})).status_code == 200
                config["api_keys"]["new"] = {"env": "OTHER"}
                await asyncio.to_thread(path.write_text, json.dumps(config))
                assert (await client.post("/admin/v1/reload")).status_code == 200
                assert (await client.post("/admin/v1/models/alpha/sleep")).status_code == 200
            assert await server.stop() == 0
    printed = {hook: [line["line"] for line in server.events("hook_output") if line["hook"] == hook] for hook in HOOKS}
    assert "OTHER=other-value" in printed["wake"]
    assert "LLMUX_HOOK=sleep" in printed["sleep"]
    assert "OTHER=other-value" not in printed["sleep"]  # another configuration has made it a key
    assert not [line for lines in printed.values() for line in lines if line.startswith("ALICE_KEY")]
    assert ALICE not in "".join(server.raw)


@pytest.mark.fault(65)
@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [("0.0.0.0", {}, True), ("0.0.0.0", KEYS, False), ("127.0.0.1", {}, False), ("localhost", {}, False)],
)
async def test_a_public_bind_without_keys_is_warned_of(
    tmp_path: Path, host: str, keys: dict[str, Any], warned: bool
) -> None:
    async with serving(tmp_path, "--host", host, **keys) as (server, _):
        async with httpx.AsyncClient(timeout=DEADLINE) as client:  # by then all that the start has to say was said
            assert (await client.get(f"http://127.0.0.1:{server.port}/health")).status_code == 200
        assert await server.stop() == 0
    assert bool(server.events("public_bind")) is warned
    if warned:
        assert server.events("public_bind")[0]["level"] == "warning"
        assert "api_keys" in server.events("public_bind")[0]["message"]


@pytest.mark.fault(64)
async def test_the_default_is_loopback(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        assert server.url.startswith("http://127.0.0.1:")
        assert await server.stop() == 0


async def test_keys_and_certificates_are_exchanged_while_it_serves(tmp_path: Path) -> None:
    """Within two looks. The connection that was open goes on with the certificate that it began with."""
    async with serving(tmp_path, **KEYS, **TLS) as (server, _):
        base = f"https://localhost:{server.port}"
        async with httpx.AsyncClient(base_url=base, verify=trusting(), timeout=DEADLINE) as client:

            async def status(key: str) -> int:
                return (await client.get("/v1/models", headers={"x-api-key": key})).status_code

            assert await status(BOB) == 200

            def change() -> None:
                (tmp_path / "bob").write_text(f"{CANARY}-new-bob-0123456789")
                write_certificate(tmp_path)

            await asyncio.to_thread(change)
            await server.wait_for("certificate_reloaded")
            assert await status(BOB) == 401
            assert await status(f"{CANARY}-new-bob-0123456789") == 200
            await asyncio.to_thread((tmp_path / "cert.pem").write_text, "nonsense")
            await server.wait_for("certificate_not_reloaded")
            assert await status(f"{CANARY}-new-bob-0123456789") == 200
        async with httpx.AsyncClient(base_url=base, verify=trusting(), timeout=DEADLINE) as newcomer:
            assert (await newcomer.get("/health")).status_code == 200
        assert await server.stop() == 0
    assert CANARY not in "".join(server.raw)


@pytest.mark.fault(57)
def test_what_is_missing_ends_the_start_before_anything_is_bound(tmp_path: Path) -> None:
    path = configuration(tmp_path, {"alpha": 1}, port=0, **KEYS, **TLS)
    done = subprocess.run(
        [sys.executable, "-m", "llmux", "-c", str(path)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 2
    for words in ("api_keys.alice.env", "api_keys.bob.file", "admin_keys.ops.env", "tls.cert", f"{path}:1: "):
        assert words in done.stderr
    assert CANARY not in done.stderr
    assert "Traceback" not in done.stderr
