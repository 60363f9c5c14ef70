"""The tables of the documents say what is so: keys, metrics, log events, errors, states."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import llmux.control.app
import llmux.oversight  # noqa: F401  # the errors of both are among those that clients see
from llmux.errors import ConfigError, DrainedError, LlmuxError, NotReadyError, SwitchError
from llmux.messages import ModelState, Refusal
from llmux.telemetry.metrics import Metrics
from tests.docs.documents import ROOT, code, rows
from tests.e2e.conftest import DEADLINE, llmux_process

OPERATIONS = ROOT / "docs" / "operations.md"
LEVELS = {"debug", "info", "warning", "error"}
COMMON = {"event", "level", "logger", "timestamp"}


def test_the_configuration_reference_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "configuration_reference.py")], capture_output=True, text=True, check=True
    )
    remedy = "run: python docs/configuration_reference.py > docs/configuration.md"
    assert (ROOT / "docs" / "configuration.md").read_text() == made.stdout, remedy


def test_states() -> None:
    described = [code(row[0])[0] for row in rows(OPERATIONS, "state", "meaning", "what to do")]
    assert described == list(ModelState)


# --- metrics --------------------------------------------------------------------------------------------------------


def metrics() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name to type and labels, as the document has them."""
    table = rows(OPERATIONS, "metric", "type", "labels", "meaning")
    described = {code(name)[0]: (kind, tuple(filter(None, labels.split(", ")))) for name, kind, labels, _ in table}
    assert len(described) == len(table)
    return described


def test_refusals_are_described_with_their_metric() -> None:
    table = {code(row[0])[0]: row[3] for row in rows(OPERATIONS, "metric", "type", "labels", "meaning")}
    described = set(code(table["llmux_rejected_requests_total"])) - {"reason"}
    # No request is refused for these: unknown models never reach the scheduler, the others answer operators only.
    assert described == set(Refusal) - {Refusal.MODEL_NOT_FOUND, Refusal.NOT_READY, Refusal.DRAINED}


def test_counted_metrics_have_the_described_labels() -> None:
    described = metrics()
    for series in Metrics(["a"]).series():
        name = series.name if series.name in described else f"{series.name}_total"
        assert described[name][1] == series.labels


