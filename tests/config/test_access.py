"""Keys, TLS and origins in the configuration: all faults with their lines, and never a key in a message."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmux.config import Config, ModelConfig, read_secrets, secret_files, secret_variables
from llmux.errors import ConfigError

MODELS = """\
models:
  small: {port: 1, wake: w, sleep: s, alive: a, aliases: [tiny]}
  qwen-7b: {port: 2, wake: w, sleep: s, alive: a}
"""
CANARY = "sk-canary-0123456789"
DIGEST = hashlib.sha256(CANARY.encode()).hexdigest()


def made(**keywords: Any) -> Config:
    return Config.model_validate({"models": two_models(), **keywords})


def load(folder: Path, text: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(MODELS + text)
    return Config.from_file(path)


def problems(folder: Path, text: str) -> list[tuple[str, int | None, str]]:
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    assert CANARY not in str(raised.value)
    return raised.value.problems


def test_keys_from_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{CANARY}-env\n")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "b").write_text(f"{CANARY}-file\n")
    config = load(
        tmp_path,
        f"api_keys:\n  a: {{env: MY_KEY}}\n  b: {{file: keys/b, models: [tiny]}}\n  c: {{sha256: {DIGEST.upper()}}}\n"
        f"admin_keys:\n  ops: {{key: {CANARY}-literal}}\n",
    )
    secrets = read_secrets(config)
    assert secrets.faults == ()
    assert {key.name: key.digest for key in (*secrets.api_keys, *secrets.admin_keys)} == {
        "a": hashlib.sha256(f"{CANARY}-env".encode()).digest(),
        "b": hashlib.sha256(f"{CANARY}-file".encode()).digest(),
        "c": bytes.fromhex(DIGEST),
        "ops": hashlib.sha256(f"{CANARY}-literal".encode()).digest(),
    }
    assert list(secret_files(config)) == [tmp_path / "keys" / "b"]
    assert secret_variables(config) == {"MY_KEY"}
    traced = config.model_copy(update={"tracing": True})
    assert secret_variables(traced) == {
        "MY_KEY",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    }


@pytest.mark.parametrize(
    ("patterns", "models"),
    [
        (None, None),
        (["small"], {"small"}),
        (["tiny"], {"small"}),
        (["qwen-*"], {"qwen-7b"}),
        (["*"], {"small", "qwen-7b"}),
        (["qwen-?b", "small"], {"small", "qwen-7b"}),
        (["llama-*"], set()),
        (["Q*"], set()),
    ],
)
def test_the_models_of_a_key(patterns: list[str] | None, models: set[str] | None) -> None:
    config = made(api_keys={"k": {"sha256": DIGEST, "models": patterns}})
    (key,) = read_secrets(config).api_keys
    assert key.models == models


def two_models() -> dict[str, ModelConfig]:
    return {
        "small": ModelConfig(port=1, wake="w", sleep="s", alive="a", aliases=["tiny"]),
        "qwen-7b": ModelConfig(port=2, wake="w", sleep="s", alive="a"),
    }


def test_brackets_in_a_models_name_mean_themselves() -> None:
    model = ModelConfig(port=1, wake="w", sleep="s", alive="a")
    config = made(models={"a[1]": model, "a1": model}, api_keys={"k": {"sha256": DIGEST, "models": ["a[1]*"]}})
    assert read_secrets(config).api_keys[0].models == frozenset({"a[1]"})


ORIGIN = "must be an origin such as https://chat.example.com, without a path; * for any; or null"
BAD = [
    ("api_keys:\n", [("api_keys", 4, "has no key in it; leave it out to let everybody in, or add a key: `name: {env: "
      "VARIABLE}`")]),
    ("admin_keys: {}\n", [("admin_keys", 4, "has no key in it; leave it out to let everybody in, or add a key: `name: "
      "{env: VARIABLE}`")]),
    (f"api_keys: {CANARY}\n", [("api_keys", 4, "must be a mapping (key: value), not what is there")]),
    (f"api_keys:\n  a: {CANARY}\n", [("api_keys.a", 5, "must be a mapping (key: value), not what is there")]),
    (f"api_keys:\n  - {CANARY}\n", [("api_keys", 4, "must be a mapping (key: value), not a list")]),
    (f"api_keys:\n  a: {{key: !x {CANARY}}}\n", [("api_keys.a.key", 5, "cannot be read as !x")]),
    (f"api_keys:\n  a: {{key: [{CANARY}]}}\n", [("api_keys.a.key", 5, "must be text, not a list")]),
    ("api_keys:\n  a: {}\n", [("api_keys.a", 5, "must have one of `env`, `file`, `sha256` and `key`; none of them is "
      "there")]),
    (f"api_keys:\n  a: {{env: A, key: {CANARY}}}\n", [("api_keys.a", 5, "must have one of `env`, `file`, `sha256` and "
      "`key`; env and key are both there")]),
    ("api_keys:\n  a: {envv: A}\n", [("api_keys.a.envv", 5, "unknown key; did you mean 'env'?")]),
    ("admin_keys:\n  a: {env: A, models: [small]}\n", [("admin_keys.a.models", 5, "unknown key; known are: env, file, "
      "sha256, key")]),
    (f"api_keys:\n  a: {{sha256: {CANARY}}}\n", [("api_keys.a.sha256", 5, "must be 64 hexadecimal digits, as `printf "
      "%s \"$KEY\" | sha256sum` prints them")]),
    (f"api_keys:\n  a: {{env: {CANARY}}}\n", [("api_keys.a.env", 5, "must be the name of an environment variable")]),
    ("api_keys:\n  a: {env: A, models: []}\n", [("api_keys.a.models", 5, "must not be empty")]),
    ("api_keys:\n  a:\n    env: A\n    models: [smal]\n", [("api_keys.a.models[0]", 7, "unknown model; did you mean "
      "'small'?")]),
    ("tls: {cert: a}\n", [("tls.key", 4, "is missing")]),
    ("tls: a.pem\n", [("tls", 4, "must be a mapping (key: value), not the text 'a.pem'")]),
    ("allowed_hosts: [a.example, 'http://x']\n", [("allowed_hosts[1]", 4, "must be a host name without a port, "
      "*.example.com for all names below one, or * for any")]),
    ("cors: {origins: ['https://a/b', c]}\n", [
        ("cors.origins[0]", 4, ORIGIN),
        ("cors.origins[1]", 4, ORIGIN),
    ]),
    ("cors: {origins: ['*', 'https://a']}\n", [("cors.origins", 4, "has * and others: * alone means all origins")]),
]  # fmt: skip


@pytest.mark.fault(57, 69)
@pytest.mark.parametrize(("text", "expected"), BAD, ids=range(len(BAD)))
def test_faults(tmp_path: Path, text: str, expected: list[tuple[str, int | None, str]]) -> None:
    assert problems(tmp_path, text) == expected


def test_what_a_key_names_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text(f"{CANARY}\n{CANARY}2\n")
    config = load(
        tmp_path,
        "api_keys:\n  a: {env: LLMUX_NOT_SET}\n  b: {file: none}\n  c: {file: empty}\n  d: {file: two}\n"
        f"  e: {{sha256: {DIGEST}}}\nadmin_keys:\n  ops:\n    key: {CANARY}\n",
    )
    error = config.error(read_secrets(config).faults)
    line = "a key is one line of printable ASCII; "
    assert error.problems == [
        ("api_keys.a.env", 5, "the environment variable LLMUX_NOT_SET is not set"),
        ("api_keys.b.file", 6, f"{tmp_path / 'none'} cannot be read: No such file or directory"),
        ("api_keys.c.file", 7, line + "it is empty"),
        ("api_keys.d.file", 8, line + "what is there is not: too long, or with a space or an odd character"),
        ("admin_keys.ops.key", 12, "is the same key as api_keys.e"),
    ]
    assert CANARY not in str(error)


def test_a_key_that_can_be_guessed_is_warned_of() -> None:
    config = made(api_keys={"a": {"key": "hunter2"}, "b": {"key": CANARY}})
    assert read_secrets(config).warnings == ("api_keys.a is a key of fewer than 16 characters: it can be guessed",)


@pytest.mark.fault(69)
def test_a_configuration_never_shows_a_key() -> None:
    config = made(api_keys={"a": {"key": CANARY}}, admin_keys={"b": {"key": CANARY + "2"}})
    shown = repr(config) + str(config) + str(config.model_dump()) + config.model_dump_json()
    assert CANARY not in shown
    bad: list[dict[str, Any]] = [
        {"api_keys": {"a": CANARY}},
        {"api_keys": {"a": {"key": CANARY, "env": "A"}}},
        {"api_keys": {"a": {"key": CANARY}}, "port": "x"},
    ]
    for keywords in bad:
        with pytest.raises(ValidationError) as raised:
            made(**keywords)
        assert CANARY not in str(raised.value), keywords


@pytest.mark.parametrize(
    ("top", "own", "keys", "forwards"),
    [
        (False, None, False, True),
        (False, None, True, False),
        (True, None, True, True),
        (False, True, True, True),
        (True, False, True, False),
        (True, False, False, True),
    ],
)
def test_who_gets_authorization(top: bool, own: bool | None, keys: bool, forwards: bool) -> None:
    model = ModelConfig(port=1, wake="w", sleep="s", alive="a", forward_authorization=own)
    given = {"api_keys": {"a": {"sha256": DIGEST}}} if keys else {}
    config = made(models={"m": model}, forward_authorization=top, **given)
    assert config.forwards_authorization("m") is forwards
