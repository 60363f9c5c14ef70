"""``llmux check``: what it finds, and that it wakes nobody."""

from __future__ import annotations

import itertools
import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.cli.places import place_problems
from llmux.cli.together import together
from llmux.config import Config
from tests.cli.conftest import clean
from tests.cli.test_cli import DEADLINE, LLMUX

GOOD = """
devices: {{gpu0: 24GiB, gpu1: 24GiB}}
models:
  big: {{port: 8001, needs: {{gpu0: 20GiB, gpu1: 20GiB}}, wake: "{wake}", sleep: "true", alive: "true"}}
  small: {{port: 8002, needs: 10GiB, wake: "true", sleep: "true", alive: "false"}}
  tiny: {{port: 8003, needs: 4GiB, wake: "true", sleep: "true", alive: "{alive}"}}
"""


def check(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "config.yaml").write_text(text)
    return subprocess.run(
        [*LLMUX, "check", *arguments],
        cwd=folder,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def test_a_good_file(tmp_path: Path) -> None:
    text = GOOD.format(wake="touch woken", alive="false")
    result = check(tmp_path, text)
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line.split()[2:] for line in result.stdout.splitlines() if "http://" in line}
    assert rows["big"][:2] == ["yes:", "awake"]
    assert rows["small"][:2] == ["no:", "asleep"]
    assert "  small on gpu0, tiny on gpu0\n" in result.stdout
    assert "Never together: big and small." in result.stdout
    assert not (tmp_path / "woken").exists()
    told = json.loads(check(tmp_path, text, "--json").stdout)
    assert (told["ok"], told["problems"], told["one_at_a_time"]) == (True, [], False)
    assert told["together"] == [["big", "tiny"], ["small", "tiny"]]
    assert told["models"]["big"]["alive"]["answer"] == "yes"


def test_all_faults_with_their_lines_are_2(tmp_path: Path) -> None:
    text = "models:\n  a:\n    prot: 1\n    wake: x\n    sleep: x\n    alive: x\nprot: 2\n"
    result = check(tmp_path, text)
    assert result.returncode == 2
    assert "config.yaml:3: models.a.prot: unknown key" in result.stderr
    assert "config.yaml:7: prot: unknown key" in result.stderr
    told = json.loads(check(tmp_path, text, "--json").stdout)
    assert told["ok"] is False
    assert {(problem["path"], problem["line"]) for problem in told["problems"]} >= {("models.a.prot", 3), ("prot", 7)}


def test_no_file_at_all_is_told_how_to_get_one(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [*LLMUX, "check", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        assert done.returncode == 2
        return done.stderr

    assert "`llmux init` writes one" in run()
    assert "`llmux init` writes one" not in run("-c", "other.yaml")


def test_ports_that_may_be_a_slip_are_warned_of(tmp_path: Path) -> None:
    model = 'wake: "true", sleep: "true", alive: "false"'
    text = f"models:\n  a: {{port: 3000, {model}}}\n  b: {{port: 8001, {model}}}\n  c: {{port: 8001, {model}}}\n"
    result = check(tmp_path, text, "--json")
    assert result.returncode == 0
    own, shared = json.loads(result.stdout)["warnings"]
    assert own.startswith("port 3000 is llmux's own, and that of a:")
    assert shared.startswith("b, c have one backend, http://127.0.0.1:8001:")
    assert len(json.loads(check(tmp_path, f"{text}port: 3001\n", "--json").stdout)["warnings"]) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [("policy: {name: no_such.module:Policy}", "no_such"), ("admin_keys: {ops: {env: NOT_SET_ANYWHERE}}", "NOT_SET")],
)
def test_what_only_a_start_would_find(tmp_path: Path, more: str, words: str) -> None:
    result = check(tmp_path, GOOD.format(wake="true", alive="false") + more + "\n")
    assert result.returncode == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("wake", "words"),
    [
        ("./missing.sh x", "missing.sh is not there"),
        ("./plain.sh x", "plain.sh is not an executable file"),
        ("no-such-command --x", "there is no command 'no-such-command' on PATH"),
        ("FOO=1 exec no-such-command", "there is no command 'no-such-command' on PATH"),
        ("if true; then", "Syntax error"),
    ],
)
def test_hooks_that_cannot_work_are_1(tmp_path: Path, wake: str, words: str) -> None:
    (tmp_path / "plain.sh").write_text("true\n")
    result = check(tmp_path, GOOD.format(wake=wake, alive="false"), "--no-hooks")
    assert result.returncode == 1
    assert "problem: models.big.wake: " in result.stdout
    assert words in result.stdout


@pytest.mark.parametrize("wake", ["cd / && ls", "[ -e x ] || touch x", "$RUN it", "{ echo; }", "! false", "A=$(b) c"])
def test_hooks_that_may_work_are_let_be(tmp_path: Path, wake: str) -> None:
    result = check(tmp_path, GOOD.format(wake=wake, alive="false"), "--no-hooks")
    assert result.returncode == 0, result.stdout


