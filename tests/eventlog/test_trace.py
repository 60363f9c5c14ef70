"""An event log as input for the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmux import eventlog
from llmux.eventlog.format import gap_line, header_line
from llmux.eventlog.trace import Observed
from llmux.policy import load_policy
from llmux.sim import Arrival, simulate
from tests.core.harness import Play, two
from tests.eventlog.conftest import Log, header, played, turns


@pytest.fixture
def observed(tmp_path: Path) -> Observed:
    return eventlog.observed(turns().write(tmp_path / "log"))


def test_arrivals_and_service_times(observed: Observed) -> None:
    # Requests 1 to 5 came at 0, 0, 5, 5 and 14.5 s; 4 left and 5 has not ended, so they get the median of their model.
    assert observed.arrivals == [
        Arrival(0.0, "a", 0, 1000),
        Arrival(0.0, "a", 0, 3000),
        Arrival(5.0, "b", 0, 500),
        Arrival(5.0, "b", 0, 500),
        Arrival(14.5, "a", 0, 2000),
    ]
    assert observed.service == [1.0, 3.0, 0.5, None, None]
    assert observed.missing == 0


def test_only_the_arrivals(tmp_path: Path, observed: Observed) -> None:
    assert eventlog.arrivals(tmp_path / "log") == observed.arrivals


def test_hook_times(observed: Observed) -> None:
    assert observed.hooks.sleeps == {"a": 1.0, "b": 3.0}
    assert observed.hooks.wakes == {"a": 4.5, "b": 6.0}
    # 4 and 5 s around 4.5 s
    assert observed.hooks.noise == pytest.approx((2 * (0.5 / 4.5) ** 2) ** 0.5)


def test_what_was_never_seen_is_taken_from_the_others(tmp_path: Path) -> None:
    log = Log(header())
    play = played(Play(two(), started=False), log)
    play.start()
    play.arrive("a")
    play.wake("a", after=4.0)
    found = eventlog.observed(log.write(tmp_path / "log"))
    assert found.hooks.wakes == {"a": 4.0, "b": 4.0}
    assert found.hooks.sleeps == {"a": 2.0, "b": 2.0}
    assert found.hooks.noise == 0
    assert found.service == [None]


def test_the_same_policy_simulated_has_the_same_waits(observed: Observed) -> None:
    """Hooks without noise took other times than their means, so: each wait is right but for that."""
    hooks = type(observed.hooks)(sleeps=observed.hooks.sleeps, wakes=observed.hooks.wakes)
    result = simulate(
        observed.arrivals,
        observed.settings,
        load_policy(observed.policy.name, observed.policy.options),
        hooks=hooks,
        backends=observed.backends,
        check=True,
    )
    assert result.granted[:2] == [4.5, 4.5]
    assert [end - begin for begin, end in zip(result.granted, result.finished, strict=True)] == pytest.approx(  # type: ignore[operator]  # all are served
        [1.0, 3.0, 0.5, 0.5, 2.0]
    )


def test_runs_and_files_are_put_one_behind_the_other(tmp_path: Path) -> None:
    lines = turns().lines
    early, late = Log(header()), Log(header(part=1))
    early.lines += lines[1:8]
    late.lines += [*lines[8:], gap_line(30.0, 3)]
    paths = [late.write(tmp_path / "log"), early.write(tmp_path / "log.1")]
    found = eventlog.observed(*paths)
    assert found.service == [1.0, 3.0, 0.5, None, None]
    assert found.missing == 3


def test_another_run_has_other_request_numbers(tmp_path: Path) -> None:
    first = turns()
    again = turns().lines
    again[0] = header_line(header(run="s")).replace(b"1700000000.0", b"1700000100.0")
    first.lines += again
    found = eventlog.observed(first.write(tmp_path / "log"))
    assert [arrival.at for arrival in found.arrivals] == [0.0, 0.0, 5.0, 5.0, 14.5, 100.0, 100.0, 105.0, 105.0, 114.5]
    assert found.service == [1.0, 3.0, 0.5, None, None] * 2
