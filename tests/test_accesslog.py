"""The access log: what is in a line, where lines go, and that no disk holds anybody up."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmux import Config, build_app
from llmux.accesslog import AccessLog
from llmux.logfile import QUEUE_BYTES
from llmux.records import CLIENT_GONE, Record
from llmux.testing import SimulatedBackend
from tests.eventlog.conftest import wait_until
from tests.eventlog.test_recorder import logged

Open = Callable[..., AccessLog]

FIELDS = [
    "time",
    "request_id",
    "client",
    "key",
    "method",
    "path",
    "model",
    "status",
    "wait_secs",
    "switched",
    "first_byte_secs",
    "duration_secs",
    "bytes",
    "input_tokens",
    "output_tokens",
    "ended_early",
    "error",
    "x_request_id",
    "trace_id",
]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Makes access logs for ``tmp_path/log``, started, and closes them."""
    made: list[AccessLog] = []

    def open_one(
        path: Path = tmp_path / "log", *, max_bytes: int = 1 << 20, keep: int = 3, **options: Any
    ) -> AccessLog:
        log = AccessLog(path, max_bytes=max_bytes, keep=keep, **options)
        made.append(log)
        log.start()
        return log

    yield open_one
    for log in made:
        log.close()


def note(log: AccessLog, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        log.done(Record(at_ns=0, started=0.0, client="127.0.0.1", method="POST", path="/x", request_id=number))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(*paths: Path) -> list[int]:
    return [line["request_id"] for path in paths for line in lines(path)]


# --- with real traffic ----------------------------------------------------------------------------------------------


async def traffic(**config: Any) -> None:
    """A chat that waits for a wake, one for nobody, and a stream that is left."""
    async with SimulatedBackend(["m"], tokens=10_000, tokens_per_second=200).serving() as (_, port):
        hooks = {"port": port, "wake": "true", "sleep": "true", "alive": "false"}
        app, switcher = await build_app(Config.model_validate({"models": {"m": hooks}, **config}))
        async with (
            app.serving(port=0) as (host, listening),
            httpx.AsyncClient(base_url=f"http://{host}:{listening}", timeout=30) as client,
        ):
            question = {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "private"}]}
            said = {b"x-request-id": b"one\xff"}
            path = "/v1/chat/completions"
            assert (await client.post(path, params={"q": "private"}, json=question, headers=said)).status_code == 200
            assert (await client.post(path, json=question | {"model": "nobody"})).status_code == 404
            async with client.stream("POST", path, json=question | {"stream": True, "max_tokens": 10_000}) as answer:
                async for _ in answer.aiter_bytes():
                    break
            async with asyncio.timeout(20):
                while switcher.in_flight_count("m"):  # noqa: ASYNC110  (there is no event for it)
                    await asyncio.sleep(0.005)


@pytest.mark.anyio
async def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    await traffic(access_log=str(path))
    found = lines(path)
    assert [list(line) for line in found] == [FIELDS] * 3
    waited, unknown, left = found
    assert (waited["model"], waited["status"], waited["switched"], waited["request_id"]) == ("m", 200, True, 1)
    assert (waited["input_tokens"], waited["output_tokens"]) == (1, 4)
    assert 0 < waited["wait_secs"] < waited["first_byte_secs"] <= waited["duration_secs"]
    assert (waited["path"], waited["x_request_id"]) == ("/v1/chat/completions", "one\u00ff")
    assert (unknown["model"], unknown["status"], unknown["error"]) == (None, 404, "model_not_found")
    assert (left["status"], left["ended_early"], left["wait_secs"]) == (200, CLIENT_GONE, 0.0)
    assert left["bytes"] > 0
    assert "private" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.anyio
async def test_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmux")
    await traffic(access_log=True)
    found = logged(caplog, "request")
    assert [(line["model"], line["status"]) for line in found] == [("m", 200), (None, 404), ("m", 200)]
    assert [list(line)[:-1] for line in found] == [FIELDS[1:]] * 3  # the last is `event`


@pytest.mark.anyio
async def test_none_by_default(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmux")
    await traffic()
    assert not logged(caplog, "request")


@pytest.mark.anyio
async def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"`access_log` .*/missing/log cannot be written"):
        await traffic(access_log=str(tmp_path / "missing" / "log"))


