"""The commands for a running llmux: real processes on both sides, hooks that wait until they are told."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trustme
import typer

from llmux.cli.commands import app
from llmux.cli.connection import DEFAULT_URL, CallError, Server, find
from llmux.cli.options import model_names, request_ids
from llmux.cli.progress import describe
from llmux.cli.tables import console, duration, frequency, size, status
from tests.cli.conftest import CONFIG, Box, clean, lay_out, until
from tests.cli.test_cli import DEADLINE, LLMUX, serving
from tests.ports import nobodys_port


def state_of(box: Box, model: str) -> str:
    found = httpx.get(f"{box.server.url}/admin/v1/models/{model}", timeout=DEADLINE).json()
    return str(found["state"])


# --- what is the case ------------------------------------------------------------------------------------------------


def test_status_is_a_table_of_all_models(box: Box) -> None:
    assert box.run("switch", "good").returncode == 0
    result = box.run("status")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert re.match(rf"ready +llmux \S+ at {re.escape(box.server.url)}, up \S+, policy ", lines[0])
    assert lines[2].split() == ["MODEL", "STATE", "WAITING", "OLDEST", "IN", "FLIGHT", "WAKE", "SLEEP"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    assert rows["good"][:4] == ["awake", "-", "-", "-"]
    assert rows["good"][4].endswith("s"), "what waking took"
    assert rows["org/other"] == ["asleep", "-", "-", "-", "-", "-"]
    assert "\x1b" not in result.stdout, "no colours where there is no terminal"


def test_status_and_models_as_json(box: Box) -> None:
    state = json.loads(box.run("status", "--json").stdout)
    assert state["ready"] is True
    assert [model["name"] for model in state["models"]] == ["good", "org/other", "bad", "slow", "stuck"]
    models = json.loads(box.run("models", "--json").stdout)
    assert models[0]["aliases"] == ["gpt"]
    assert re.search(r"good +gpt +asleep", box.run("models").stdout)


def test_a_lost_model_is_told_of_and_looked_at(box: Box) -> None:
    assert box.run("switch", "stuck").returncode == 0
    refused = box.run("sleep", "stuck")
    assert refused.returncode == 1
    assert "sleep" in refused.stderr
    shown = box.run("status").stdout
    assert shown.startswith("not ready")
    assert "device lost: default (it may be held by stuck)" in shown
    assert "`llmux look stuck` looks now" in shown
    (box.folder / "free").touch()
    looked = box.run("look", "stuck")
    assert looked.returncode == 0, looked.stderr
    assert state_of(box, "stuck") == "asleep"


def test_a_model_that_could_not_be_put_to_sleep_says_so(tmp_path: Path) -> None:
    """Its alive hook says yes, so it is awake; that is not all that there is to say of it."""
    config = CONFIG.replace('sleep: "test -e free", alive: "false"', 'sleep: "exit 7", alive: "test -e woken"')
    config = config.replace('stuck: {port: 1, wake: "true"', 'stuck: {port: 1, wake: "touch woken"')
    with serving("-c", str(lay_out(tmp_path, config))) as server:
        box = Box(tmp_path, server)
        assert box.run("switch", "stuck").returncode == 0
        assert "could not be put to sleep" not in box.run("status").stdout
        assert box.run("sleep", "stuck").returncode == 1
        shown = box.run("status").stdout
        assert re.search(r"stuck +awake ", shown)
        assert "stuck could not be put to sleep: sleep hook of stuck failed: exit code 7\n" in shown
        assert "  its alive hook says yes, so it stays; it is " in shown


def test_free_asks_nobody_who_is_not_there(box: Box) -> None:
    """What is piped into it is no answer: it might be meant for anybody."""
    assert box.run("switch", "stuck").returncode == 0
    assert box.run("sleep", "stuck").returncode == 1
    for words in (["free", "stuck"], ["free", "stuck", "--json"]):
        run = subprocess.run(
            [*LLMUX, *words],
            env=clean() | box.environment,
            check=False,
            input="n\n",
            text=True,
            capture_output=True,
            timeout=DEADLINE,
        )
        assert run.returncode == 2
        assert "then give --yes" in run.stderr
        assert ("--json" in words) == bool(run.stdout)
    assert state_of(box, "stuck") == "lost"
    assert box.run("free", "stuck", "--yes").returncode == 0
    assert state_of(box, "stuck") == "asleep"


def test_free_takes_an_operators_word(tmp_path: Path) -> None:
    config = lay_out(tmp_path, CONFIG.replace('alive: "false"', 'alive: "true"', 1))
    with serving("-c", str(config)) as server:
        box = Box(tmp_path, server)
        until(lambda: state_of(box, "good") == "unconfirmed", "its alive hook has said yes")
        assert box.run("free", "gpt", "--yes").returncode == 0
        assert state_of(box, "good") == "asleep"


# --- orders ----------------------------------------------------------------------------------------------------------


def test_orders_return_when_they_are_carried_out(box: Box) -> None:
    switched = box.order("switch", "gpt")
    assert (switched.returncode, switched.stderr) == (0, "")
    assert switched.stdout.startswith("gpt is awake")
    assert state_of(box, "good") == "awake"
    assert json.loads(box.run("switch", "org/other", "--json").stdout)["done"] is True
    assert (state_of(box, "good"), state_of(box, "org/other")) == ("asleep", "awake")
    assert box.run("sleep", "org/other").returncode == 0
    assert state_of(box, "org/other") == "asleep"


def test_a_refusal_is_the_servers_own_words(box: Box) -> None:
    failed = box.run("switch", "bad")
    assert failed.returncode == 1
    assert "exit code 3" in failed.stderr
    assert "llmux logs bad" in failed.stderr
    unknown = box.order("sleep", "none")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "llmux: Model not found: none\nThere are: good, org/other, bad, slow, stuck\n",
    )
    assert box.run("cancel", "99").stderr == "llmux: no request 99 waits or is served\n"


def test_with_json_a_failure_is_json(box: Box) -> None:
    def failed(status: int, *words: str, **environment: str) -> tuple[str, str]:
        run = box.order(*words, "--json", **environment)
        assert run.returncode == status
        error = json.loads(run.stdout)["error"]
        assert run.stderr == f"llmux: {error['message']}\n", "and for people it is said as ever"
        return error["code"], error["message"]

    code, message = failed(1, "switch", "bad")
    assert code == "hook_failed"
    assert "exit code 3" in message
    assert failed(1, "sleep", "none")[0] == "model_not_found"
    assert failed(1, "logs", "none")[0] == "model_not_found"
    assert failed(1, "cancel", "99")[0] == "request_not_found"
    for words in (["status"], ["status", "--watch"], ["models"], ["requests"], ["release"]):
        assert failed(1, *words, LLMUX_URL="http://127.0.0.1:1")[0] == "unreachable"
    assert failed(2, "status", "--url", "nowhere")[0] == "usage"
    (box.folder / "served.yaml").write_text(CONFIG.replace("wake:", "woke:", 1))
    assert failed(1, "reload")[0] == "reload_refused"


NOTHING_BETTER = "slow: waiting for its turn"
"""What is shown before and after llmux has said what it does."""


def shown_to_wake(box: Box, model: str) -> subprocess.Popen[str]:
    """A command that switches to the model, once it has shown that this is woken."""
    switching = box.start("switch", model)
    assert switching.stderr is not None
    while (line := switching.stderr.readline()) != f"waking {model}\n":
        assert line == f"{NOTHING_BETTER}\n"
    return switching


def test_what_takes_long_is_shown(box: Box) -> None:
    switching = shown_to_wake(box, "slow")
    (box.folder / "go").touch()
    out, err = switching.communicate(timeout=DEADLINE)
    assert switching.returncode == 0
    assert set(err.splitlines()) <= {NOTHING_BETTER}
    assert out.startswith("slow is awake (")


def test_ctrl_c_ends_the_showing_and_not_the_order(box: Box) -> None:
    switching = shown_to_wake(box, "slow")
    switching.send_signal(signal.SIGINT)
    _, err = switching.communicate(timeout=DEADLINE)
    assert switching.returncode == 130
    assert err.startswith("llmux: the order stands")
    assert "Traceback" not in err
    (box.folder / "go").touch()
    until(lambda: state_of(box, "slow") == "awake", "the order was carried out")


def test_a_changed_file_is_taken_and_a_bad_one_is_told_of(box: Box) -> None:
    file = box.folder / "served.yaml"
    file.write_text(CONFIG.replace("  bad:", "  new:"))
    assert box.run("reload").stdout == "the configuration was read again\n"
    assert "new" in box.run("models").stdout
    file.write_text(CONFIG.replace("wake:", "woke:", 1))
    refused = box.order("reload")
    assert refused.returncode == 1
    first, *faults, last = refused.stderr.splitlines()
    assert first == f"llmux: {file}: 2 problems"
    assert [fault.startswith(f"  {file}:") for fault in faults] == [True, True]
    assert "models.good.woke: unknown key" in refused.stderr
    assert last == "Nothing was changed."
    assert "new" in box.run("models").stdout


def test_a_request_that_waits_is_listed_and_cancelled(box: Box) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{box.server.url}/v1/completions", json={"model": "slow"}, timeout=DEADLINE))

    assert box.run("requests").stdout == "no requests\n"
    assert box.run("requests", "--json").stdout == "[]\n"
    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: bool(json.loads(box.run("requests", "--json").stdout)), "the request waits")
    heading, line = box.run("requests").stdout.splitlines()
    assert heading.split() == ["ID", "MODEL", "STATE", "AGE", "EVENTS", "CLIENT", "PATH"]
    row = line.split()
    assert row[1:3] == ["slow", "waits"]
    assert row[4:] == ["-", "127.0.0.1", "/v1/completions"]
    assert box.run("cancel", row[0]).stdout == f"request {row[0]} was ended\n"
    asking.join(DEADLINE)
    assert answers[0].json()["error"]["code"] == "request_cancelled"


# --- where llmux is, and whether it is one ---------------------------------------------------------------------------


def test_it_is_found_by_option_environment_and_configuration(box: Box) -> None:
    nowhere = "http://127.0.0.1:1"
    assert box.run("models", "--url", box.server.url, LLMUX_URL=nowhere).returncode == 0
    box.environment = {}
    named = box.folder / "named.yaml"
    named.write_text(f"port: {box.server.url.rpartition(':')[2]}\nhost: 0.0.0.0\n")
    assert box.run("models", "-c", "named.yaml").returncode == 0
    named.rename(box.folder / "config.yaml")
    assert box.run("models").returncode == 0
    assert box.run("models", LLMUX_URL=nowhere).returncode == 1, "the environment comes before the file"


def test_nobody_listens(tmp_path: Path) -> None:
    with nobodys_port() as port:
        url = f"http://127.0.0.1:{port}"
        result = subprocess.run(
            [*LLMUX, "status", "--url", url], capture_output=True, text=True, check=False, timeout=DEADLINE, env=clean()
        )
    assert result.returncode == 1
    assert result.stderr == f"llmux: nothing listens at {url}. Is llmux running? Say where with --url or LLMUX_URL.\n"


def test_a_file_that_does_not_say_where_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("port: abc\n")
    place = find(None, None)
    assert place.url == DEFAULT_URL
    with nobodys_port() as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(CallError, match=r"nothing listens at .* \(config.yaml: it does not say on which port"):
            Server(replace(place, url=url)).get("/state")


def test_somebody_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"

        def answer() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nsorry")

        thread = threading.Thread(target=answer)
        thread.start()
        result = subprocess.run(
            [*LLMUX, "status", "--url", url], capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        thread.join()
    assert result.returncode == 1
    assert "is not llmux" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "--url", "localhost:3000"),
        ("status", "--url", "http://user:secret@localhost"),
        ("status", "-c", "missing.yaml"),
        ("switch",),
        ("cancel", "many"),
        ("logs", "-n", "-1"),
    ],
)
def test_bad_usage_is_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = subprocess.run(
        [*LLMUX, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=DEADLINE, env=clean()
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_keys(tmp_path: Path) -> None:
    key = "key-of-the-operators-0123456789"
    (tmp_path / "key").write_text(key)
    config = lay_out(tmp_path, CONFIG + "admin_keys: {ops: {file: key}}\n")
    with serving("-c", str(config)) as server:
        box = Box(tmp_path, server)
        none = box.run("status")
        assert none.returncode == 1
        assert none.stderr == "llmux: an admin key is needed: set LLMUX_ADMIN_KEY, or give --admin-key\n"
        wrong = box.run("switch", "good", LLMUX_ADMIN_KEY="wrong-key-of-somebody-0123456789")
        assert wrong.returncode == 1
        assert "not one of `admin_keys`" in wrong.stderr
        assert box.run("switch", "good", LLMUX_ADMIN_KEY=key).returncode == 0
        assert box.run("status", "--admin-key", key).returncode == 0
        said = [wrong, *(box.run(*words, LLMUX_ADMIN_KEY=key) for words in (["status"], ["status", "--help"]))]
        said.append(box.run("status", "--url", "http://127.0.0.1:1", LLMUX_ADMIN_KEY=key))
        said.append(box.run("status", LLMUX_ADMIN_KEY=f"{key}\nX: y"))
        assert said[-1].returncode == 1
        assert not any(key in result.stdout + result.stderr for result in said)
        assert not any("wrong-key" in result.stdout + result.stderr for result in said)


def test_tls_with_the_certificate_of_the_configuration_and_no_other(tmp_path: Path) -> None:
    names = ("one", "other")
    for name in names:
        made = trustme.CA().issue_cert("llm.example.com")
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        made.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    tls = "tls: {{cert: {0}.pem, key: {0}.key}}\n"
    config = lay_out(tmp_path, CONFIG + tls.format("one"))
    process = subprocess.Popen([*LLMUX, "-c", str(config)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = next(json.loads(line)["url"] for line in process.stderr if "listening" in line).rpartition(":")[2]
        for name in names:
            (tmp_path / f"by-{name}.yaml").write_text(f"port: {port}\n" + tls.format(name))
        run = [*LLMUX, "status", "--admin-key", "secret", "-c"]
        right, wrong = (
            subprocess.run([*run, f"by-{name}.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False)
            for name in names
        )
        assert (right.returncode, right.stderr) == (0, "")
        assert wrong.returncode == 1
        assert "it shows another certificate than other.pem" in wrong.stderr
        plain = subprocess.run(
            [*LLMUX, "status", "--url", f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=False
        )
        assert plain.returncode == 1
        assert "Does it speak https?" in plain.stderr
        unknown = subprocess.run(
            [*LLMUX, "status", "--url", f"https://127.0.0.1:{port}"], capture_output=True, text=True, check=False
        )
        assert unknown.returncode == 1
        assert "certificate" in unknown.stderr
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


# --- live ------------------------------------------------------------------------------------------------------------


def test_watching_on_no_terminal_is_a_line_of_json_for_each_change(box: Box) -> None:
    watching = box.start("status", "--watch", "--json")
    assert watching.stdout is not None
    try:
        seen = [json.loads(watching.stdout.readline())["models"][0]["state"]]
        assert box.run("switch", "good").returncode == 0
        while seen[-1] != "awake":
            seen.append(json.loads(watching.stdout.readline())["models"][0]["state"])
        assert seen[0] == "asleep"
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=DEADLINE)[1] == ""
    assert watching.returncode == 0


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, box: Box, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*LLMUX, *arguments],
            cwd=box.folder,
            env=clean() | box.environment | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Read on until `text` appears in what was not looked for yet."""
        deadline = time.monotonic() + DEADLINE
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.shown!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(DEADLINE)
        os.close(self._master)
        return status


