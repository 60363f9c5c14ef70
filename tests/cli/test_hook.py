"""``llmux hook run``: hooks that end, fail, run into their deadline and leave somebody behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Box, clean, until
from tests.cli.test_cli import DEADLINE, LLMUX

CONFIG = """
devices: {gpu0: 24GiB, gpu1: 24GiB}
models:
  good:
    port: 8001
    aliases: [gpt]
    needs: 10GiB
    wake: pwd; env | grep ^LLMUX_ | sort; ps -o sid= -p $$; echo $$
    sleep: "echo to stderr >&2; exit 7"
    alive: "true"
    verify: test -e free
  slow:
    port: 8002
    wake: setsid sh -c 'echo $$ > survivor; echo ready; exec sleep 1000' & sleep 1000
    sleep: "true"
    alive: echo $$ > pid; sleep 1000 & wait
    hook_timeout_secs: {wake: 0.5, alive: null}
  leaky:
    port: 8003
    wake: sleep 1000 & echo $! > survivor
    sleep: "true"
    alive: "true"
port: 0
admin_keys: {ops: {env: SECRET_KEY}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "my.yaml").write_text(CONFIG)
    yield tmp_path
    end_survivor(tmp_path)


def end_survivor(folder: Path) -> None:
    survivor = folder / "conf" / "survivor"
    if survivor.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(survivor.read_text()), signal.SIGKILL)
        survivor.unlink()


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LLMUX, "hook", "run", *arguments, "-c", "conf/my.yaml"],
        cwd=folder,
        env=clean() | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def living(session: int) -> list[str]:
    """The processes of a session, but for those that only wait to be reaped."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = file.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(file.parent.name)
    return found


def test_it_is_run_as_the_server_would(folder: Path) -> None:
    result = run(folder, "gpt", "wake", SECRET_KEY="0123456789abcdef0123456789abcdef")
    assert result.returncode == 0, result.stderr
    cwd, *variables, session, pid = result.stdout.splitlines()
    assert cwd == str(folder / "conf"), "the folder of the configuration"
    given = dict(line.split("=", 1) for line in variables)
    assert given.pop("LLMUX_RUN_ID")
    assert given.pop("LLMUX_LEADER").isdecimal()
    assert not Path(given.pop("LLMUX_BACKEND_FILE")).exists(), "it is removed"
    assert given == {
        "LLMUX_DEVICES": "gpu0", "LLMUX_FROM": "", "LLMUX_HOOK": "wake", "LLMUX_MODEL": "good", "LLMUX_PORT": "8001",
        "LLMUX_TO": "good",
    }  # fmt: skip
    assert session.strip() == pid, "a session of its own"
    assert "good wake: exit code 0, after" in result.stderr
    assert "LLMUX_DEVICES=gpu1" in run(folder, "gpt", "wake", "--devices", "gpu1").stdout


def test_where_the_backend_is_is_shown_and_checked(folder: Path) -> None:
    file = folder / "conf" / "my.yaml"
    for told, code in (("http://gpu01:8000", 0), ("gpu01:8000", 1)):
        file.write_text(CONFIG.replace("pwd;", f'echo {told} > "$LLMUX_BACKEND_FILE";'))
        result = run(folder, "good", "wake", "--json")
        assert result.returncode == code
        assert json.loads(result.stdout)["backend"] == (None if code else told)
        assert ("must begin with http://" in result.stderr) == bool(code)


def test_the_servers_keys_are_withheld(folder: Path) -> None:
    file = folder / "conf" / "my.yaml"
    file.write_text(CONFIG.replace("pwd;", "env;"))
    result = run(folder, "good", "wake", SECRET_KEY="0123456789abcdef0123456789abcdef")
    assert result.returncode == 0
    assert "0123456789abcdef" not in result.stdout


def test_a_failure_is_exit_1_and_told(folder: Path) -> None:
    result = run(folder, "good", "sleep")
    assert (result.returncode, result.stdout) == (1, "to stderr\n")
    assert "good sleep: exit code 7, after" in result.stderr
    assert "its memory may not be free" in result.stderr
    assert run(folder, "good", "verify").returncode == 1
    (folder / "conf" / "free").touch()
    assert run(folder, "good", "verify").returncode == 0


def test_the_deadline_holds_and_survivors_are_named(folder: Path) -> None:
    file = folder / "conf" / "my.yaml"
    for time in ("0.5", "4", "20"):  # on a machine so busy that it has started nobody by then, it has more
        end_survivor(folder)
        file.write_text(CONFIG.replace("wake: 0.5", f"wake: {time}"))
        result = run(folder, "slow", "wake", "--json")
        if "ready" in result.stderr.split():
            break
    assert result.returncode == 1
    told = json.loads(result.stdout)
    survivor = int((folder / "conf" / "survivor").read_text())
    assert (told["outcome"], told["survivors"]) == ("timeout", [survivor])
    assert f"survivors: {survivor} " in result.stderr


def test_ctrl_c_ends_the_hook(folder: Path) -> None:
    process = subprocess.Popen(
        [*LLMUX, "hook", "run", "slow", "alive", "-c", "conf/my.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    file = folder / "conf" / "pid"
    until(lambda: file.exists() and file.read_text().strip() != "", "the hook runs")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert "cancelled" in err
    assert "Traceback" not in err
    assert not living(int(file.read_text())), "nor does anything of its session live on"


def on_terminal(folder: Path, *arguments: str, seen: list[str]) -> tuple[int, str]:
    """`hook run` on a terminal, its exit status and what it has shown; all of `seen`, which are expressions, must be
    there one after the other. When all but the last two are, the file `go` appears."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*LLMUX, "hook", "run", *arguments, "-c", "conf/my.yaml"],
        cwd=folder,
        env=clean() | {"TERM": "xterm", "COLUMNS": "80"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown, place = "", 0
    try:
        for number, words in enumerate(seen, start=1):
            while (found := re.search(words, shown[place:])) is None:
                ready = select.select([master], [], [], DEADLINE)[0]
                assert ready, f"{words!r} is not in {shown[place:]!r}"
                try:
                    shown += os.read(master, 4096).decode()
                except OSError:  # it has ended
                    raise AssertionError(f"{words!r} is not in {shown[place:]!r}") from None
            place += found.end()
            if number == len(seen) - 2:
                (folder / "conf" / "go").touch()
        return process.wait(DEADLINE), shown
    finally:
        process.kill()
        process.wait()
        os.close(master)


def slow(wake: str, timeout: int) -> str:
    """The configuration with that wake hook and deadline of `slow`."""
    (line,) = [line for line in CONFIG.splitlines() if "setsid" in line]
    return CONFIG.replace(line, f"    wake: {wake}").replace("wake: 0.5", f"wake: {timeout}")


def test_a_silent_hook_is_seen_to_run(folder: Path) -> None:
    file = folder / "conf" / "my.yaml"
    wait = "until [ -e go ]; do sleep 0.05; done"
    wake = f"echo begins; {wait}; echo {'wide' * 50}; echo done"
    file.write_text(slow(wake, 75))
    seen = ["begins", "slow wake: [1-9]", "s of 1m15s", "s of 1m15s", "done", "ready to serve"]
    status, shown = on_terminal(folder, "slow", "wake", seen=seen)
    assert status == 0
    assert "wide" * 50 in shown, "output is never cut to the width of the terminal"
    times = [float(seconds) for seconds in re.findall(r"slow wake: ([\d.]+)s of 1m15s", shown)]
    assert len(times) > 1
    assert min(times) >= 1, "nothing is shown of what is quick"


def test_nothing_moves_where_there_is_no_terminal(folder: Path) -> None:
    (folder / "conf" / "my.yaml").write_text(slow("sleep 1.5; echo up", 30))
    result = run(folder, "slow", "wake")
    assert (result.returncode, result.stdout) == (0, "up\n")
    assert len(result.stderr.splitlines()) == 2
    assert "\x1b" not in result.stderr


def test_with_json_a_failure_is_json(folder: Path) -> None:
    for words in (["none", "wake"], ["slow", "verify"]):
        result = run(folder, *words, "--json")
        assert result.returncode == 2
        error = json.loads(result.stdout)["error"]
        assert error["code"] == "usage"
        assert result.stderr == f"llmux: {error['message']}\n"


def test_output_that_is_held_is_warned_of(folder: Path) -> None:
    result = run(folder, "leaky", "wake")
    assert result.returncode == 0
    assert "gets SIGPIPE" in result.stderr
    assert "gets SIGPIPE" not in run(folder, "good", "wake").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none", "wake"), "has no model 'none'; it has good, slow, leaky"),
        (("slow", "verify"), "slow has no verify hook"),
        (("good", "jump"), "jump"),
        (("good",), "Missing argument"),
    ],
)
def test_bad_usage_is_2(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(folder, *arguments)
    assert result.returncode == 2
    assert words in result.stderr


def test_a_bad_configuration_is_2_and_nothing_runs(folder: Path) -> None:
    (folder / "conf" / "my.yaml").write_text(CONFIG.replace("port: 0", "prot: 0"))
    result = run(folder, "good", "wake")
    assert (result.returncode, result.stdout) == (2, "")
    assert "prot: unknown key; did you mean 'port'?" in result.stderr


def test_a_running_llmux_is_not_gone_behind(box: Box) -> None:
    """It would not know of it, and wake another model in the same memory."""
    box.environment = {}
    served = box.folder / "served.yaml"
    served.write_text(served.read_text().replace("port: 0", f"port: {box.server.url.rpartition(':')[2]}"))
    refused = box.run("hook", "run", "good", "wake", "-c", "served.yaml")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "use `llmux switch good`" in refused.stderr
    assert box.run("hook", "run", "good", "wake", "-c", "served.yaml", "--anyway").stdout == "loading\nup\n"
    assert box.run("hook", "run", "good", "alive", "-c", "served.yaml").returncode == 1, "asking does no harm"
