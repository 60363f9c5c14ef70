from __future__ import annotations

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import SwitchStarted
from llmux.policy import FifoPolicy, SwitchPolicy
from tests.core.harness import GIB, Play


def test_fifo_is_a_policy() -> None:
    assert isinstance(FifoPolicy(), SwitchPolicy)


def started(play: Play) -> list[str]:
    return [fact.to_model for fact in play.facts(SwitchStarted) if isinstance(fact, SwitchStarted)]


def test_a_younger_request_overtakes_only_on_other_devices() -> None:
    settings = CoreSettings(
        models=(
            ModelSpec("both", ({"g0": 8 * GIB, "g1": 8 * GIB},)),
            ModelSpec("zero", ({"g0": 8 * GIB},)),
            ModelSpec("one", ({"g1": 8 * GIB},)),
            ModelSpec("two", ({"g2": 8 * GIB},)),
        ),
        devices={"g0": 10 * GIB, "g1": 10 * GIB, "g2": 10 * GIB},
        min_active=60.0,
    )
    play = Play(settings)
    play.arrive("zero")
    play.wake("zero")  # awake, and may not be put to sleep for a minute
    play.arrive("both")
    play.arrive("one")  # would fit, but the older request keeps its device
    play.arrive("two")
    assert started(play) == ["zero", "two"]
    play.settle()
    assert started(play) == ["zero", "two", "both", "one"]


def test_a_steady_stream_does_not_starve_the_other_model() -> None:
    """FAULTS 48: while requests for a keep coming, b is served after one drain and one switch."""
    play = Play(CoreSettings(models=(ModelSpec("a"), ModelSpec("b"))))
    play.arrive("a")
    play.wake("a")
    waiter = play.arrive("b")
    for _ in range(100):
        play.arrive("a")
    for request in list(play.in_flight):
        play.finish(request)
    play.sleep("a")
    play.wake("b")
    assert waiter in play.in_flight
