"""What clients are told of a model, and what becomes of their bodies, as the file has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmux.config import Config
from llmux.errors import ConfigError

MODELS = "models:\n  a: {port: 1, wake: w, sleep: s, alive: a, aliases: [b]%s}\n"


def read(tmp_path: Path, more: str = "", top: str = "") -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(MODELS % more + top)
    return Config.from_file(path)


def test_they_are_read(tmp_path: Path) -> None:
    more = ", keep_aliases: true, strip_params: [x, 5], set_params: {temperature: 0.5, n: null}"
    more += ", metadata: {a: [1, {b: c}]}"
    config = read(tmp_path, more, "default_model: b\n")
    model = config.models["a"]
    assert model.keep_aliases
    assert model.strip_params == ["x", "5"]
    assert model.set_params == {"temperature": 0.5, "n": None}
    assert model.metadata == {"a": [1, {"b": "c"}]}
    assert config.default_model == "b"


def test_without_them_nothing_is_done(tmp_path: Path) -> None:
    config = read(tmp_path)
    model = config.models["a"]
    assert (model.keep_aliases, model.strip_params, model.set_params, model.metadata) == (False, [], {}, {})
    assert config.default_model is None


@pytest.mark.parametrize(
    ("more", "top", "fault"),
    [
        (", strip_params: [model]", "", "models.a.strip_params[0]: the model's name is what `send_model_as`"),
        (", set_params: {model: x}", "", "models.a.set_params: the model's name is what `send_model_as`"),
        (", set_params: {x: .nan}", "", "models.a.set_params: must be JSON"),
        (", metadata: {x: .inf}", "", "models.a.metadata: must be JSON"),
        (", strip_params: x", "", "models.a.strip_params: "),
        ("", "default_model: c\n", "default_model: unknown model; known are: a, b"),
    ],
)
def test_faults(tmp_path: Path, more: str, top: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, more, top)
    assert fault in str(error.value)
