"""The JSON schema: valid itself, complete, and of one mind with the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llmux.config import Config, config_schema

SCHEMA = config_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
MODEL = {"port": 8001, "wake": "w", "sleep": "s", "alive": "a"}

GOOD: list[dict[str, Any]] = [
    {"models": {}},
    {"models": {"a": MODEL}, "policy": {"request_timeout_secs": None, "min_active_secs": 5}, "port": 0},
    {"models": {"a": {**MODEL, "needs": {"g": "1.5 GiB"}}, "b": {**MODEL, "needs": 5}}, "devices": {"g": "24GiB"}},
    {"models": {"a": MODEL}, "policy": {"name": "x.y:Z", "weight": 2, "quantum": "much"}},
    {"models": {"a": MODEL}, "policy": {"name": "priority", "levels": {"a": 2}, "max_wait_secs": None}},
    {"models": {"a": MODEL}, "hook_timeout_secs": {"wake": None}, "timeouts_secs": {"response": 1.5}},
]
BAD: list[dict[str, Any]] = [
    {},
    {"models": {"a": {}}},
    {"models": {"a": MODEL}, "prot": 1},
    {"models": {"a": MODEL}, "policy": {"weight": 2}},
    {"models": {"a": MODEL}, "policy": {"name": "fifo", "weight": 2}},
    {"models": {"a": MODEL}, "policy": {"name": "fifo", "max_wait_secs": 2}},
    {"models": {"a": MODEL}, "policy": {"name": "round-robin", "patience": 2}},
    {"models": {"a": MODEL}, "policy": {"name": "round-robin", "quantum": "much"}},
    {"models": {"a": {**MODEL, "url": "http://x"}}},
    {"models": {"a": {**MODEL, "needs": "5 apples"}}, "devices": {"g": 5}},
    {"models": {"a": MODEL}, "on_exit": "explode"},
    {"models": {"a": MODEL}, "port": 65536},
    {"models": {"a": MODEL}, "drain_timeout_secs": -1},
    {"models": {"a": MODEL}, "devices": {}},
]


def fields() -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, part in [("Config", SCHEMA), *SCHEMA["$defs"].items()]:
        for field, schema in part["properties"].items():
            yield f"{name}.{field}", schema, field in part.get("required", [])


FIELDS = list(fields())


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("data", GOOD)
def test_good_examples(data: dict[str, Any]) -> None:
    Config.model_validate(data)
    VALIDATOR.validate(data)


@pytest.mark.parametrize("data", BAD)
def test_bad_examples(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Config.model_validate(data)
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize(("name", "schema", "required"), FIELDS, ids=[name for name, _, _ in FIELDS])
def test_every_field_is_described(name: str, schema: dict[str, Any], required: bool) -> None:
    description = schema.get("description", "")
    if required:
        assert description.endswith("Required.")
        return
    told = description.rpartition("Default: ")[2].removesuffix(".")
    default = schema.get("default")
    if isinstance(default, bool | str):
        assert told == str(default).lower()
    elif isinstance(default, int | float):
        assert told in (f"{default:g}", "10000", "100MiB", "64MiB", "1GiB")
    else:
        assert told
    if "_secs" in name or "Timeouts." in name:
        assert "econds" in description


@pytest.mark.parametrize(("name", "schema", "required"), FIELDS, ids=[name for name, _, _ in FIELDS])
def test_examples_and_defaults_are_valid(name: str, schema: dict[str, Any], required: bool) -> None:
    part = VALIDATOR.evolve(schema={**schema, "$defs": SCHEMA["$defs"]})
    for example in schema.get("examples", []):
        part.validate(example)
    if "default" in schema:
        part.validate(schema["default"])