# --- log events -----------------------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[str, str | None, set[str], bool]]:
    """Every event that the source logs: its name, level (None: chosen at run time), fields, and whether it has more."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            match node.func, node.args[0]:
                case (
                    ast.Attribute(value=ast.Name(id="log"), attr=level) | ast.Name(id="tell" as level),
                    ast.Constant(value=str(name)),
                ):
                    fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                    more = any(keyword.arg is None for keyword in node.keywords)
                    if level == "exception":
                        level, fields = "error", fields | {"exception"}
                    yield name, level if level in LEVELS else None, fields, more


def events() -> dict[str, tuple[set[str], set[str]]]:
    """Name to levels and fields, as the document has them."""
    return {
        code(name)[0]: (LEVELS & set(re.findall(r"\w+", levels)), set(filter(None, fields.split(", "))))
        for name, levels, fields, _ in rows(OPERATIONS, "event", "level", "fields", "when")
    }


def test_log_events() -> None:
    described = events()
    logged = list(calls())
    assert {name for name, *_ in logged} == set(described)
    for name, level, fields, more in logged:
        assert level is None or level in described[name][0], name
        assert fields <= described[name][1], name
        assert more or fields == described[name][1], name


# --- errors ---------------------------------------------------------------------------------------------------------


def errors(base: type[LlmuxError] = LlmuxError) -> Iterator[type[LlmuxError]]:
    yield base
    for one in base.__subclasses__():
        yield from errors(one)


def described_errors() -> dict[tuple[int, str], bool]:
    """Status and code to whether there is a Retry-After."""
    table = rows(OPERATIONS, "status", "code", "when", "Retry-After")
    return {(int(status), code(name)[0]): retry == "yes" for status, name, _, retry in table}


def test_errors() -> None:
    # The first ends the start, two answer operators, the last is only the base of others.
    unseen = (ConfigError, NotReadyError, DrainedError, SwitchError)
    seen = {(error.status, error.code) for error in errors() if error not in unseen}
    assert set(described_errors()) == seen
    assert all(error.status >= 500 or error.status in (404, 429) for error in errors(SwitchError))


# --- a real run -----------------------------------------------------------------------------------------------------

#: Nothing ever listens at their ports, and their hooks succeed and fail as their names say.
MODELS = {
    "gone": {"wake": "echo up", "sleep": "true", "alive": "exit 1"},
    "stuck": {"wake": "true", "sleep": "exit 1", "alive": "exit 1"},
    "broken": {"wake": "exit 3", "sleep": "true", "alive": "exit 1"},
    "slow": {"wake": "sleep 2", "sleep": "true", "alive": "exit 1"},
}


@pytest.mark.anyio
async def test_a_real_run(tmp_path: Path, free_ports: tuple[int, int]) -> None:
    """Metrics, log events and error responses of a process, held against the tables."""
    config = {
        "models": {name: {"port": free_ports[0], **hooks} for name, hooks in MODELS.items()},
        "policy": {"request_timeout_secs": 1},
        "max_body_bytes": 1000,
    }
    empty = yaml.safe_dump(config).replace("sleep: 'true'", "sleep:", 1)  # a warning is due
    (tmp_path / "config.yaml").write_text(empty)
    described = described_errors()
    met: set[tuple[int, str]] = set()

    async with llmux_process("-c", str(tmp_path / "config.yaml"), "-p", "0", "-v") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:

            async def refused(method: str, path: str, **request: Any) -> str:
                response = await client.request(method, path, **request)
                error = response.json()["error"]
                assert set(error) == {"message", "type", "param", "code"}
                assert error["type"] == "llmux_error"
                key = (response.status_code, str(error["code"]))
                assert ("retry-after" in response.headers) == described[key], key
                met.add(key)
                return key[1]

            async def asked(model: str) -> str:
                return await refused("POST", "/v1/chat/completions", json={"model": model})

            async def in_the_end(model: str, answer: str) -> None:
                """On a busy machine, a second may be too little for a hook, and a pause over before it is seen."""
                async with asyncio.timeout(DEADLINE):
                    while (told := await asked(model)) != answer:
                        assert {told, answer} <= {"queue_timeout", "hook_failed", "backend_error"}

            await refused("POST", "/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"})
            await refused("GET", "/nowhere")
            await asked("unknown")
            await refused("POST", "/health")
            await refused("POST", "/v1/x", content=b"x" * 1001)
            await refused("POST", "/v1/x", content=b"x", headers={"Content-Encoding": "gzip"})
            await refused("GET", "/health", headers={"X-Large": "x" * 70_000})
            await refused("GET", "/upstream/slow/x", headers={"Connection": "upgrade", "Upgrade": "websocket"})
            assert await asked("slow") == "queue_timeout"
            await server.wait_for("model_activated")
            await in_the_end("broken", "hook_failed")
            await in_the_end("broken", "queue_timeout")  # the pause is longer than a request may wait
            await in_the_end("gone", "backend_error")
            await server.wait_for("model_died")
            await in_the_end("stuck", "backend_error")
            await server.wait_for("model_died", 2)
            assert await asked("slow") == "queue_timeout"  # three times the sleep hook is tried
            await server.wait_for("model_lost")
            assert await asked("slow") == "device_lost"
            ready = await client.get("/ready")
            assert (ready.status_code, ready.json()["reasons"]) == (
                503,
                ["device lost: default (it may be held by stuck)"],
            )
            scrape = (await client.get("/metrics")).text
        assert await server.stop() == 0

    assert len(met) >= 11
    check_scrape(scrape)
    check_lines(server.lines)


def check_scrape(scrape: str) -> None:
    found = {}
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scrape):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family.type
        labels[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    described = metrics()
    ours = {name: kind for name, kind in found.items() if not name.startswith("process_")}  # Linux has these
    assert ours == {name: kind for name, (kind, _) in described.items()}
    seen = {name: names for name, names in labels.items() if names}
    assert seen == {name: set(described[name][1]) for name in seen}
    assert len(seen) >= 15


def check_lines(lines: list[dict[str, Any]]) -> None:
    described = events()
    seen = {line["event"] for line in lines}
    assert seen >= {
        "switch_started", "model_activated", "switch_failed", "sleep_hook_failed", "request_timeout",
        "request_rejected", "hook_completed", "hook_failed", "hook_output", "state_changed", "model_lost", "model_died",
        "relay_failed", "config_warning", "listening", "stopping", "stopped",
    }  # fmt: skip
    for line in lines:
        levels, fields = described[line["event"]]
        assert line["level"] in levels, line
        assert fields - {"survivors", "backend"} <= set(line) - COMMON <= fields, line