def test_watching_on_a_terminal_survives_the_servers_end(box: Box) -> None:
    terminal = Terminal(box, "status", "--watch")
    try:
        terminal.wait_for("asleep")
        assert box.run("switch", "good").returncode == 0
        terminal.wait_for("awake")
        assert box.server.stop() == 0
        terminal.wait_for("Trying again; this is from")
        port = box.server.url.rpartition(":")[2]
        with serving("-c", "served.yaml", "-p", port, cwd=box.folder):
            terminal.wait_for("ready")
            terminal.wait_for(", up ")
    finally:
        assert terminal.end() == 0


def test_a_spinner_says_what_is_waited_for(box: Box) -> None:
    terminal = Terminal(box, "switch", "slow")
    try:
        terminal.wait_for("waking slow")
        (box.folder / "go").touch()
        terminal.wait_for("slow is awake")
    finally:
        terminal.process.wait(DEADLINE)
        assert terminal.end() == 0


def test_logs_have_what_hooks_printed(box: Box) -> None:
    assert box.run("switch", "good").returncode == 0
    assert box.run("switch", "bad").returncode == 1
    shown = box.run("logs").stdout.splitlines()
    words = [re.sub(r"^\d\d-\d\d [\d:]{8} ", "", line) for line in shown]
    woke = next(index for index, line in enumerate(words) if line.startswith("good wake: ok after "))
    assert words[woke + 1 : woke + 3] == ["    loading", "    up"]
    failed = next(index for index, line in enumerate(words) if line.startswith("bad wake: failed after "))
    assert words[failed].endswith("exit code 3")
    assert words[failed + 1] == "    no memory"
    assert woke < failed, "the newest last"
    assert any(line.startswith("good alive: no after") for line in words), "an answer, not a failure"
    only = [json.loads(line) for line in box.run("logs", "gpt", "--json").stdout.splitlines()]
    assert {run["model"] for run in only} == {"good"}
    (last,) = [json.loads(line) for line in box.run("logs", "-n", "1", "--json").stdout.splitlines()]
    assert last["model"] == "bad"
    unknown = box.run("logs", "none")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "llmux: Model not found: none\nThere are: good, org/other, bad, slow, stuck\n",
    )


