"""The log: harmless whatever is logged, silent unless asked for, and never the reason that serving stops."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import llmux
from llmux import logs


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    yield
    logs.shutdown()


def written(fmt: str, **fields: Any) -> str:
    stream = io.StringIO()
    logs.configure(level=logging.DEBUG, fmt=fmt, stream=stream)
    logs.get_logger().info("something_happened", **fields)
    logs.flush()
    return stream.getvalue()


def test_a_json_line() -> None:
    event = json.loads(written("json", **{"from": "idle", "seconds": 1.5, "none": None, "on": True}))
    assert event["event"] == "something_happened"
    assert (event["from"], event["seconds"], event["none"], event["on"]) == ("idle", 1.5, None, True)
    assert (event["level"], event["logger"]) == ("info", "llmux")
    timestamp = datetime.fromisoformat(event["timestamp"])
    assert timestamp.utcoffset() is not None
    assert timestamp.utcoffset().total_seconds() == 0  # type: ignore[union-attr]  # just looked


def test_text_is_for_people() -> None:
    line = written("text", model="a", seconds=1.5, duration_secs=1.2249270240026817)
    assert "something_happened" in line
    assert "model=a" in line
    assert "duration_secs=1.2249 " in f"{line.strip()} "
    assert "\x1b" not in line, "no colours unless on a terminal"
    assert line.count("\n") == 1


HOSTILE = [
    "line\nbreak",
    "cr\rlf\n",
    "esc \x1b[2J\x1b]0;title\x07",
    "c1 \x9b31m",
    "nul \x00",
    "del \x7f",
    "next \x85 line \u2028 paragraph \u2029",
    "right-to-left \u202e override",
    "lone \ud800 surrogate",
]


@pytest.mark.fault(68)
@pytest.mark.parametrize("fmt", ["text", "json"])
@pytest.mark.parametrize("value", HOSTILE)
def test_values_cannot_forge_lines_or_drive_a_terminal(fmt: str, value: str) -> None:
    for fields in ({"model": value}, {"nested": {value: [value]}}, {"object": Exception(value)}):
        line = written(fmt, **fields)
        assert line.endswith("\n")
        assert line[:-1].isprintable()


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_other_libraries_records_are_made_harmless_too(fmt: str) -> None:
    stream = io.StringIO()
    logs.configure(fmt=fmt, stream=stream)
    logging.getLogger("uvicorn.error").warning("from %s", "evil\n\x1b[2J")
    logs.flush()
    assert stream.getvalue()[:-1].isprintable()
    assert "from evil" in stream.getvalue()


@pytest.mark.fault(68)
@pytest.mark.parametrize("fmt", ["text", "json"])
def test_long_values_are_cut(fmt: str) -> None:
    line = written(fmt, value="x" * 1_000_000, many=["y"] * 1_000_000, table=dict.fromkeys(range(100_000), 1))
    assert len(line) < 10_000


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_an_exception_is_shown_on_lines_that_are_not_events(fmt: str) -> None:
    stream = io.StringIO()
    logs.configure(fmt=fmt, stream=stream)
    try:
        raise ValueError("forged\n2030-01-01 [info] all is well\x1b[2J")
    except ValueError:
        logs.get_logger().exception("internal_error")
    logs.flush()
    text = stream.getvalue()
    assert "\x1b" not in text
    if fmt == "json":
        event = json.loads(text)
        assert "ValueError: forged" in event["exception"]
    else:
        first, *rest = text.splitlines()
        assert "internal_error" in first
        assert any("ValueError: forged" in line for line in rest)
        assert all(line.startswith("  ") for line in rest)


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@contextmanager
def only_ours() -> Iterator[None]:
    """Without pytest's own handlers, which raise for what they cannot show."""
    root = logging.getLogger()
    others = list(root.handlers)
    for handler in others:
        root.removeHandler(handler)
    try:
        yield
    finally:
        for handler in others:
            root.addHandler(handler)


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_what_cannot_be_shown_is_dropped_and_counted(fmt: str) -> None:
    stream = io.StringIO()
    loop: list[Any] = []
    loop.append(loop)
    with only_ours():
        logs.configure(fmt=fmt, stream=stream)
        logs.get_logger().info("bad", value=Unshowable())
        logs.get_logger().info("bad", value=loop)
        logging.getLogger("other").error("%d", "not a number")
        logs.get_logger().info("good")
        logs.flush()
        assert logs.dropped() == 3
        logs.shutdown()
    assert "good" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_levels() -> None:
    stream = io.StringIO()
    logs.configure(level=logging.INFO, fmt="json", stream=stream)
    logs.get_logger().debug("too_quiet")
    logs.get_logger("llmux.driver").info("heard")
    logging.getLogger("somebody").info("not ours")
    logging.getLogger("somebody").warning("theirs")
    logs.flush()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["heard", "theirs"]


