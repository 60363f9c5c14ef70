"""Whether models can share memory at all, against the definition."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmux.core import CoreSettings, ModelSpec
from llmux.core.worth import can_share

DEVICES = {"gpu0": 8, "gpu1": 4}

placements = st.fixed_dictionaries({}, optional={device: st.integers(0, size) for device, size in DEVICES.items()})
models = st.lists(st.lists(placements, min_size=1, max_size=3), min_size=1, max_size=5)


@given(models)
def test_as_the_definition_has_it(wanted: list[list[dict[str, int]]]) -> None:
    specs = [ModelSpec(str(number), tuple(one)) for number, one in enumerate(wanted)]
    needy = [spec for spec in specs if any(any(placement.values()) for placement in spec.placements)]
    expected = any(
        all(one.get(device, 0) + other.get(device, 0) <= size for device, size in DEVICES.items())
        for first, second in combinations(needy, 2)
        for one in first.placements
        for other in second.placements
    )
    assert can_share(CoreSettings(models=tuple(specs), devices=DEVICES)) is expected


@pytest.mark.parametrize(("size", "shared"), [(4, True), (5, False)])
def test_models_that_are_alike(size: int, shared: bool) -> None:
    """One alone is not enough, be it that it would fit twice."""
    alike = [ModelSpec(name, ({"gpu0": size},)) for name in "ab"]
    assert can_share(CoreSettings(models=tuple(alike), devices=DEVICES)) is shared
    assert not can_share(CoreSettings(models=tuple(alike[:1]), devices=DEVICES))