def test_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("models: {}\naccess_log: logs/access.jsonl\naccess_log_max_bytes: 1MiB\naccess_log_keep: 7\n")
    config = Config.from_file(path)
    assert config.access_log_path == tmp_path / "logs" / "access.jsonl"
    assert (config.access_log_max_bytes, config.access_log_keep) == (2**20, 7)
    path.write_text("models: {}\naccess_log: true\n")
    config = Config.from_file(path)
    assert (config.access_log, config.access_log_path) == (True, None)
    assert Config(models={}).access_log is False
    for wrong in ("", "a\nb", 3):
        with pytest.raises(ValueError, match="access_log"):
            Config.model_validate({"models": {}, "access_log": wrong})


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_are_put_aside_and_the_oldest_is_deleted(opened: Open, tmp_path: Path) -> None:
    log = opened(max_bytes=2000, keep=2)
    note(log, 60)
    log.close()
    paths = [tmp_path / name for name in ("log.2", "log.1", "log")]
    found = numbers(*paths)
    assert found == list(range(found[0], 61))
    assert found[0] > 1
    assert all(path.stat().st_size <= 2000 for path in paths)
    assert not (tmp_path / "log.3").exists()


def test_a_file_that_somebody_else_has_moved_is_begun_anew(opened: Open, tmp_path: Path) -> None:
    """As logrotate does, without telling."""
    log = opened()
    note(log, 2)
    wait_until(lambda: (tmp_path / "log").stat().st_size > 0)
    (tmp_path / "log").rename(tmp_path / "log.old")
    count = 2

    def begun_anew() -> bool:
        nonlocal count
        count += 1
        note(log, 1, count)  # what was being written at that very moment may still go to the old one
        return (tmp_path / "log").exists()

    wait_until(begun_anew)
    log.close()
    assert numbers(tmp_path / "log.old", tmp_path / "log") == list(range(1, count + 1))
    assert numbers(tmp_path / "log")


def test_what_was_there_stays(opened: Open, tmp_path: Path) -> None:
    log = opened()
    note(log, 1)
    log.close()
    with (tmp_path / "log").open("a") as file:
        file.write('{"request_id": 2')  # a line at which llmux was killed
    log = opened()
    note(log, 1, 3)
    log.close()
    assert (tmp_path / "log").read_text().count("\n") == 3


def test_two_at_a_time_do_not_mix(opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that is about to stop, and the one that takes its place."""
    caplog.set_level(logging.INFO, "llmux")
    old, new = opened(), opened()
    note(new, 2, 3)
    wait_until(lambda: bool(logged(caplog, "access_log_failing")))
    note(old, 2)
    old.close()
    wait_until(lambda: bool(logged(caplog, "access_log_goes_on")))
    new.close()
    assert numbers(tmp_path / "log") == [1, 2, 3, 4]
    assert new.dropped == 0


# --- when there is no room ------------------------------------------------------------------------------------------


@pytest.mark.fault(55)
def test_a_full_disk_holds_nobody_up(full_disk: Path, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    log = opened(full_disk, queue_bytes=2000)
    note(log, 1000)
    assert 900 < log.dropped < 1000
    wait_until(lambda: bool(logged(caplog, "access_log_failing")))
    assert logged(caplog, "access_log_failing")[0]["error"] == "No space left on device"
    log.close()
    assert len(logged(caplog, "access_log_failing")) == 1


@pytest.mark.fault(55)
def test_a_disk_that_is_full_at_the_start_is_no_reason_not_to_start(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def full(path: str, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return really(path, flags, *more, **options)

    with monkeypatch.context() as disk:
        disk.setattr(os, "open", full)
        log = opened()
        note(log, 3)
        wait_until(lambda: bool(logged(caplog, "access_log_failing")))
    wait_until(lambda: bool(logged(caplog, "access_log_goes_on")))
    log.close()
    assert numbers(tmp_path / "log") == [1, 2, 3]


def test_a_stuck_disk_holds_nobody_up_and_the_log_says_what_is_missing(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe that nobody reads, and then somebody does."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    log = opened(pipe, queue_bytes=200_000)
    count = 0
    while log.dropped < 500:
        count += 1
        note(log, 1, count)
        assert count < 100_000
    got: list[bytes] = []
    with pipe.open("rb") as reader:
        collector = threading.Thread(target=lambda: got.extend(reader))
        collector.start()
        wait_until(lambda: bool(logged(caplog, "access_log_goes_on")))
        log.close()
        collector.join(20)
    assert logged(caplog, "access_log_goes_on")[0]["dropped"] == 500
    assert len(got) == count - 500
    assert [json.loads(line)["request_id"] for line in got] == list(range(1, count - 499))


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Also when it was never started."""
    log = AccessLog(tmp_path / "log", max_bytes=1, keep=1)
    note(log, 50_000)
    assert log.dropped > 0
    assert sum(map(len, log._writer._lines)) <= QUEUE_BYTES + 1000
