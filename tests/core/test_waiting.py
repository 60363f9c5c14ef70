"""In which order those who wait for a model get on."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmux.core import CoreSettings, ModelSpec
from llmux.core.ledger import Model, Request
from llmux.core.waiting import Waiters
from llmux.messages import Grant
from tests.core.harness import Play, two


def one_at_a_time() -> CoreSettings:
    return CoreSettings(models=(ModelSpec("a", max_in_flight=1), ModelSpec("b")), level_seconds=30.0)


def served(play: Play) -> list[int]:
    """Let everybody be served; returns who was, in order."""
    play.settle()
    return [grant.request_id for grant in play.facts(Grant) if isinstance(grant, Grant)]


def test_urgent_requests_go_first_and_patient_ones_last() -> None:
    play = Play(one_at_a_time())
    names = [play.arrive("a", level) for level in (-1, 0, 0, 1, -1, 1)]
    play.wake("a")
    assert served(play) == [names[place] for place in (3, 5, 1, 2, 0, 4)]


def test_nobody_is_overtaken_by_those_who_come_a_level_later() -> None:
    play = Play(one_at_a_time())
    patient = play.arrive("a", -1)
    play.advance(29.0)
    soon = play.arrive("a")
    play.advance(2.0)
    late = play.arrive("a")
    play.advance(28.0)
    urgent = play.arrive("a", 1)
    play.advance(2.0)
    too_late = play.arrive("a", 1)
    play.wake("a")
    assert served(play) == [soon, urgent, patient, late, too_late]


def test_all_that_get_on_together_do_so_in_the_order_of_their_turns() -> None:
    play = Play(two())
    names = [play.arrive("a", level) for level in (0, -1, 1)]
    prospects = play.core.prospects("a", play.now)
    assert [prospects.of(name)[0] for name in names] == [1, 2, 0]
    play.wake("a")
    assert served(play) == [names[2], names[0], names[1]]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("come"), st.sampled_from([0, 0, 1, -1]), st.sampled_from([0.0, 7.0, 40.0])),
            st.tuples(st.just("leave"), st.integers(0, 30), st.just(0.0)),
            st.tuples(st.just("next"), st.just(0), st.just(0.0)),
        ),
        max_size=40,
    )
)
def test_a_queue_is_what_sorting_gives(steps: list[tuple[str, int, float]]) -> None:
    waiters, model, known, now = Waiters(), Model(ModelSpec("a"), 0), list[Request](), 0.0

    def turn(request: Request) -> Any:
        return request.arrived - 30.0 * request.level, request.request_id

    for number, (what, value, later) in enumerate(steps):
        now += later
        if what == "come":
            request = Request(number, model, now, None, None, value)
            waiters.add(request)
            known.append(request)
        elif known:
            gone = waiters.first(30.0) if what == "next" else known[value % len(known)]
            if what == "next":
                assert gone is min(known, key=turn)
            waiters.remove(gone)
            known.remove(gone)
        assert list(waiters.values()) == known  # in the order of arrival
        assert list(waiters.in_order(30.0)) == sorted(known, key=turn)
        assert waiters.highest == max((request.level for request in known), default=0)