def test_logs_go_on_with_what_happens(box: Box) -> None:
    until(lambda: len(box.run("logs", "--json").stdout.splitlines()) == 5, "all alive hooks have run")
    following = box.start("logs", "-f", "gpt")
    assert following.stdout is not None
    try:
        assert "good alive: no" in following.stdout.readline()
        assert box.run("switch", "org/other").returncode == 0  # not to be seen
        assert box.run("switch", "good").returncode == 0
        lines: list[str] = []
        while not lines or "switch to good: success" not in lines[-1]:
            lines.append(following.stdout.readline().rstrip()[15:])
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=DEADLINE)
    assert following.returncode == 0
    assert "good wake | loading" in lines
    assert "good wake | up" in lines
    assert any(line.startswith("good is waking") for line in lines)
    assert any(line.startswith("good wake: ok") for line in lines)
    assert not any(line.startswith("org/other") for line in lines)


# --- words -----------------------------------------------------------------------------------------------------------


def test_models_complete(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    command = typer.main.get_command(app)

    def typed(**options: object) -> typer.Context:
        context = typer.Context(command)
        context.params = options
        return context

    monkeypatch.setenv("LLMUX_URL", box.server.url)
    # Who does not answer within a second, as on a busy machine, is taken not to be there.
    until(lambda: model_names(typed(), "s") == ["slow", "stuck"], "models")
    until(lambda: model_names(typed(), "g") == ["good", "gpt"], "aliases, too")
    assert request_ids(typed(), "") == []
    monkeypatch.setenv("LLMUX_URL", "http://127.0.0.1:1")
    assert model_names(typed(), "s") == [], "nobody there is no reason to complain while somebody types"
    named = typed(url=box.server.url)
    until(lambda: model_names(named, "s") == ["slow", "stuck"], "an option comes before the environment")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m00s"), (185, "3m05s"), (7800, "2h10m"),
     (90000, "1d1h")],
)  # fmt: skip
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_rates_and_sizes() -> None:
    assert [frequency(rate) for rate in (0.0, 2.5, 0.05, 0.001, 0.00001)] == [
        "-", "2.5 per s", "3 per min", "3.6 per h", "rarely",
    ]  # fmt: skip
    assert [size(amount) for amount in (1, 2**20, 24 * 2**30, 3 * 2**29, 2**41)] == [
        "1", "1MiB", "24GiB", "1.5GiB", "2TiB",
    ]  # fmt: skip


