"""Writing: rotation, restarts, disks that are full, stuck or somebody else's; and nobody is ever held up."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmux.core import Core
from llmux.driver import Driver
from llmux.eventlog import Gap, Header, Recorder, check
from llmux.eventlog.reading import Cut, Entry
from llmux.hooks import HookRunner, HookSpec
from llmux.logfile import QUEUE_BYTES
from llmux.messages import Arrived, BackendFailed, Finished, Hook, OnExit
from llmux.policy import FifoPolicy
from tests.core.harness import two
from tests.eventlog.conftest import events, records, turns, wait_until
from tests.eventlog.test_replay import make
from tests.test_driver import Request, Sink

Open = Callable[..., Recorder]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Makes recorders for ``tmp_path/log``, started, and closes them."""
    made: list[Recorder] = []

    def open_one(path: Path = tmp_path / "log", **options: Any) -> Recorder:
        recorder = Recorder(path, two(), "fifo", {}, **options)
        made.append(recorder)
        recorder.start()
        return recorder

    yield open_one
    for recorder in made:
        recorder.close()


def record(recorder: Recorder, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        recorder(float(number), Arrived(number, "a"), [])


def numbers(found: list[Entry]) -> list[int]:
    return [event.request_id for event in events(found) if isinstance(event, Arrived)]


def headers(found: list[Entry]) -> list[Header]:
    return [entry.record for entry in found if isinstance(entry.record, Header)]


def gaps(found: list[Entry]) -> list[int]:
    return [entry.record.gap for entry in found if isinstance(entry.record, Gap)]


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    found = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [message for message in found if message["event"] == event]


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_driver_with_real_hooks_is_recorded_and_replays(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "log", two(), "fifo", {})
    hooks = HookRunner()
    script = {Hook.WAKE: "sleep 0.02", Hook.SLEEP: "exit 0", Hook.ALIVE: "false"}
    driver = Driver(
        Core(two(), FifoPolicy()),
        hooks=hooks,
        scripts={(model, hook): HookSpec(script[hook], None) for model in "ab" for hook in script},
        ports={},
        aliases={},
        sink=Sink(),
        recorder=recorder,
    )
    driver.start()  # before the recorder is: nothing is lost
    await asyncio.to_thread(recorder.start)
    for model in "abba":
        request = Request()
        number = driver.arrived(model, request)
        await request.told()
        driver.finished(number)
    await driver.stop(1.0, OnExit.SLEEP)
    await hooks.wait_closed()
    driver.close()
    await asyncio.to_thread(recorder.close)
    found = await asyncio.to_thread(records, tmp_path / "log")
    report = check(found, make)
    assert report.difference is None
    assert report.checked == len(found) - 1
    assert not report.notes
    assert sum(isinstance(event, Finished) for event in events(found)) == 4


def test_the_header_tells_the_time(opened: Open, tmp_path: Path) -> None:
    before = time.time()
    recorder = opened()
    recorder(time.monotonic(), Arrived(1, "a"), [])
    recorder.close()
    header = headers(records(tmp_path / "log"))[0]
    at = json.loads((tmp_path / "log").read_text().splitlines()[1])["at"]
    assert before - 1 <= header.epoch + at <= time.time() + 1
    assert header.settings == two()


def test_only_its_owner_may_read_it(opened: Open, tmp_path: Path) -> None:
    opened()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_what_was_recorded_is_there_soon(opened: Open, tmp_path: Path) -> None:
    record(opened(), 3)
    wait_until(lambda: (tmp_path / "log").read_bytes().count(b"\n") == 4)


# --- rotation -------------------------------------------------------------------------------------------------------


def test_rotation(opened: Open, tmp_path: Path) -> None:
    recorder = opened(max_bytes=4000, keep=2)
    record(recorder, 200)
    recorder.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    paths = [tmp_path / "log", tmp_path / "log.2", tmp_path / "log.1"]  # any order will do
    assert all(path.stat().st_size <= 4000 for path in paths)
    found = records(*paths)
    kept = numbers(found)
    assert kept == list(range(kept[0], 201))
    parts = [header.part for header in headers(found)]
    assert parts == list(range(parts[0], parts[0] + 3))
    assert parts[0] > 0
    assert len({header.run for header in headers(found)}) == 1


def test_a_run_in_several_files_replays_as_one(opened: Open, tmp_path: Path) -> None:
    recorder = opened(max_bytes=2500, keep=50)
    core = Core(two(), FifoPolicy())
    for line in turns().lines[1:]:
        at = json.loads(line)["at"]
        event = events(records_of(line, tmp_path))[0]
        recorder(at, event, core.handle(event, at))
    recorder.close()
    paths = list(tmp_path.glob("log*"))
    assert len(paths) > 3
    report = check(records(*paths), make)
    assert (report.difference, report.checked, report.notes) == (None, len(turns().lines) - 1, [])


def records_of(line: bytes, folder: Path) -> list[Entry]:
    path = folder / "one"
    path.write_bytes(turns().lines[0] + b"\n" + line + b"\n")
    return records(path)


def test_an_event_larger_than_a_file_has_one_for_itself(opened: Open, tmp_path: Path) -> None:
    recorder = opened(max_bytes=1, keep=9)
    record(recorder, 4)
    recorder.close()
    assert len(list(tmp_path.iterdir())) == 4
    assert numbers(records(*tmp_path.iterdir())) == [1, 2, 3, 4]


def test_a_full_file_of_an_earlier_run_is_put_aside(opened: Open, tmp_path: Path) -> None:
    for first in (1, 101):
        recorder = opened(max_bytes=6000)
        record(recorder, 60, first)
        recorder.close()
    assert (tmp_path / "log.1").exists()
    assert (tmp_path / "log").stat().st_size <= 6000
    assert numbers(records(*tmp_path.iterdir())) == [*range(1, 61), *range(101, 161)]


# --- restarts -------------------------------------------------------------------------------------------------------


def test_the_next_run_appends(opened: Open, tmp_path: Path) -> None:
    for first in (1, 11):
        recorder = opened()
        record(recorder, 3, first)
        recorder.close()
    found = records(tmp_path / "log")
    assert numbers(found) == [1, 2, 3, 11, 12, 13]
    assert [header.part for header in headers(found)] == [0, 0]


def test_the_next_run_leaves_a_cut_line_alone(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\n".join(turns().lines)[:-3])
    recorder = opened()
    record(recorder, 3)
    recorder.close()
    found = records(tmp_path / "log")
    assert [type(entry.record) for entry in found].count(Cut) == 1
    assert numbers(found)[-3:] == [1, 2, 3]


def test_two_at_a_time_do_not_mix(opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmux")
    old, new = opened(), opened()
    record(new, 3, 11)
    record(old, 3)
    wait_until(lambda: bool(logged(caplog, "event_log_failing")))
    assert logged(caplog, "event_log_failing")[0]["error"] == f"another process writes {tmp_path / 'log'}"
    old.close()
    wait_until(lambda: bool(logged(caplog, "event_log_goes_on")))
    new.close()
    assert numbers(records(tmp_path / "log")) == [1, 2, 3, 11, 12, 13]
    assert new.dropped == 0


def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "log", tmp_path):
        recorder = Recorder(path, two(), "fifo", {})
        with pytest.raises(OSError, match=str(tmp_path)):
            recorder.start()
        recorder.close()


# --- when there is no room ------------------------------------------------------------------------------------------


@pytest.mark.fault(55)
def test_55_a_full_disk_holds_nobody_up(full_disk: Path, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    recorder = opened(full_disk, queue_bytes=2000)
    record(recorder, 1000)
    assert 900 < recorder.dropped < 1000
    wait_until(lambda: bool(logged(caplog, "event_log_failing")))
    assert logged(caplog, "event_log_failing")[0]["error"] == "No space left on device"
    record(recorder, 1000)
    assert recorder.dropped > 1900
    recorder.close()
    assert len(logged(caplog, "event_log_failing")) == 1


@pytest.mark.fault(55)
def test_55_a_disk_that_is_full_at_the_start_is_no_reason_not_to_start(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last line was cut, as on a disk that filled up, even opening the file takes a byte."""
    (tmp_path / "log").write_bytes(b'{"cut":')

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        recorder = opened()
        record(recorder, 10)
        wait_until(lambda: bool(logged(caplog, "event_log_failing")))
    wait_until(lambda: bool(logged(caplog, "event_log_goes_on")))
    assert logged(caplog, "event_log_goes_on")[0]["dropped"] == 0
    recorder.close()
    assert (tmp_path / "log").read_bytes().startswith(b'{"cut":\n{')
    assert len((tmp_path / "log").read_bytes().splitlines()) == 12  # the cut one, a header, ten events


def test_a_stuck_disk_makes_a_gap_and_the_log_says_so(opened: Open, tmp_path: Path) -> None:
    """A pipe that nobody reads, and then somebody does."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    limit = 200_000
    recorder = opened(pipe, queue_bytes=limit)
    count = 2000
    record(recorder, count)
    wait_until(lambda: recorder._writer.taken > 0)  # more than the pipe holds: the thread is stuck from now on
    while recorder.dropped < 500:
        count += 1
        record(recorder, 1, count)
        assert count < 100_000
    got: list[bytes] = []
    with pipe.open("rb") as reader:
        collector = threading.Thread(target=lambda: got.extend(reader))
        collector.start()
        wait_until(lambda: recorder._writer.queued() < limit // 2)
        record(recorder, 3, count + 1)
        recorder.close()
        collector.join(20)
    (tmp_path / "copy").write_bytes(b"".join(got))
    found = records(tmp_path / "copy")
    assert gaps(found) == [500]
    assert recorder.dropped == 500
    assert numbers(found) == [*range(1, count - 499), *range(count + 1, count + 4)]


def test_a_gap_at_the_very_end_is_written_too(opened: Open, tmp_path: Path) -> None:
    recorder = opened(queue_bytes=1)
    record(recorder, 1)
    record(recorder, 5, 2)
    recorder.close()
    assert sum(gaps(records(tmp_path / "log"))) == recorder.dropped >= 1


def test_a_text_that_cannot_be_written_is_a_gap(opened: Open, tmp_path: Path) -> None:
    recorder = opened()
    recorder(1.0, BackendFailed("\ud800"), [])
    record(recorder, 1)
    recorder.close()
    found = records(tmp_path / "log")
    assert gaps(found) == [1]
    assert numbers(found) == [1]
    assert recorder.dropped == 1


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Also when it was never started, as in an app that only ever answers `build_app`."""
    recorder = Recorder(tmp_path / "log", two(), "fifo", {})
    record(recorder, 150_000)
    assert recorder.dropped > 0
    assert sum(map(len, recorder._writer._lines)) <= QUEUE_BYTES
