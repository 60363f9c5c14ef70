"""deploy/grafana.json and deploy/alerts.yaml: every query is one that a running llmux answers."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from llmux import Config, build_app
from llmux.messages import Hook, ModelState, Refusal
from llmux.testing import SimulatedBackend
from tests.docs.documents import ROOT, code, rows

DASHBOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text())
ALERTS = ROOT / "deploy" / "alerts.yaml"

#: What Prometheus adds to everything that it scrapes.
ADDED = {"job", "instance"}
WORDS = {"by", "without", "or", "and", "unless", "on", "ignoring", "group_left", "group_right", "bool", "offset"}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression, and where it is."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"grafana: {panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"grafana: {annotation['name']}", annotation["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"grafana: ${variable['name']}", variable["definition"]
    for rule in rules():
        yield f"alert: {rule['alert']}", rule["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def selectors(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The metrics of a query, each with the labels that it is chosen by."""
    bare = re.sub(r"\b(?:by|without|on|ignoring) \([^)]*\)", "", query)
    bare = re.sub(r"label_values\((.*), \w+\)", r"\1", bare)
    bare = re.sub(r"\[[^]]*\]", "", bare)
    for match in re.finditer(r"(?<![\w.])([a-zA-Z_:][\w:]*)(?!\w)(?!\s*\()(\{[^}]*\})?", _without_strings(bare)):
        if match[1] not in WORDS:
            yield match[1], dict(re.findall(r'(\w+)=~?"([^"]*)"', _with_strings(bare, match[2])))


def _without_strings(query: str) -> str:
    """With every selector's braces emptied of letters, so that no word within them is taken for a metric."""
    return re.sub(r"\{[^}]*\}", lambda match: "{" + str(match.start()) + "}", query)


def _with_strings(query: str, braces: str | None) -> str:
    if not braces:
        return ""
    start = int(braces[1:-1])
    return query[start : query.index("}", start)]


def grouped(query: str) -> set[str]:
    return {
        label.strip()
        for match in re.finditer(r"\bby \(([^)]*)\)", query)
        for label in match[1].split(",")
        if label.strip()
    }


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Every sample's name and its labels, of a llmux that has served, switched and failed."""
    return asyncio.run(_run())


async def _run() -> dict[str, set[str]]:
    async with SimulatedBackend(["a", "b"], tokens=4, tokens_per_second=1e6).serving() as (_, port):
        hooks = {"port": port, "wake": "true", "sleep": "true", "alive": "true"}
        config = Config.model_validate(
            {"models": {"a": hooks, "b": hooks, "broken": hooks | {"wake": "exit 1", "alive": "exit 1"}}, "port": 0}
        )
        app, _switcher = await build_app(config)
        async with (
            app.serving() as (host, listening),
            httpx.AsyncClient(base_url=f"http://{host}:{listening}", timeout=60) as client,
        ):
            for model, stream in (("a", False), ("b", True), ("a", True), ("broken", False), ("nobody", False)):
                question = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
                answer = await client.post("/v1/chat/completions", json=question, timeout=60)
                assert answer.status_code == {"broken": 503, "nobody": 404}.get(model, 200)
            text = (await client.get("/metrics")).text
    samples: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


@pytest.mark.parametrize("query", [pytest.param(query, id=where) for where, query in queries()])
def test_every_query_is_answered(query: str, exposed: dict[str, set[str]]) -> None:
    found = list(selectors(query))
    assert found
    for name, labels in found:
        assert name in exposed, name
        assert set(labels) <= exposed[name] | ADDED, name
    assert all(label in exposed[name] | ADDED for name, _ in found for label in grouped(query))
    assert query.count("(") == query.count(")")


def test_a_query_for_what_is_not_there_would_be_found(exposed: dict[str, set[str]]) -> None:
    ((name, labels),) = selectors('sum by (model) (rate(llmux_request_total{model="a", colour=~"red"}[5m]))')
    assert name == "llmux_request_total"
    assert name not in exposed
    assert labels == {"model": "a", "colour": "red"}
    assert grouped("sum by (le, model) (x)") == {"le", "model"}


def test_values_of_labels_are_those_that_there_are() -> None:
    known: dict[str, set[str]] = {"state": set(ModelState), "hook": set(Hook), "reason": set(Refusal)}
    met = set()
    for where, query in queries():
        for _, labels in selectors(query):
            for label, value in labels.items():
                if label in known:
                    met.add(label)
                    assert set(value.split("|")) <= known[label], where
    assert met == set(known)


def test_legends_name_labels_that_their_query_keeps() -> None:
    for panel in panels():
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = grouped(target["expr"])
            if named and not kept:
                kept = {"from", "to", "model", *ADDED}  # a bare selector keeps all its labels
            assert named <= kept, panel["title"]


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24, panel["title"]
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_state_has_its_name_in_the_timeline() -> None:
    (timeline,) = [panel for panel in panels() if panel["type"] == "state-timeline"]
    (mapping,) = timeline["fieldConfig"]["defaults"]["mappings"]
    shown = {int(number): option["text"] for number, option in mapping["options"].items()}
    asked = re.findall(r'(\d) \* \(llmux_model_state\{[^}]*state="(\w+)"', timeline["targets"][0]["expr"])
    assert {int(number): state for number, state in asked} == shown
    assert set(shown.values()) == set(ModelState)


def test_every_alert_is_explained() -> None:
    table = rows(ROOT / "docs" / "monitoring.md", "alert", "means", "what to do")
    assert [code(row[0])[0] for row in table] == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].startswith("llmux: ")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_prometheus_understands_the_rules(tmp_path: Path) -> None:
    queries_file = tmp_path / "queries.yaml"
    recorded = [
        {"record": f"q{number}", "expr": re.sub(r"\$__rate_interval", "5m", query).replace("$", "")}
        for number, (where, query) in enumerate(queries())
        if "label_values" not in query
    ]
    queries_file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    for file in (ALERTS, queries_file):
        checked = subprocess.run(
            ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