def test_configuring_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure(fmt="json", stream=first)
    logs.configure(fmt="json", stream=second)
    logs.get_logger().info("once")
    logs.flush()
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


@pytest.mark.fault(55)
def test_closed_stream() -> None:
    stream = io.StringIO()
    stream.close()
    logs.configure(fmt="auto", stream=stream)
    logs.get_logger().info("lost")
    logs.flush()
    assert logs.dropped() == 1


def test_a_pipe_that_nobody_reads_does_not_block() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        logs.configure(fmt="json", stream=stream)
        for number in range(logs.QUEUE_LIMIT + 2000):
            logs.get_logger().info("flood", number=number, padding="x" * 100)
        assert logs.dropped() > 0
        # Let the writing thread go on: drain the pipe until it has closed.
        drain = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 16), b"")])
        drain.start()
        logs.shutdown()
    drain.join()
    os.close(reader)


def test_a_pipe_made_non_blocking_by_others_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = bytearray()

    def drain() -> None:
        while data := os.read(reader, 1 << 16):
            received.extend(data)

    thread = threading.Thread(target=drain)
    with os.fdopen(writer, "w") as stream:
        logs.configure(fmt="json", stream=stream)
        for number in range(2000):
            logs.get_logger().info("flood", number=number, padding="x" * 200)
        thread.start()
        logs.flush()
        assert logs.dropped() == 0
        logs.shutdown()
    thread.join()
    os.close(reader)
    assert [json.loads(line)["number"] for line in received.splitlines()] == list(range(2000))


def test_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_terminal() -> str:
        leader, follower = pty.openpty()
        with os.fdopen(follower, "w") as stream:
            logs.configure(fmt="auto", stream=stream)
            logs.get_logger().info("seen", model="a")
            logs.shutdown()
            text = os.read(leader, 4096).decode()
        os.close(leader)
        return text

    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = on_a_terminal()
    assert "\x1b[" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = on_a_terminal()
    assert "\x1b[" not in plain
    assert "model=a" in plain


@pytest.mark.anyio
async def test_logging_from_the_loop_does_not_block_it(tmp_path: Path) -> None:
    def opened() -> io.TextIOWrapper:
        return open(tmp_path / "log", "w", encoding="utf-8")

    stream = await asyncio.to_thread(opened)
    logs.configure(fmt="json", stream=stream)
    logs.get_logger().info("from_the_loop")  # blockbuster would object
    await asyncio.to_thread(logs.shutdown)
    await asyncio.to_thread(stream.close)
    assert "from_the_loop" in await asyncio.to_thread((tmp_path / "log").read_text)


# --- in a process of its own ----------------------------------------------------------------------------------------


def run(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=False,
        text=True,
        timeout=60,
        **options,
    )


FILL = """
    from llmux import logs
    logs.WAIT_SECS = 60.0
    logs.configure(fmt="json")
    for _ in range(100):
        logs.get_logger().error("lost")
    logs.flush()
    print(logs.dropped())
"""


@pytest.mark.fault(55)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = run(FILL, stdout=subprocess.PIPE, stderr=full)
    assert process.stdout.strip() == "100"
    assert process.returncode == 0


@pytest.mark.fault(55)
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_stderr_closed_or_full_from_the_start(redirection: str) -> None:
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    script = textwrap.dedent(FILL)
    process = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, script],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert process.stdout.strip() == "100"
    assert process.returncode == 0


def test_a_reader_that_went_away() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = run(FILL, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert process.stdout.strip() == "100"
    assert process.returncode == 0


def test_what_was_logged_last_is_written_before_the_process_ends() -> None:
    process = run(
        """
        from llmux import logs
        logs.WAIT_SECS = 60.0
        logs.configure(fmt="json")
        for number in range(500):
            logs.get_logger().info("line", number=number)
        """,
        capture_output=True,
    )
    assert [json.loads(line)["number"] for line in process.stderr.splitlines()] == list(range(500))


def test_as_a_library_it_says_nothing_unasked() -> None:
    process = run(
        """
        from llmux import logs
        logs.get_logger().error("nobody_asked")
        logs.get_logger("llmux.driver").critical("nobody_asked")
        """,
        capture_output=True,
    )
    assert (process.stdout, process.stderr) == ("", "")


def test_an_application_that_configures_logging_hears_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logs.get_logger("llmux.driver").info("something_happened", model="a")
    (record,) = caplog.records
    assert record.name == "llmux.driver"
    assert "something_happened" in record.getMessage()


def test_only_this_module_makes_loggers() -> None:
    """`structlog.get_logger` prints to stdout unless the whole process's structlog is configured."""
    root = Path(llmux.__file__).parent
    users = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"^\s*(import|from) structlog", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert users == {"logs.py"}
