from __future__ import annotations

import doctest
import math
from functools import partial

import pytest

import llmux.virtual.clock
from llmux.virtual import VirtualClock


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(llmux.virtual.clock).failed == 0


def test_advancing_fires_in_order_of_time_then_of_making() -> None:
    clock = VirtualClock(100.0)
    fired: list[tuple[str, float]] = []
    for name, when in (("late", 103.0), ("early", 101.0), ("early too", 101.0)):
        clock.call_at(when, partial(lambda name: fired.append((name, clock.now)), name))
    clock.advance(1.0)
    assert fired == [("early", 101.0), ("early too", 101.0)]
    clock.advance(5.0)
    assert fired[2:] == [("late", 103.0)]
    assert clock.now == 106.0


def test_what_is_made_for_now_fires_after_what_was_there_already() -> None:
    clock = VirtualClock()
    fired: list[str] = []

    def first() -> None:
        fired.append("first")
        clock.call_at(clock.now - 5, lambda: fired.append("made inside"))

    clock.call_at(1.0, first)
    clock.call_at(1.0, lambda: fired.append("second"))
    assert clock.run_until_idle() == 3
    assert fired == ["first", "second", "made inside"]
    assert clock.now == 1.0


def test_a_cancelled_timer_neither_fires_nor_counts() -> None:
    clock = VirtualClock()
    timer = clock.call_later(1.0, lambda: pytest.fail("cancelled, and fired"))
    timer.cancel()
    assert not timer.active
    assert clock.next_at() is None
    assert not clock.step()
    clock.advance(2.0)
    assert clock.now == 2.0


def test_infinity_never_comes_and_nan_is_no_time() -> None:
    clock = VirtualClock()
    clock.call_later(math.inf, lambda: pytest.fail("the end of time"))
    assert clock.run_until_idle() == 0
    with pytest.raises(ValueError, match="NaN"):
        clock.call_at(math.nan, lambda: None)


def test_time_does_not_go_back() -> None:
    clock = VirtualClock(5.0)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1.0)
    clock.advance_to(3.0)
    assert clock.now == 5.0


def test_a_periodic_timer_is_never_idle_and_that_is_said() -> None:
    clock = VirtualClock()

    def again() -> None:
        clock.call_later(1.0, again)

    again()
    with pytest.raises(RuntimeError, match="still busy after 50 steps"):
        clock.run_until_idle(max_steps=50)
