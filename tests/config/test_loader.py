"""Configuration files: 2.4.0's load as they are; of bad ones every fault is told, with path and line (FAULTS 57)."""

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmux.config import Config
from llmux.config.json_reader import read_json
from llmux.config.tree import UnreadableError
from llmux.config.yaml_reader import read_yaml
from llmux.errors import ConfigError
from llmux.messages import Hook

SEED_YAML = """\
models:
  llama:
    port: 8001
    wake: ./scripts/wake-llama.sh
    sleep: |
      kill $(cat /tmp/llama.pid)
      rm /tmp/llama.pid
    alive: curl -sf http://localhost:8001/health

  mistral:
    port: 8002
    wake: ./scripts/wake-mistral.sh
    sleep: ./scripts/sleep-mistral.sh
    alive: curl -sf http://localhost:8002/health

policy:
  request_timeout_secs: 300
  drain_before_switch: false
  min_active_secs: 5

port: 4000
"""
SEED_JSON = """\
{
    "models": {
        "llama": {
            "port": 8001,
            "wake": "./scripts/wake-llama.sh",
            "sleep": "kill $(cat /tmp/llama.pid)\\nrm /tmp/llama.pid\\n",
            "alive": "curl -sf http://localhost:8001/health"
        }
    },
    "policy": { "request_timeout_secs": 30 },
    "port": 3000
}
"""
MODEL = "{port: 1, wake: w, sleep: s, alive: a}"


