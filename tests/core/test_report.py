from __future__ import annotations

import pytest

from llmux.core.report import snapshot
from llmux.core.switching import Switching
from llmux.messages import Finished, Hook, HookEnded, ModelState, Outcome
from tests.core.harness import GIB, Play, three_on_two_gpus, two


def test_waiting_in_flight_and_ages() -> None:
    play = Play(two())
    play.arrive("a")
    play.wake("a", after=1.0)
    play.arrive("b")
    play.advance(4.0)
    seen = snapshot(play.core, play.now)
    a, b = seen.models
    assert (a.state, a.in_flight, a.waiting, a.oldest_waiter_age) == (ModelState.DRAINING, 1, 0, None)
    assert (b.state, b.in_flight, b.waiting, b.oldest_waiter_age) == (ModelState.ASLEEP, 0, 1, 4.0)
    assert seen.oldest_waiter_age == 4.0
    assert seen.seconds_since_last_event == 4.0
    assert seen.work_pending
    assert seen.ready


def test_devices_show_what_is_promised() -> None:
    play = Play(three_on_two_gpus())
    play.arrive("left")
    seen = {device.name: device for device in snapshot(play.core, play.now).devices}
    assert (seen["gpu0"].used, seen["gpu0"].capacity) == (16 * GIB, 24 * GIB)
    assert seen["gpu1"].used == 0


def test_a_lost_model_makes_its_device_lost() -> None:
    play = Play(two(sleep_retry_delays=()))
    request = play.arrive("a")
    play.wake("a")
    play.finish(request)
    play.arrive("b")
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    seen = snapshot(play.core, play.now)
    assert seen.lost_devices == ("default",)
    assert not seen.ready


@pytest.mark.parametrize("what", ["sleep_ended", "woke"])
def test_a_model_that_nothing_gets_out_of_its_state_is_not_ready(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that a fault of ours has swallowed, with everything else as it should be."""
    play = Play(two())
    request = play.arrive("a")
    if what == "sleep_ended":
        play.wake("a")
        play.arrive("b")
        play.finish(request)
    hook, state = (Hook.SLEEP, "sleeping") if what == "sleep_ended" else (Hook.WAKE, "waking")
    assert snapshot(play.core, play.now).ready

    def fault(*_: object) -> None:
        raise RuntimeError("a fault")

    with monkeypatch.context() as broken:
        broken.setattr(Switching, what, fault)
        with pytest.raises(RuntimeError):
            play.core.handle(HookEnded(play.run(hook, "a").run_id, Outcome.OK, 1.0), play.now)
    seen = snapshot(play.core, play.now)
    assert seen.wedged == (f"a is {state}, and nothing is under way that would end that",)
    assert seen.reasons == list(seen.wedged)
    assert not seen.ready


def test_a_drain_that_does_not_end_is_not_ready() -> None:
    play = Play(two())
    play.arrive("a")
    play.wake("a")
    play.arrive("b")
    play.advance(300.0)  # its time is over: what is in flight was cut, and its end is to follow
    play.now += 29.0
    assert snapshot(play.core, play.now).ready
    play.now += 2.0
    seen = snapshot(play.core, play.now)
    assert seen.reasons == ["the drain of a has not ended, although its time is over"]
    assert not seen.ready


def test_a_drain_whose_end_got_lost_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(two())
    request = play.arrive("a")
    play.wake("a")
    play.arrive("b")
    with monkeypatch.context() as broken:
        broken.setattr(Switching, "finished", lambda *_: None)
        play.core.handle(Finished(request), play.now)
    assert snapshot(play.core, play.now).reasons == ["a is draining, and has nothing in flight"]


def test_a_stopping_scheduler_is_not_ready() -> None:
    play = Play(two())
    play.arrive("a")
    play.wake("a")
    play.stop()
    assert not snapshot(play.core, play.now).ready
