"""What a writer does that neither of its users asks of it; theirs are `eventlog/test_recorder.py` and
`test_accesslog.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmux.logfile import LineWriter
from tests.eventlog.conftest import wait_until

Open = Callable[..., LineWriter]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Makes writers for ``tmp_path/log``, started, and closes them."""
    made: list[LineWriter] = []

    def open_one(**options: Any) -> LineWriter:
        asked: dict[str, Any] = {
            "max_bytes": 10_000,
            "keep": 3,
            "on_failing": pytest.fail,
            "on_going_on": pytest.fail,
        } | options
        writer = LineWriter(tmp_path / "log", thread="test", **asked)
        made.append(writer)
        writer.start()
        return writer

    yield open_one
    for writer in made:
        writer.close()


def test_without_a_header_a_full_file_of_an_earlier_run_is_put_aside_at_once(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 99 + b"\n")
    writer = opened(max_bytes=100)
    writer.put(b"one")
    writer.close()
    assert (tmp_path / "log").read_bytes() == b"one\n"
    assert (tmp_path / "log.1").stat().st_size == 100


def test_every_file_begins_with_a_header_and_has_a_line_even_if_there_is_no_room(opened: Open, tmp_path: Path) -> None:
    writer = opened(max_bytes=1, header=lambda: b"header")
    for line in (b"one", b"two", b"three"):
        writer.put(line)
    writer.close()
    found = [(tmp_path / name).read_bytes() for name in ("log.2", "log.1", "log")]
    assert found == [b"header\none\n", b"header\ntwo\n", b"header\nthree\n"]


@pytest.mark.parametrize("follow", [True, False])
def test_a_file_that_was_moved(opened: Open, tmp_path: Path, follow: bool) -> None:
    writer = opened(header=lambda: b"header", follow=follow)
    writer.put(b"one")
    wait_until(lambda: (tmp_path / "log").read_bytes() == b"header\none\n")
    (tmp_path / "log").rename(tmp_path / "moved")
    writer.put(b"two")
    writer.close()
    assert (tmp_path / "moved").read_bytes() == (b"header\none\n" if follow else b"header\none\ntwo\n")
    assert (tmp_path / "log").exists() is follow
    if follow:
        assert (tmp_path / "log").read_bytes() == b"header\ntwo\n"
    assert writer.queued() == 0
