"""What the process was started with, or from, and should not have to mind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import DEADLINE, LLMUX, config, serving

__all__ = ["config"]  # a fixture


def shell(
    script: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line at the place of `"$@"` in a script of the shell."""
    command = ["sh", "-c", script, "sh", *LLMUX, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, check=False, text=True, capture_output=True, timeout=DEADLINE
    )


# --- who started it --------------------------------------------------------------------------------------------------


#: Not by the shell: some see to this signal themselves.
IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_hooks_are_judged_also_where_ended_children_are_ignored(config: Path) -> None:
    """Whoever ignores SIGCHLD hands that on to all that it starts."""
    command = [sys.executable, "-c", IGNORING, *LLMUX, "hook", "run", "only", "sleep", "-c", str(config)]
    done = subprocess.run(command, check=False, text=True, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    assert "exit code 0" in done.stderr


# --- the folder that it was started in -------------------------------------------------------------------------------

IN_A_FOLDER_THAT_IS_GONE = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'


def test_the_folder_that_it_was_started_in_may_be_gone(config: Path) -> None:
    done = shell(IN_A_FOLDER_THAT_IS_GONE, "check", "-c", str(config), cwd=config.parent)
    assert (done.returncode, done.stderr) == (0, "")
    done = shell(IN_A_FOLDER_THAT_IS_GONE, "hook", "run", "only", "wake", "-c", str(config), cwd=config.parent)
    assert done.returncode == 0, done.stderr
    with serving("-c", str(config), cwd=config.parent, prefix=("sh", "-c", IN_A_FOLDER_THAT_IS_GONE, "sh")) as server:
        assert server.stop() == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_the_folder_that_it_was_started_in_may_be_somebody_elses(config: Path) -> None:
    text = config.read_text().replace("wake: echo", "wake: ls ./here; echo")
    config.write_text(text)
    private = config.parent / "private"
    private.mkdir()
    closed = 'cd private && chmod 000 . && exec "$@"'
    try:
        done = shell(closed, "check", "-c", str(config), cwd=config.parent)
        assert (done.returncode, done.stderr) == (0, "")
        private.chmod(0o700)
        made = shell(closed, "init", "--recipe", "ollama", "--model", "a=llama3", cwd=config.parent)
        private.chmod(0o700)
        done = shell(closed, cwd=config.parent)
    finally:
        private.chmod(0o700)
    assert (made.returncode, made.stderr) == (1, "llmux: cannot write config.yaml: Permission denied\n")
    assert done.returncode == 2
    assert "config.yaml: cannot be read: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


# --- where its output goes -------------------------------------------------------------------------------------------

TALKATIVE = [["--version"], ["--help"], ["schema"], ["check", "--no-hooks"], ["demo", "--help"]]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", TALKATIVE, ids=" ".join)
def test_output_that_cannot_be_written_is_told_in_a_sentence(
    config: Path, arguments: list[str], unbuffered: str
) -> None:
    if Path("/dev/full").exists():
        full = shell('exec "$@" >/dev/full', *arguments, cwd=config.parent, PYTHONUNBUFFERED=unbuffered)
        assert (full.returncode, full.stderr) == (1, "llmux: its output cannot be written: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = ["env", f"PYTHONUNBUFFERED={unbuffered}", *LLMUX, *arguments]
        unread = subprocess.run(
            command, cwd=config.parent, check=False, text=True, stdout=writer, stderr=subprocess.PIPE, timeout=DEADLINE
        )
    finally:
        os.close(writer)
    assert (unread.returncode, unread.stderr) == (1, "")
    closed = shell('exec "$@" >&-', *arguments, cwd=config.parent, PYTHONUNBUFFERED=unbuffered)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_terminal_without_the_letters_gets_others(config: Path) -> None:
    folder = config.parent / "models-für-alle"
    folder.mkdir()
    file = config.rename(folder / "config.yaml")
    for encoding, shown in (("ascii", r"f\xfcr"), ("latin-1", "f\N{LATIN SMALL LETTER U WITH DIAERESIS}r")):
        done = subprocess.run(
            [*LLMUX, "check", "--no-hooks", "-c", str(file)],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            check=False,
            capture_output=True,
            timeout=DEADLINE,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert f"models-{shown}-alle" in done.stdout.decode(encoding)
    told = shell('exec "$@"', "simulate", "--help", PYTHONIOENCODING="latin-1")
    assert (told.returncode, told.stderr) == (0, "")
