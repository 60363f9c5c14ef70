from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from llmux.core.devices import choose_victims, fits, free_after

DEVICES = ["g0", "g1", "g2"]
placements = st.dictionaries(st.sampled_from(DEVICES), st.integers(1, 10), min_size=1)
capacities = st.fixed_dictionaries({device: st.integers(5, 15) for device in DEVICES})


def test_what_is_free() -> None:
    assert free_after({"g0": 10, "g1": 5}, [{"g0": 4}, {"g0": 7, "g1": 5}]) == {"g0": -1, "g1": 0}


def test_no_victims_where_there_is_room() -> None:
    assert choose_victims({"g0": 5}, {"g0": 5}, [("a", {"g0": 5})]) == ()


def test_the_first_candidate_that_helps_is_taken() -> None:
    candidates = [("elsewhere", {"g1": 9}), ("old", {"g0": 4}), ("new", {"g0": 4})]
    assert choose_victims({"g0": 5}, {"g0": 1, "g1": 0}, candidates) == ("old",)


def test_a_victim_made_needless_by_a_later_one_is_spared() -> None:
    candidates = [("small", {"g0": 1}), ("large", {"g0": 9})]
    assert choose_victims({"g0": 9}, {"g0": 0}, candidates) == ("large",)


@given(placements, capacities, st.lists(placements, max_size=6))
def test_the_choice_is_enough_needed_and_found_whenever_there_is_one(
    placement: dict[str, int], capacity: dict[str, int], claims: list[dict[str, int]]
) -> None:
    free = free_after(capacity, claims)
    candidates = [(f"m{i}", claim) for i, claim in enumerate(claims)]
    chosen = choose_victims(placement, free, candidates)

    def enough(victims: tuple[str, ...]) -> bool:
        rest = [claim for name, claim in candidates if name not in victims]
        return fits(placement, free_after(capacity, rest))

    everybody = tuple(name for name, _ in candidates)
    assert (chosen is None) == (not enough(everybody))
    if chosen:
        assert enough(chosen)
        assert not any(enough(fewer) for fewer in combinations(chosen, len(chosen) - 1))