def write(folder: Path, text: str | bytes, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    return path


def problems(folder: Path, text: str | bytes, name: str = "config.yaml") -> list[tuple[str, int | None, str]]:
    path = write(folder, text, name)
    with pytest.raises(ConfigError) as caught:
        Config.from_file(path)
    assert caught.value.source == str(path)
    return caught.value.problems


# --- files of 2.4.0 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.yaml", "config.yml"])
def test_a_yaml_file_of_2_4_0(tmp_path: Path, name: str) -> None:
    config = Config.from_file(write(tmp_path, SEED_YAML, name))
    assert list(config.models) == ["llama", "mistral"]
    assert config.models["llama"].sleep == "kill $(cat /tmp/llama.pid)\nrm /tmp/llama.pid\n"
    assert config.models["mistral"].port == 8002
    assert config.policy.request_timeout_secs == 300
    assert config.policy.drain_before_switch is False
    assert config.policy.min_active_secs == 5
    assert config.port == 4000
    assert config.warnings == []


@pytest.mark.parametrize("name", ["config.json", "config", "config.conf"])
def test_a_json_file_of_2_4_0(tmp_path: Path, name: str) -> None:
    config = Config.from_file(str(write(tmp_path, SEED_JSON, name)))
    assert list(config.models) == ["llama"]
    assert config.models["llama"].sleep == "kill $(cat /tmp/llama.pid)\nrm /tmp/llama.pid\n"
    assert config.policy.request_timeout_secs == 30
    assert config.port == 3000


def test_yaml_scalars_mean_what_they_meant_to_2_4_0(tmp_path: Path) -> None:
    text = """\
        models:
          1:
            port: 0x1F41
            wake: true
            sleep:
            alive: 1.50
          yes: {port: 0o17, wake: no, sleep: 12:30, alive: 0123}
          null: {port: +3, wake: "", sleep: '', alive: 2026-01-01}
        policy:
        """
    config = Config.from_file(write(tmp_path, text))
    assert list(config.models) == ["1", "yes", "null"]
    assert [model.port for model in config.models.values()] == [8001, 15, 3]
    assert [model.wake for model in config.models.values()] == ["true", "no", ""]
    assert [model.sleep for model in config.models.values()] == ["", "12:30", ""]
    assert [model.alive for model in config.models.values()] == ["1.50", "0123", "2026-01-01"]
    assert config.warnings == ["models.1.sleep (line 5) is empty: nothing is run, and that counts as success"]


def test_whole_and_broken_seconds(tmp_path: Path) -> None:
    text = f"models: {{a: {MODEL}}}\npolicy: {{request_timeout_secs: 0.5, min_active_secs: 18446744073709551615}}"
    assert Config.from_file(write(tmp_path, text)).policy.request_timeout_secs == 0.5


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert Config.from_file(write(tmp_path, b"\xef\xbb\xbf" + SEED_JSON.encode(), "c.json")).port == 3000
    assert Config.from_file(write(tmp_path, b"\xef\xbb\xbf" + SEED_YAML.encode())).port == 4000


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = """\
        models:
          a: &base
            port: 1
            wake: &script run $LLMUX_MODEL
            sleep: stop
            alive: check
          b:
            <<: *base
            port: 2
          c:
            <<: [{sleep: other}, *base]
            alive: *script
        """
    models = Config.from_file(write(tmp_path, text)).models
    assert [(m.port, m.sleep, m.alive) for m in models.values()] == [
        (1, "stop", "check"),
        (2, "stop", "check"),
        (1, "other", "run $LLMUX_MODEL"),
    ]


# --- faults ----------------------------------------------------------------------------------------------------------

BAD_YAML: list[tuple[str, list[tuple[str, int | None, str]]]] = [
    ("", [("", None, "the file is empty")]),
    ("# nothing\n", [("", None, "the file is empty")]),
    ("- a\n", [("", 1, "must be a mapping with a key `models`")]),
    ("\nport: 1\n", [("models", 2, "is missing")]),
    ("models: [a]\n", [("models", 1, "must be a mapping (key: value), not a list")]),
    (
        f"models:\n  a: {MODEL}\n  a: {MODEL}\nport: 1\nport: 2\n",
        [
            ("models.a", 3, "given twice; the first is on line 2"),
            ("port", 5, "given twice; the first is on line 4"),
        ],
    ),
    (
        """\
models:
  llama:
    prot: 8001
    wake: 5 o'clock
    sleep: {a: 1}
    alive: ~
    drain_timeout: 5
    on_exit: sleep
policy:
  request_timeout_sec: 5
  drain_before_switch: yes
  min_active_secs: -1
port: "3000"
scripts: {}
max_wait_secs: 30
wake: ./wake.sh
""",
        [
            ("models.llama.url", 2, "is missing: a model needs a `port` or a `url`"),
            ("models.llama.prot", 3, "unknown key; did you mean 'port'?"),
            ("models.llama.sleep", 5, "must be text, not a mapping"),
            ("models.llama.alive", 6, "must be text, not nothing"),
            ("models.llama.drain_timeout", 7, "unknown key; did you mean 'drain_timeout_secs'?"),
            ("models.llama.on_exit", 8, "unknown key; it belongs at the top level"),
            ("policy.request_timeout_sec", 10, "unknown key; did you mean 'request_timeout_secs'?"),
            ("policy.drain_before_switch", 11, "must be true or false, not the text 'yes'"),
            ("policy.min_active_secs", 12, "must be at least 0, not -1"),
            ("port", 13, "must be a whole number, not the text '3000'; leave out the quotes"),
            (
                "scripts",
                14,
                "unknown key; known are: models, default_model, policy, host, port, api_keys, admin_keys, "
                "forward_authorization, metrics_need_key, tls, allowed_hosts, cors, trusted_proxies, devices, "
                "hook_timeout_secs, idle_sleep_secs, preload, drain_timeout_secs, "
                "alive_interval_secs, doubt_after_failures, max_body_bytes, max_buffered_bytes, max_queue, "
                "waiting_keepalive_secs, shutdown_grace_secs, on_exit, on_exit_timeout_secs, access_log, "
                "access_log_max_bytes, access_log_keep, tracing, event_log, "
                "event_log_max_bytes, event_log_keep, state_dir, timeouts_secs",
            ),
            ("max_wait_secs", 15, "unknown key; it belongs under `policy`"),
            ("wake", 16, "unknown key; it belongs under a model"),
        ],
    ),
    (
        "models:\n  a:\n    port: 0\n  b.c:\n    port: 1\n    url: http://x\n    wake: w\n    sleep: s\n    alive: a\n",
        [
            ("models.a.wake", 2, "is missing"),
            ("models.a.sleep", 2, "is missing"),
            ("models.a.alive", 2, "is missing"),
            ("models.a.port", 3, "must be at least 1, not 0"),
            ('models."b.c".url', 6, "must be left out: the model has a `port` already"),
        ],
    ),
    (
        f"models: {{a: {MODEL}}}\n"
        "port: 65536\nhost: http://x\nmax_queue: 1.5\non_exit: stop\nmax_body_bytes: 5 apples\n"
        "drain_timeout_secs: .inf\nalive_interval_secs: .nan\nshutdown_grace_secs: soon\n"
        "hook_timeout_secs: {wake: 0, slep: 1}\ntimeouts_secs: 5\n",
        [
            ("port", 2, "must be at most 65535, not 65536"),
            ("host", 3, "must be a host name or an address, not the text 'http://x'"),
            ("max_queue", 4, "must be a whole number, not 1.5"),
            ("on_exit", 5, "must be 'leave' or 'sleep', not the text 'stop'"),
            ("max_body_bytes", 6, "has the unknown unit 'apples': known are KB, MB, GB, TB (powers of 1000) and KiB, "
             "MiB, GiB, TiB (powers of 1024)"),
            ("drain_timeout_secs", 7, "must be a finite number; for no limit write null, where that is allowed"),
            ("alive_interval_secs", 8, "must be a finite number; for no limit write null, where that is allowed"),
            ("shutdown_grace_secs", 9, "must be a number, not the text 'soon'"),
            ("hook_timeout_secs.wake", 10, "must be more than 0, not 0"),
            ("hook_timeout_secs.slep", 10, "unknown key; did you mean 'sleep'?"),
            ("timeouts_secs", 11, "must be a mapping (key: value), not 5"),
        ],
    ),
    (
        f"""\
devices:
  gpu0: 24GiB
  gpu1: 8GiB
models:
  a: {{<<: &m {MODEL}, needs: 25GiB}}
  b: {{<<: *m, needs: {{gpu0: 1GiB, gpu1: 9GiB, gpu2: 1GiB}}}}
  c: {{<<: *m, needs: lots, aliases: [a, c, x, x]}}
  d:
    <<: *m
    aliases:
      - y
      - x
    needs: {{gpu0: 0, gpu1: true}}
""",
        [
            (
                "models.a.needs",
                5,
                "can never fit: it needs 25GiB on one device, and the largest, gpu0, has 24GiB",
            ),
            ("models.b.needs.gpu1", 6, "can never fit: it needs 9GiB, and gpu1 has 8GiB"),
            ("models.b.needs.gpu2", 6, "unknown device; did you mean 'gpu1'?"),
            ("models.c.needs", 7, "must be a size such as 24GiB, 500MB or a number of bytes, not 'lots'"),
            ("models.c.aliases[0]", 7, "'a' is the name of another model"),
            ("models.c.aliases[1]", 7, "'c' is the model's own name"),
            ("models.c.aliases[3]", 7, "'x' is already an alias of this model"),
            ("models.d.aliases[1]", 12, "'x' is already an alias of model 'c'"),
            ("models.d.needs.gpu0", 13, "must be more than 0 bytes"),
            ("models.d.needs.gpu1", 13, "must be a size such as 24GiB, 500MB or a number of bytes"),
        ],
    ),
    (
        f"models: {{a: {{<<: {MODEL}, needs: 1}}}}\n",
        [
            (
                "models.a.needs",
                1,
                "means nothing without devices: declare them at the top level, as in `devices: {gpu0: 24GiB}`",
            )
        ],
    ),
    (
        f"models:\n  a: {{<<: {MODEL}, pinned: true}}\n  b: {MODEL}\n",
        [("models.a.pinned", 2, "needs `devices`: without them, no other model could ever be woken")],
    ),
    (
        f"""\
devices: {{gpu0: 24GiB, gpu1: 24GiB}}
models:
  a: {{<<: &m {MODEL}, needs: 10GiB, pinned: true}}
  b: {{<<: *m, needs: {{gpu0: 20GiB}}}}
  c: {{<<: *m, needs: 20GiB}}
  d: {{<<: *m, needs: {{gpu1: 24GiB}}, pinned: false}}
""",
        [
            (
                f"models.{name}",
                line,
                "could never be woken once the pinned models (a) are awake where their needs let them be; pin fewer, "
                "or name their devices, as in `needs: {gpu0: 10GiB}`",
            )
            for name, line in (("b", 4), ("d", 6))
        ],
    ),
    (
        f"models: {{a: {MODEL}}}\ndevices: {{}}\n",
        [("devices", 2, "must not be empty")],
    ),
    (
        f"models: {{a: {{<<: {MODEL}, needs: {{gpu0: 1}}}}, b: {{<<: {MODEL}, aliases: [a]}}}}\n"
        "devices: {gpu 0: 5}\n",
        [
            ("models.b.aliases[0]", 1, "'a' is the name of another model"),
            ('devices."gpu 0"', 2, "a device's name is made of letters, digits and _ . : -"),
        ],
    ),
    (
        f'models:\n  "": {MODEL}\n  "a\\nb": {MODEL}\n  c: {{<<: {MODEL}, aliases: ["\\e[31m"]}}\n',
        [
            ('models.""', 2, "a name must not be empty"),
            ('models."a\\nb"', 3, "a name must not have control characters"),
            ("models.c.aliases[0]", 4, "a name must not have control characters"),
        ],
    ),
    (
        'models: {<a>: {port: x, wake: "\\0", sleep: s, alive: a}}\n',
        [
            ("models.<a>.port", 1, "must be a whole number, not the text 'x'"),
            ("models.<a>.wake", 1, "a script must not have NUL characters or lone surrogates"),
        ],
    ),
    (
        f"models: {{a: {MODEL}}}\npolicy:\n  name: fifa\n",
        [("policy.name", 3, "unknown policy 'fifa'; did you mean 'fifo'? (or name a package.module:Class)")],
    ),
    ("models:\n  a: {port: 1\n", [("", 3, "not valid YAML: while parsing a flow mapping: expected ',' or '}', but "
      "got '<stream end>'")]),
    ("models:\n\ta: 1\n", [("", 2, "not valid YAML: while scanning for the next token: found character '\\t' that "
      "cannot start any token")]),
    ("models: *x\n", [("", 1, "not valid YAML: found undefined alias 'x'")]),
    ("a: 1\n---\nb: 2\n", [("", 2, "not valid YAML: expected a single document in the stream: but found another "
      "document")]),
    ("models: {}\nhost: \x07\n", [("", 2, "not valid YAML: the character '\\x07' is not allowed")]),
    ("models: &m\n  a: *m\n", [("", 2, "an alias stands inside of what it stands for")]),
    ("models: &m\n  <<: *m\n", [("", 2, "an alias stands inside of what it stands for")]),
    ("models: {}\n<<: 5\n", [("", 2, "only a mapping, or a list of them, can be merged with <<")]),
    ("models: {}\n? [a]\n: 5\n", [("", 2, "a key must be text")]),
    ("models: {}\nport: !!int five\nhost: !env HOST\n", [
        ("port", 2, "'five' cannot be read as !!int"), ("host", 3, "'HOST' cannot be read as !env"),]),
    ("models: !map {}\n", [("models", 1, "the tag !map is not supported here")]),
    ("models: {}\nport: " + "9" * 5000 + "\n", [("port", 2, "'" + "9" * 40 + "…' cannot be read as !!int")]),
    ("[" * 2000, [("", None, "nested too deeply")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BAD_YAML, ids=range(len(BAD_YAML)))
def test_bad_yaml(tmp_path: Path, text: str, expected: list[tuple[str, int | None, str]]) -> None:
    found = problems(tmp_path, text)
    assert sorted(found, key=str) == sorted(expected, key=str)
    lines = [line or 0 for _, line, _ in found]
    assert lines == sorted(lines)


BAD_JSON: list[tuple[str, list[tuple[str, int | None, str]]]] = [
    ("", [("", None, "the file is empty")]),
    (" \n", [("", None, "the file is empty")]),
    ("\n[]", [("", 2, "must be a mapping with a key `models`")]),
    ('{\n "models" {}\n}', [("", 2, "not valid JSON: Expecting ':' delimiter at column 11")]),
    ('{"models": {}, "max_queue": NaN}', [("", None, "not valid JSON: NaN is not a JSON number")]),
    ("[" * 100_000, [("", None, "nested too deeply")]),
    (
        """\
{
\t"models": {
\t\t"a": {"port": 1, "wake": "{\\n", "sleep": "s", "alive": true},
\t\t"b": {
\t\t\t"port": 2, "wake": "\\"}", "sleep": "s",
\t\t\t"alive": 5, "aliases": [
\t\t\t\t"x",
\t\t\t\t7
\t\t\t], "port": 3
\t\t},
\t\t"\\u0061": {}
\t},
\t"port": "x"
}
""",
        [
            ("models.a.alive", 3, 'must be text, not true; write it in quotes: "true"'),
            ("models.b.alive", 6, 'must be text, not 5; write it in quotes: "5"'),
            ("models.b.aliases[1]", 8, 'must be text, not 7; write it in quotes: "7"'),
            ("models.b.port", 9, "given twice; the first is on line 5"),
            ("models.a", 11, "given twice; the first is on line 3"),
            ("port", 13, "must be a whole number, not the text 'x'"),
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json(tmp_path: Path, text: str, expected: list[tuple[str, int | None, str]]) -> None:
    assert problems(tmp_path, text, "config.json") == expected


def test_yaml_in_a_file_that_is_not_called_so(tmp_path: Path) -> None:
    [(_, line, message)] = problems(tmp_path, SEED_YAML, "config.conf")
    assert line == 1
    assert message.endswith("(only .yaml and .yml files are read as YAML)")


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
def test_what_is_not_utf_8(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, b'{"models":\n {"\xff": 1}}', name) == [("", 2, "not UTF-8: byte 0xff")]
    assert problems(tmp_path, '{"models": {}}'.encode("utf-16"), name) == [("", 1, "not UTF-8: byte 0xff")]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_file(tmp_path / "none.yaml")
    assert caught.value.problems == [("", None, "cannot be read: No such file or directory")]
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Config.from_file(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        Config.from_file("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, SEED_YAML)
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        Config.from_file(path)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    assert problems(tmp_path, "#" * 2**20 + "\n") == [("", None, "larger than 1048576 bytes")]


def test_a_billion_laughs(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    [(_, _, message)] = problems(tmp_path, "\n".join(lines))
    assert message == "its aliases expand to more than 50000 values"
    merges = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10)]
    [(_, _, message)] = problems(tmp_path, "\n".join(merges))
    assert message == "its aliases expand to more than 50000 values"


def test_the_message_has_one_line_for_each_problem(tmp_path: Path) -> None:
    path = write(tmp_path, f"models: {{a: {MODEL}}}\nprot: 1\nport: x\n")
    with pytest.raises(ConfigError) as caught:
        Config.from_file(path)
    assert str(caught.value) == (
        f"{path}: 2 problems\n"
        f"  {path}:2: prot: unknown key; did you mean 'port'?\n"
        f"  {path}:3: port: must be a whole number, not the text 'x'"
    )


# --- folders of hooks ------------------------------------------------------------------------------------------------


def hooked(script: str) -> str:
    model = {"port": 1, "wake": script, "sleep": "true", "alive": "true"}
    return json.dumps({"models": {"a": model}})


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The configuration's folder, with scripts/both.sh and scripts/here.sh, and the one in which llmux is started,
    with scripts/both.sh and scripts/there.sh."""
    base, started_in = tmp_path / "etc", tmp_path / "home"
    for folder, name in ((base, "here.sh"), (started_in, "there.sh")):
        (folder / "scripts").mkdir(parents=True)
        (folder / "scripts" / name).touch()
        (folder / "scripts" / "both.sh").touch()
    monkeypatch.chdir(started_in)
    return base, started_in


@pytest.mark.parametrize(
    ("script", "at_start"),
    [
        ("./scripts/here.sh", False),
        ("./scripts/both.sh", False),
        ("./scripts/there.sh", True),
        ("scripts/there.sh --now", True),
        ("X=1 bash 'scripts/there.sh' && true", True),
        ("# comment\nscripts/there.sh", True),
        ("# scripts/there.sh", False),
        ("scripts/there.sh; scripts/here.sh", False),
        ("scripts/nowhere.sh", False),
        ("/scripts/there.sh", False),
        ("$HOME/scripts/there.sh http://x/scripts/there.sh", False),
        ("ls scripts/", False),
        ("true", False),
        ("", False),
    ],
)
def test_hooks_run_beside_the_file_unless_their_script_is_only_where_llmux_was_started(
    folders: tuple[Path, Path], script: str, at_start: bool
) -> None:
    base, started_in = folders
    config = Config.from_file(write(base, hooked(script), "c.json"))
    assert config.base_dir == base
    assert config.hook_cwd("a", Hook.WAKE) == (started_in if at_start else base)
    assert config.hook_cwd("a", Hook.SLEEP) == base
    assert len(config.warnings) == at_start
    if at_start:
        assert re.match(rf"models\.a\.wake runs in {started_in}, where (\./)?scripts/there\.sh is;", config.warnings[0])


def test_what_is_too_long_for_a_files_name_is_none(folders: tuple[Path, Path]) -> None:
    base, _ = folders
    config = Config.from_file(write(base, hooked(f"echo ./{'x' * 300} | ./scripts/there.sh"), "c.json"))
    assert len(config.warnings) == 1


def test_a_relative_path_to_the_file(folders: tuple[Path, Path]) -> None:
    base, _ = folders
    write(base, hooked("./scripts/here.sh"), "c.json")
    config = Config.from_file("../etc/c.json")
    assert config.base_dir == base
    assert config.hook_cwd("a", Hook.WAKE) == base


def test_a_model_on_llmux_own_port(tmp_path: Path) -> None:
    """Which port is llmux's own is for the command line to say."""
    config = Config.from_file(write(tmp_path, f"models: {{a: {MODEL}}}\nport: 1\n"))
    assert config.port_warnings(1) == ["models.a.port is llmux's own port: it would ask itself for answers"]
    assert config.port_warnings(2) == config.warnings == []


def test_no_models_at_all(tmp_path: Path) -> None:
    config = Config.from_file(write(tmp_path, "models: {}\n"))
    assert config.warnings == ["models is empty: whatever is asked for is not found"]


@pytest.mark.parametrize(
    ("policy", "priority", "warned"),
    [
        ("{}", "2", True),
        ("{name: fifo}", "-1", True),
        ("{name: fifo}", "0", False),
        ("{name: priority}", "2", False),
        ("{name: some_package.policies:Own}", "2", False),
    ],
)
def test_a_priority_that_nobody_goes_by_is_warned_of(tmp_path: Path, policy: str, priority: str, warned: bool) -> None:
    model = f"{{port: 1, wake: x, sleep: x, alive: x, priority: {priority}}}"
    warnings = Config.from_file(write(tmp_path, f"models: {{a: {model}}}\npolicy: {policy}\n")).warnings
    assert [warning.partition(" does nothing")[0] for warning in warnings] == ["`priority` of a"] * warned


# --- readers against the libraries -----------------------------------------------------------------------------------

DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(DATA.filter(lambda data: data is not None), st.sampled_from([None, 0, 2, "\t"]))
def test_json_reads_as_json_does(data: object, indent: int | str | None) -> None:
    text = json.dumps(data, indent=indent)
    root, faults = read_json(text)
    assert root is not None
    assert root.data() == data
    assert faults == []


@given(st.dictionaries(st.text("ab .", min_size=1), st.lists(st.integers()), min_size=1), st.integers(0, 3))
def test_every_json_line_is_right(data: dict[str, list[int]], blank: int) -> None:
    text = "\n" * blank + json.dumps(data, indent=1)
    root, _ = read_json(text)
    assert root is not None
    for key, numbers in data.items():
        assert json.dumps(key) in text.split("\n")[root.find([key]).line - 1]
        for index, number in enumerate(numbers):
            assert text.split("\n")[root.find([key, index]).line - 1].strip(" ,") == str(number)


@given(DATA.filter(lambda data: data is not None), st.booleans())
def test_yaml_reads_what_pyyaml_writes(data: object, flow: bool) -> None:
    root, faults = read_yaml(yaml.safe_dump(data, default_flow_style=flow))
    assert root is not None
    assert root.data() == data
    assert faults == []


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.text()
    | st.lists(st.sampled_from([*"{}[]:,-&*!|>'\"%@`#?~<1a \n\t", "<<", ": ", "- ", "*a", "&a "])).map("".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_yaml, read_json):
        try:
            root, _ = read(text)
        except UnreadableError:
            continue
        assert root is None or json.dumps(root.data()) is not None


# --- any file --------------------------------------------------------------------------------------------------------

WHOLE: dict[str, object] = {
    "models": {
        "a": {"port": 1, "wake": "w", "sleep": "s", "alive": "a", "aliases": ["x"], "needs": {"g": 1}},
        "b": {"url": "http://h", "wake": "w", "sleep": "s", "alive": "a", "needs": 1, "hook_timeout_secs": {"wake": 1}},
    },
    "policy": {"name": "fifo", "min_active_secs": 1},
    "devices": {"g": "1GiB"},
    "hook_timeout_secs": {"wake": 1, "sleep": None},
    "timeouts_secs": {"head": 1},
    "max_body_bytes": 5,
    "on_exit": "leave",
}
PLACES = [["models"], ["devices"], ["policy"], ["models", "a"], ["models", "b"], ["models", "a", "needs"],
    ["models", "a", "aliases"], ["models", "b", "hook_timeout_secs"], ["hook_timeout_secs"], []]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.integers(0, 9), DATA, st.text(max_size=3)), min_size=1, max_size=4),
    st.booleans(),
)
def test_any_change_to_a_file_makes_another_good_one_or_problems_with_lines(
    tmp_path: Path, changes: list[tuple[list[str], int, object, str]], as_yaml: bool
) -> None:
    data = json.loads(json.dumps(WHOLE))
    for place, which, value, new in changes:
        part = data
        for name in place:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part[[*part, new][which % (len(part) + 1)]] = value
    text = yaml.safe_dump(data) if as_yaml else json.dumps(data, indent=1)
    path = write(tmp_path, text.encode(), "c.yaml" if as_yaml else "c.json")
    error = None
    try:
        Config.from_file(path)
    except ConfigError as raised:
        error = raised
    if error is not None:
        last = text.count("\n") + 1
        assert error.problems
        assert all(line is not None and 1 <= line <= last for _, line, _ in error.problems)
        assert all(line.isprintable() for line in str(error).split("\n"))
        assert str(error).count("\n") == len(error.problems)
