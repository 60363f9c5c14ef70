"""Reading and replaying, over lines: what was recorded comes out again bit for bit, and what was not is told apart."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmux.core import Core
from llmux.eventlog.format import FORMAT, PolicyNote, event_line, gap_line, header_line, parse, raised_line
from llmux.eventlog.reading import Entry, UnreadableError, read
from llmux.eventlog.replay import Report, check
from llmux.eventlog.story import Teller
from llmux.messages import EFFECT_DECODER, Arrived, Effect, Event, Left, Reject, Start, StateChanged, TimerFired
from llmux.policy import SwitchPolicy, load_policy
from tests.core.harness import Play, three_on_two_gpus, two
from tests.core.test_properties import History
from tests.eventlog.conftest import Log, header, played, turns


def make(note: PolicyNote) -> SwitchPolicy:
    return load_policy(note.name, note.options)


def parsed(lines: Iterable[bytes], file: str = "log") -> list[Entry]:
    return list(read(lines, file))


def checked(*files: Sequence[bytes]) -> Report:
    return check([entry for number, lines in enumerate(files) for entry in parsed(lines, f"log{number}")], make)


class Replayed(History):
    """A random history, whose log is replayed at its end."""

    @property
    def play(self) -> Play:
        return self._play

    @play.setter
    def play(self, play: Play) -> None:
        self.log = Log(header(play.core.settings))
        self._play = played(play, self.log)

    def teardown(self) -> None:
        super().teardown()
        report = checked(self.log.lines)
        assert report.difference is None
        assert (report.checked, report.unchecked, report.notes) == (len(self.play.log), 0, [])
        assert report.effects == len(self.play.effects)
        assert list(Teller().tell(parsed(self.log.lines)))


class ReplayedOnTwoDevices(Replayed):
    make = staticmethod(three_on_two_gpus)


BUDGET = settings(max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize("machine", [Replayed, ReplayedOnTwoDevices])
def test_random_histories_replay_bit_for_bit(machine: type[Replayed]) -> None:
    machine.TestCase.settings = BUDGET
    machine.TestCase("runTest").runTest()


@given(st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("d", struct.pack("Q", bits))[0]))
def test_times_come_back_bit_for_bit(at: float) -> None:
    if abs(at) < float("inf"):
        record = parse(event_line(at, Start(), []))
        assert struct.pack("d", record.at) == struct.pack("d", at)  # type: ignore[union-attr]  # or the test fails


def test_a_header_comes_back_as_it_was() -> None:
    first = header(three_on_two_gpus(request_timeout=5.0, sleep_retry_delays=(0.5, 1.0)))
    found = parse(header_line(first))
    assert found == first
    assert list(found.settings.models[0].placements[0]) == ["gpu0", "gpu1"]  # equality says nothing about order


@pytest.mark.parametrize("policy", ["fifo", "break-even", "round-robin", "drain-first", "priority"])
def test_every_built_in_policy_replays(policy: str) -> None:
    options = {} if policy == "fifo" else {"max_wait_secs": 7}
    first = header(three_on_two_gpus())
    first = type(first)(
        version="1",
        run="r",
        part=0,
        started=0.0,
        epoch=0.0,
        settings=first.settings,
        policy=PolicyNote(policy, options),
    )
    log = Log(first)
    play = played(Play(first.settings, load_policy(policy, options), started=False), log)
    play.start()
    for name in ("big", "left", "right", "small", "big", "small"):
        play.arrive(name)
        play.advance(3.0)
    play.settle()
    report = checked(log.lines)
    assert report.difference is None
    assert report.checked == len(play.log)


# --- what is not equal ----------------------------------------------------------------------------------------------


def test_a_changed_effect_is_found_with_what_came_before() -> None:
    log = turns()
    number = next(n for n, line in enumerate(log.lines) if b'"Grant"' in line)
    log.lines[number] = log.lines[number].replace(b'"waited":4.0', b'"waited":4.5')
    found = checked(log.lines).difference
    assert found is not None
    assert found.entry.line == number + 1
    assert json.loads(found.recorded)["waited"] == 4.5
    assert json.loads(found.replayed)["waited"] == 4.0
    assert [entry.line for entry in found.before] == list(range(number + 1 - len(found.before), number + 1))


def test_a_log_from_before_an_effect_had_a_field_replays() -> None:
    log = Log(header(two(request_timeout=5.0)))
    play = played(Play(two(request_timeout=5.0), started=False), log)
    play.start()
    play.arrive("a")
    play.advance(5.0)
    assert [reject.switched for reject in play.rejected.values()] == [True]
    old = [line.replace(b',"switched":true', b"") for line in log.lines]
    assert old != log.lines
    report = checked(old)
    assert report.difference is None
    assert report.checked == len(play.log)
    (line,) = [line for line in old if b"Reject" in line]
    (reject,) = [
        EFFECT_DECODER.decode(json.dumps(effect))
        for effect in json.loads(line)["effects"]
        if effect["type"] == "Reject"
    ]
    assert isinstance(reject, Reject)
    assert not reject.switched  # nobody knows
    other = checked([line.replace(b"queue_timeout", b"queue_full") for line in old])
    assert other.difference is not None


def test_a_missing_and_an_additional_effect_are_found() -> None:
    for change in ((b'"effects":[', b'"effects":[{"type":"Stopped"},'), (b'"effects":[{', b'"effects":[],"x":[{')):
        log = turns()
        log.lines[1] = log.lines[1].replace(*change)
        found = checked(log.lines).difference
        assert found is not None
        assert found.entry.line == 2


def test_another_policy_decides_otherwise() -> None:
    log = turns()
    log.lines[0] = header_line(header(policy="drain-first"))
    assert checked(log.lines).difference is not None


def test_an_event_that_the_core_choked_on_is_a_reproduction(monkeypatch: pytest.MonkeyPatch) -> None:
    log = turns()
    log.lines.append(raised_line(99.0, TimerFired("never set"), "ZeroDivisionError"))
    found = checked(log.lines).difference
    assert found is not None
    assert found.recorded == "raised ZeroDivisionError"
    assert found.replayed == "nothing more"
    handle = Core.handle

    def broken(core: Core, event: Event, now: float) -> list[Effect]:
        if event == TimerFired("never set"):
            raise ZeroDivisionError
        return handle(core, event, now)

    monkeypatch.setattr(Core, "handle", broken)
    report = checked([*turns().lines, log.lines[-1]])
    assert report.difference is None
    assert report.checked == len(log.lines) - 1


# --- what cannot be checked -----------------------------------------------------------------------------------------


def test_what_comes_after_a_gap_is_not_checked_and_said_so() -> None:
    log = turns()
    log.lines.insert(5, gap_line(3.0, 7))
    report = checked(log.lines)
    assert (report.checked, report.unchecked) == (4, len(log.lines) - 6)
    assert report.notes == ["log0:6: 7 events are missing; what comes after them cannot be checked"]


def test_the_second_file_of_a_run_needs_the_first() -> None:
    lines = turns().lines
    first, second = lines[:9], [header_line(header(part=1)), *lines[9:]]
    both = checked(first, second)
    assert (both.difference, both.checked, both.unchecked, both.notes) == (None, len(lines) - 1, 0, [])
    alone = checked(second)
    assert (alone.checked, alone.unchecked) == (0, len(lines) - 9)
    assert "begins in the middle of a run" in alone.notes[0]
    third = [header_line(header(part=2)), *lines[9:]]
    assert checked(first, third).unchecked == len(lines) - 9
    stranger = [header_line(header(part=1, run="another")), *lines[9:]]
    assert checked(first, stranger).unchecked == len(lines) - 9


def test_every_run_of_a_file_begins_anew() -> None:
    report = checked([*turns().lines, *turns().lines])
    assert (report.runs, report.unchecked, report.difference) == (2, 0, None)


@pytest.mark.parametrize("keep", [1, 10, -2])
def test_a_cut_last_line_is_tolerated_and_told(keep: int) -> None:
    lines = turns().lines
    report = checked([*lines[:-1], lines[-1][:keep]])
    assert report.checked == len(lines) - 2
    assert report.notes == [f"log0:{len(lines)}: the line was cut while it was written; its event is missing"]
    again = checked([*lines[:-1], lines[-1][:keep], *lines])
    assert again.checked == 2 * len(lines) - 3
    assert again.runs == 2


def test_a_cut_header_does_not_spoil_what_follows() -> None:
    lines = turns().lines
    assert checked([lines[0][:-5], *lines]).checked == len(lines) - 1


# --- what is no event log -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ([], "log: the file has no event log in it yet"),
        ([b"models:"], "log:1: not an event log"),
        ([b'{"a": 1}'], "log:1: not an event log"),
        ([event_line(1.0, Start(), [])], "log:1: not an event log: it does not begin with a header"),
        ([header_line(header())[:-1]], "log: the file has no event log in it yet"),
        ([header_line(header()).replace(b'_log":1', b'_log":%d' % (FORMAT + 1))], f"log:1: .*up to {FORMAT}"),
        ([header_line(header()), b'{"at": 1.0, "event": {"type": "Zap"}, "effects": []}'], "log:2: .*Zap"),
        ([header_line(header()), b'{"at": 1.0'], None),
        ([header_line(header()), b'{"at": 1.0', event_line(1.0, Start(), [])], "log:2: "),
        ([header_line(header()), b"\0\0\0", b"\0\0\0", header_line(header())], "log:2: "),
        ([header_line(header()), b'{"at": 1.0}'], "log:2: neither"),
        ([header_line(header()), b'{"raised": "\xff"}'], "log:2: "),
        ([header_line(header()), b'{"at": 1e999, "gap": 1}'], "log:2: "),
    ],
)
def test_the_first_bad_line_is_named(lines: list[bytes], where: str | None) -> None:
    if where is None:
        assert len(parsed(lines)) == 2
    else:
        with pytest.raises(UnreadableError, match=where):
            parsed(lines)


@given(st.lists(st.binary(max_size=60) | st.sampled_from(turns().lines), max_size=8))
def test_nothing_that_a_file_holds_makes_anything_but_a_clear_error(lines: list[bytes]) -> None:
    try:
        found = parsed([header_line(header()), *lines])
    except UnreadableError:
        return
    check(found, make)
    for line in Teller().tell(found):
        assert line.isprintable()


# --- the story ------------------------------------------------------------------------------------------------------


def test_the_story_is_told_in_words() -> None:
    story = list(Teller().tell(parsed(turns().lines)))
    assert story[0] == "== run r begins: llmux 1.2.3, policy fifo, models a, b =="
    assert any(
        line.startswith("2023-11-14 22:13:20.000  request 1 for a arrives → switch 3 from idle") for line in story
    )
    assert any("wake of a ends: ok after 4.000 s → a is awake" in line for line in story)
    assert any("grant 2 requests (1, 2) after 4.000 s" in line for line in story)
    assert any(line.endswith("request 4 for b leaves") for line in story)
    assert any("a drained in 2.000 s; a is sleeping" in line for line in story)


def test_the_story_of_one_model() -> None:
    everything = list(Teller().tell(parsed(turns().lines)))
    of_b = list(Teller("b").tell(parsed(turns().lines)))
    assert len(of_b) < len(everything)
    assert any("request 4 for b leaves" in line for line in of_b)
    assert any("sleep of a ends" in line for line in of_b)  # it is what b waits for
    assert not any("request 1 for a" in line for line in of_b[2:])


def test_the_story_has_room_for_gaps_cuts_and_what_a_newer_llmux_says() -> None:
    lines = [
        header_line(header()),
        gap_line(1.0, 5),
        b'{"at": 2.0, "event": {"type": "Finished", "request_id": 9}, "effects": [{"type": "Dance"}]}',
        event_line(3.0, Left(8), [StateChanged("a\x1b[2J", "awake", "lost", "x")]),  # type: ignore[arg-type]  # a text
        raised_line(1e18, Arrived(1, "a"), "KeyError"),
        b'{"at"',
    ]
    assert list(Teller().tell(parsed(lines)))[1:] == [
        "2023-11-14 22:13:21.000  -- 5 events are missing --",
        "2023-11-14 22:13:22.000  request 9 for ? ends",
        r"2023-11-14 22:13:23.000  request 8 for ? leaves → a\x1b[2J is lost (x)",
        f"{1e18:.3f}  request 1 for a arrives → the core raised KeyError",
        "-- a line was cut while it was written --",
    ]