def model(name: str, state: str, **more: object) -> dict[str, object]:
    return {"name": name, "aliases": [], "state": state, "in_flight": 0, "wake_secs": None, "sleep_secs": None} | more


def test_what_an_order_waits_for() -> None:
    switch = {"from": "a", "to": "b", "phase": "draining", "since_secs": 1.0}
    models = [
        model("a", "draining", in_flight=2, aliases=["x"]),
        model("b", "asleep", wake_secs=12.0),
        model("c", "asleep"),
    ]
    assert describe({"switches": [switch], "models": models}, "b") == "draining: a has 2 in flight"
    assert describe({"switches": [switch], "models": models}, "c") == "c waits for the switch to b"
    models[0] = model("a", "sleeping", sleep_secs=3.0)
    told = describe({"switches": [switch | {"phase": "sleeping"}], "models": models}, "b")
    assert told == "putting a to sleep, which usually takes 3.0s"
    told = describe({"switches": [switch | {"phase": "waking"}], "models": models}, "b")
    assert told == "waking b, which usually takes 12s"
    assert describe({"switches": [], "models": models}, "b") == ""
    assert describe({"switches": [], "models": models}, "none") == ""


def test_what_is_said_of_models_stands_together() -> None:
    plain: dict[str, object] = {"waiting": 0, "oldest_waiter_secs": None, "in_flight": 0, "state": "asleep"}
    plain |= {"wake_secs": None, "sleep_secs": None, "devices": []}
    plain |= {"pinned": False, "drained": False, "pinned_against": [], "lost": None, "kept": None}
    lost = {"error": "exit code 1", "since_secs": 3.0, "next_look_secs": 7.0}
    state: dict[str, object] = {"ready": True, "reasons": [], "version": "3", "now": 10.0, "started": 0.0}
    state |= {"policy": "fifo", "devices": [], "released": None, "switches": []}

    def shown(*models: dict[str, object]) -> list[str]:
        out = io.StringIO()
        console(out).print(status({**state, "models": list(models)}, "http://x"))
        return [line.rstrip() for line in out.getvalue().split("\n")[3:]]

    assert shown({**plain, "name": "a"})[1:] == [""]
    a, b = {**plain, "name": "a", "pinned_against": ["p", "q"]}, {**plain, "name": "b", "pinned_against": ["p"]}
    assert shown(a, {**plain, "name": "c", "state": "lost", "lost": lost}, b)[3:] == [
        "",
        "a waits for room: p, q pinned",
        "c is lost: exit code 1",
        "  for 3.0s, is looked at again in 7.0s; `llmux look c` looks now",
        "b waits for room: p pinned",
        "",
    ]
