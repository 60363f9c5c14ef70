from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from llmux.core.devices import EXACT, Candidate, choose_victims, fits, free_after

DEVICES = ["g0", "g1", "g2"]
placements = st.dictionaries(st.sampled_from(DEVICES), st.integers(1, 10), min_size=1)
capacities = st.fixed_dictionaries({device: st.integers(5, 15) for device in DEVICES})


def test_what_is_free() -> None:
    assert free_after({"g0": 10, "g1": 5}, [{"g0": 4}, {"g0": 7, "g1": 5}]) == {"g0": -1, "g1": 0}


def test_no_victims_where_there_is_room() -> None:
    assert choose_victims({"g0": 5}, {"g0": 5}, [Candidate("a", {"g0": 5}, 1.0)]) == ()


def test_the_first_candidate_that_helps_is_taken() -> None:
    candidates = [
        Candidate("elsewhere", {"g1": 9}, 0.0),
        Candidate("old", {"g0": 4}, 1.0),
        Candidate("new", {"g0": 4}, 1.0),
    ]
    assert choose_victims({"g0": 5}, {"g0": 1, "g1": 0}, candidates) == ("old",)


def test_a_victim_made_needless_by_a_later_one_is_spared() -> None:
    candidates = [Candidate("small", {"g0": 1}, 0.0), Candidate("large", {"g0": 9}, 1.0)]
    assert choose_victims({"g0": 9}, {"g0": 0}, candidates) == ("large",)


def test_the_cheapest_set_is_not_the_cheapest_one_by_one() -> None:
    candidates = [Candidate("a", {"g0": 3}, 1.0), Candidate("b", {"g0": 9}, 2.0), Candidate("c", {"g0": 6}, 1.5)]
    assert choose_victims({"g0": 9}, {"g0": 0}, candidates) == ("b",)


claimants = st.lists(st.tuples(placements, st.integers(0, 20)), max_size=7)


@given(placements, capacities, claimants, st.booleans())
def test_the_choice_is_the_cheapest_that_is_enough_and_found_whenever_there_is_one(
    placement: dict[str, int], capacity: dict[str, int], claims: list[tuple[dict[str, int], int]], many: bool
) -> None:
    free = free_after(capacity, [claim for claim, _ in claims])
    candidates = [Candidate(f"m{i}", claim, float(cost)) for i, (claim, cost) in enumerate(claims)]
    if many:  # beyond what is searched for exactly: bystanders that hold next to nothing
        candidates += [Candidate(f"n{i}", dict.fromkeys(DEVICES, 0), 0.0) for i in range(EXACT)]
    chosen = choose_victims(placement, free, candidates)

    def enough(victims: Sequence[str]) -> bool:
        rest = [candidate.claim for candidate in candidates if candidate.name not in victims]
        return fits(placement, free_after(capacity, rest))

    everybody = [candidate.name for candidate in candidates]
    assert (chosen is None) == (not enough(everybody))
    if not chosen:
        return
    assert enough(chosen)
    assert not any(enough(fewer) for fewer in combinations(chosen, len(chosen) - 1))
    costs = {candidate.name: candidate.cost for candidate in candidates}
    if not many:
        sets = [each for size in range(len(claims) + 1) for each in combinations(everybody, size) if enough(each)]
        assert sum(costs[name] for name in chosen) == min(sum(costs[name] for name in each) for each in sets)
