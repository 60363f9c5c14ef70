"""What a hook is given, what it is not given, and that none of it is executed or shown."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from llmux.hooks import RUN_ID_VARIABLE, HookSpec
from llmux.messages import Hook, Outcome
from llmux.testing import SimulatedBackend
from tests.hooks.conftest import Shop
from tests.ports import nobodys_port

pytestmark = pytest.mark.anyio


async def test_the_variables_and_what_overrides_what(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_LLMUX", "inherited")
    monkeypatch.setenv("LLMUX_MODEL", "of an outer llmux")
    result = await shop.run(
        'echo "$FROM_LLMUX|$MINE|$LLMUX_MODEL|$LLMUX_HOOK|$LLMUX_PORT|$LLMUX_FROM|$LLMUX_TO|$LLMUX_DEVICES"',
        model="llama",
        hook=Hook.SLEEP,
        env={"MINE": "from the file", "LLMUX_PORT": "1", "LLMUX_HOOK": "forged"},
        variables={"LLMUX_PORT": "8001", "LLMUX_FROM": "llama", "LLMUX_TO": "gemma", "LLMUX_DEVICES": "gpu0,gpu1"},
    )
    assert result.output == "inherited|from the file|llama|sleep|8001|llama|gemma|gpu0,gpu1\n"


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, ("localhost,127.0.0.1,::1",) * 2),
        ({"NO_PROXY": "gpu2, localhost"}, ("gpu2,localhost,127.0.0.1,::1",) * 2),
        ({"no_proxy": "gpu2", "NO_PROXY": "*"}, ("gpu2,localhost,127.0.0.1,::1", "*")),
    ],
)
async def test_where_a_proxy_is_set_this_machine_is_exempt_from_it(
    shop: Shop, proxy: str, before: dict[str, str], after: tuple[str, str]
) -> None:
    result = await shop.run('printf "%s %s" "$no_proxy" "$NO_PROXY"', env={proxy: "http://proxy:3128"} | before)
    assert result.output == " ".join(after)


async def test_without_a_proxy_nothing_is_said_of_one(shop: Shop) -> None:
    result = await shop.run('printf "%s %s" "${no_proxy-none}" "${NO_PROXY-none}"', env={"http_proxy": ""})
    assert result.output == "none none"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_behind_a_proxy_a_hook_still_asks_its_backend(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with nobodys_port() as refused:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{refused}")
        async with SimulatedBackend("m").serving() as (_, port):
            for script in (
                f"curl -sf http://localhost:{port}/health",
                f"curl -sf http://127.0.0.1:{port}/health",
                f"{sys.executable} -c 'import urllib.request as web; web.urlopen(\"http://localhost:{port}/health\")'",
            ):
                result = await shop.run(script)
                assert result.outcome is Outcome.OK, (script, result)


async def test_every_run_has_its_own_mark(shop: Shop) -> None:
    script = f"echo ${RUN_ID_VARIABLE}"
    marks = [(await shop.run(script)).output, (await shop.run(script)).output]
    shop.new_runner()
    marks.append((await shop.run(script)).output)
    assert len(set(marks)) == 3
    assert "\n" not in marks


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    "model",
    [
        "$(touch canary)",
        "`touch canary`",
        "'; touch canary; '",
        '"; touch canary; "',
        "a\ntouch canary\n",
        "-c",
        "é€\t",
    ],
)
async def test_a_models_name_is_never_executed(shop: Shop, tmp_path: Path, model: str) -> None:
    """FAULTS row 22."""
    result = await shop.run('printf %s "$LLMUX_MODEL"', model=model, cwd=tmp_path)
    assert result.outcome is Outcome.OK
    assert result.output == model
    assert os.listdir(tmp_path) == []


async def test_the_environment_is_never_shown(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS row 69. A hook that prints a secret itself is its author's business."""
    env = {"API_KEY": "sk-canary"}
    assert "sk-canary" not in repr(HookSpec("true", None, env))
    for script, more in (("exit 3", {}), ("\0", {}), ("true", {"BAD=": "sk-canary"}), ("true", {"BAD": "sk-canary\0"})):
        result = await shop.run(script, env=env | more)
        assert result.outcome is not Outcome.OK
        assert "sk-canary" not in repr(result)
    result = await shop.run("sleep 60", env=env, timeout=0.05)
    assert "sk-canary" not in repr(result)
    assert "sk-canary" not in caplog.text + repr(shop.lines)


async def test_standard_input_is_empty(shop: Shop) -> None:
    result = await shop.run("cat; readlink /proc/$$/fd/0; true")
    assert result.output == "/dev/null\n"


async def test_a_hook_inherits_no_descriptors(shop: Shop) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # as if llmux had been started with it
    shop.new_runner()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    try:
        _, other = shop.start("sleep 0.2")
        result = await shop.run("ls /proc/$$/fd; true")
        await other
        assert result.output.split() == ["0", "1", "2"]
    finally:
        transport.close()
        server.close()
        os.close(reader)
        os.close(writer)


async def test_a_hook_leads_a_session_of_its_own(shop: Shop) -> None:
    result = await shop.run("echo $$; cut -d' ' -f5,6 /proc/$$/stat; true")
    pid, group, session = map(int, result.output.split())
    assert pid == group == session
    assert pid != os.getpid()