def test_an_alive_hook_without_an_answer_is_1(tmp_path: Path) -> None:
    for alive in ("exit 127", "sleep 1000"):
        text = GOOD.format(wake="true", alive=alive) + "hook_timeout_secs: {alive: 0.3}\n"
        result = check(tmp_path, text)
        assert result.returncode == 1
        assert "problem: models.tiny.alive: no answer: " in result.stdout
        assert check(tmp_path, text, "--no-hooks").returncode == 0


def test_where_it_is_to_write(tmp_path: Path) -> None:
    text = GOOD.format(wake="true", alive="false")
    fine = "state_dir: not/yet/there\nevent_log: events.jsonl\naccess_log: access.jsonl\n"
    assert check(tmp_path, text + fine, "--no-hooks").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]  # it only looks
    (tmp_path / "file").touch()
    result = check(tmp_path, text + "state_dir: file/state\n", "--no-hooks")
    assert result.returncode == 1  # llmux would not start
    assert f"problem: state_dir: {tmp_path / 'file'} is not a folder" in result.stdout
    (tmp_path / "folder").mkdir()
    result = check(tmp_path, text + "event_log: nowhere/events.jsonl\naccess_log: folder\n", "--no-hooks")
    assert result.returncode == 1  # it would not
    assert f"problem: event_log: there is no folder {tmp_path / 'nowhere'}" in result.stdout
    assert f"problem: access_log: {tmp_path / 'folder'} is a folder" in result.stdout


def test_what_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the kernel, which lets root do everything; so it is answered here."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (tmp_path / "there.jsonl").touch()
    model = {"port": 1, "wake": "true", "sleep": "true", "alive": "false"}
    paths = {"state_dir": "new/state", "event_log": "there.jsonl", "access_log": "new.jsonl"}
    config = Config.model_validate({"models": {"a": model}, **{key: str(tmp_path / at) for key, at in paths.items()}})
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert place_problems(config) == [
        ("event_log", f"{tmp_path / 'there.jsonl'} cannot be written by {me}"),
        ("access_log", f"{tmp_path} cannot be written by {me}"),
        ("state_dir", f"{tmp_path} cannot be written by {me}"),
    ]


def test_models_that_are_awake_and_do_not_fit_are_warned_of(tmp_path: Path) -> None:
    text = GOOD.format(wake="true", alive="false").replace('alive: "false"}}', 'alive: "true"}}', 1)
    text = text.replace('alive: "false"', 'alive: "true"', 1)
    result = check(tmp_path, text)
    assert result.returncode == 0
    assert "warning: big, small say that they are awake now, and do not fit together" in result.stdout


def test_a_priority_without_its_policy_is_warned_of(tmp_path: Path) -> None:
    text = GOOD.format(wake="true", alive="false").replace("port: 8002,", "port: 8002, priority: 2,")
    result = check(tmp_path, text, "--no-hooks")
    assert result.returncode == 0
    assert "warning: `priority` of small does nothing: the policy break-even does not go by it" in result.stdout
    assert "`priority`" not in check(tmp_path, text + "policy: {name: priority}\n", "--no-hooks").stdout


def test_one_at_a_time_without_devices(tmp_path: Path) -> None:
    hooks = 'wake: "true", sleep: "true", alive: "false"'
    result = check(tmp_path, f"models: {{a: {{port: 1, {hooks}}}, b: {{port: 2, {hooks}}}}}\n")
    assert result.returncode == 0
    assert "One model is awake at a time" in result.stdout


# --- who with whom ---------------------------------------------------------------------------------------------------

CAPACITY = {"x": 4, "y": 4}
placement = st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 5), min_size=1)


def fit(chosen: tuple[str, ...], placements: dict[str, list[dict[str, int]]]) -> bool:
    """By trying everything."""
    return any(
        all(sum(one.get(device, 0) for one in ways) <= room for device, room in CAPACITY.items())
        for ways in itertools.product(*(placements[name] for name in chosen))
    )


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(placement, min_size=1, max_size=3), min_size=1))
def test_together_is_what_trying_everything_finds(placements: dict[str, list[dict[str, int]]]) -> None:
    fitting = [
        set(chosen)
        for count in range(len(placements) + 1)
        for chosen in itertools.combinations(placements, count)
        if fit(chosen, placements)
    ]
    largest = {frozenset(one) for one in fitting if not any(one < other for other in fitting)}
    found = together(placements, CAPACITY)
    assert found.complete
    assert {frozenset(one) for one in found.sets} == largest
    assert len(found.sets) == len(largest), "none twice"
    apart = {pair for pair in itertools.combinations(placements, 2) if not fit(pair, placements)}
    assert set(found.apart) == apart


def test_too_many_to_name_is_said() -> None:
    placements = {f"m{number}": [{"x": 3, "y": 0}, {"x": 0, "y": 3}] for number in range(60)}
    found = together(placements, {"x": 10, "y": 10})
    assert not found.complete
    assert not found.apart
