from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux import SwitchCostTracker
from llmux.costs import PRIOR

seconds = st.floats(min_value=0.001, max_value=1000.0)


def test_the_first_observation_is_taken_as_it_is_and_later_ones_are_smoothed() -> None:
    tracker = SwitchCostTracker(alpha=0.3)
    assert tracker.record("a", "b", 10.0) == 10.0
    assert tracker.record("a", "b", 20.0) == pytest.approx(13.0)
    assert tracker.estimate("a", "b") == pytest.approx(13.0)


def test_pairs_are_directed_and_cold_starts_are_apart() -> None:
    tracker = SwitchCostTracker()
    tracker.record(None, "a", 5.0)
    tracker.record("b", "a", 15.0)
    assert tracker.estimate(None, "a") == 5.0
    assert tracker.estimate("b", "a") == 15.0
    assert tracker.estimate("a", "b") is None
    assert tracker.estimates_from("b") == {"a": 15.0}
    assert tracker.estimates_from(None) == {"a": 5.0}


def test_an_unseen_pair_is_put_together_from_other_pairs() -> None:
    tracker = SwitchCostTracker()
    assert tracker.expected("a", "b") == PRIOR
    tracker.record_sleep("a", 2.0)
    tracker.record_wake("b", 5.0)
    assert tracker.estimate("a", "b") is None
    assert tracker.expected("a", "b") == 7.0
    assert tracker.expected(None, "b") == 5.0
    assert tracker.expected("a", "c") == 7.0  # the mean of the wakes that were seen stands in for c's
    assert tracker.expected("c", "b") == 7.0  # and so for c's sleep
    tracker.record("a", "b", 6.0)
    assert tracker.expected("a", "b") == 6.0


def test_with_pairs_but_no_parts_the_mean_of_the_pairs_is_expected() -> None:
    tracker = SwitchCostTracker()
    tracker.record("a", "b", 4.0)
    tracker.record("b", "a", 8.0)
    assert tracker.expected("a", "c") == 6.0


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.1])
def test_alpha_must_make_sense(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be above 0"):
        SwitchCostTracker(alpha)


@given(st.lists(seconds, min_size=1), st.floats(min_value=0.01, max_value=1.0))
def test_an_average_stays_within_what_was_observed(observed: list[float], alpha: float) -> None:
    tracker = SwitchCostTracker(alpha)
    for value in observed:
        tracker.record("a", "b", value)
    average = tracker.estimate("a", "b")
    assert average is not None
    assert min(observed) * (1 - 1e-9) <= average <= max(observed) * (1 + 1e-9)
