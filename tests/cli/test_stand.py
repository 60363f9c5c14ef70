"""The orders that stand until they are taken back, given on a command line to a real llmux."""

from __future__ import annotations

import json

from llmux.cli.progress import describe_release
from llmux.cli.tables import released
from tests.cli.conftest import Box


def test_release_and_resume(box: Box) -> None:
    assert box.run("switch", "good").returncode == 0
    given = box.order("release", "--refuse")
    assert (given.returncode, given.stderr) == (0, "")
    assert given.stdout.startswith("everything is asleep")
    assert "requests are refused until `llmux resume`" in given.stdout
    status = box.run("status").stdout
    assert status.startswith("not ready")
    assert "requests are refused until `llmux resume`" in status
    refused = box.run("switch", "good")
    assert refused.returncode == 1
    assert "llmux resume" in refused.stderr
    assert json.loads(box.run("resume", "--json").stdout)["done"] is True
    assert "released" not in box.run("status").stdout


def test_a_release_that_fails_in_part_exits_with_1_and_stands(box: Box) -> None:
    assert box.run("switch", "stuck").returncode == 0
    given = box.run("release")
    assert given.returncode == 1
    assert "stuck is lost (sleep hook of stuck failed" in given.stderr
    assert "released all the same" in given.stderr
    assert "putting stuck to sleep" in given.stderr, "it takes longer than a second, so there is something to see"
    assert "not asleep: stuck" in box.run("status").stdout


def test_pin_and_drain_are_shown(box: Box) -> None:
    assert box.run("pin", "gpt").stdout == "gpt is pinned\n"
    assert box.run("drain", "slow").returncode == 0
    status = box.run("status").stdout
    assert "asleep, pinned" in status
    assert "asleep, drained" in status
    assert json.loads(box.run("undrain", "slow", "--json").stdout)["done"] is True
    assert box.run("unpin", "good").returncode == 0
    assert "pinned" not in box.run("status").stdout
    missing = box.run("pin", "god")
    assert missing.returncode == 1
    assert "Did you mean good?" in missing.stderr
    assert "Did you mean slow?" in box.run("logs", "slo").stderr


def test_a_release_in_words() -> None:
    release = {"refuse": False, "since_secs": 3.0, "holding": ["a", "b"]}
    assert released(release, 1.0) == "released for 4.0s: requests are held until `llmux resume`; not asleep: a, b"
    models = [
        {"name": "a", "state": "draining", "in_flight": 2, "sleep_secs": None},
        {"name": "b", "state": "sleeping", "in_flight": 0, "sleep_secs": 3.0},
        {"name": "c", "state": "asleep", "in_flight": 0, "sleep_secs": None},
    ]
    told = describe_release({"released": release, "models": models})
    assert told == "draining a (2 in flight); putting b to sleep, which usually takes 3.0s"
    assert describe_release({"released": None, "models": models}) == ""
