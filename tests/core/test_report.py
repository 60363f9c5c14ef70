from __future__ import annotations

import pytest

from llmux.core.report import snapshot
from llmux.core.switching import Switching
from llmux.messages import Finished, Hook, HookEnded, ModelState, Outcome
from tests.core.harness import GIB, Play, three_on_two_gpus, two


def _served(play: Play, model: str) -> int:
    """A request that has woken the model."""
    request = play.arrive(model)
    play.wake(model)
    return request


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


def test_devices_show_what_is_held() -> None:
    play = Play(three_on_two_gpus())
    play.arrive("left")
    seen = {device.name: device for device in snapshot(play.core, play.now).devices}
    assert (seen["gpu0"].used, seen["gpu0"].capacity) == (16 * GIB, 24 * GIB)
    assert seen["gpu1"].used == 0


def test_what_is_held_and_what_is_promised_are_told_apart() -> None:
    """While a victim sleeps, its memory is held, and promised to whoever comes after it; that is no double booking."""
    play = Play(two())
    play.finish(_served(play, "a"))
    play.arrive("b")
    (device,) = snapshot(play.core, play.now).devices
    assert (device.used, device.promised, device.promised_to) == (1, 1, ("b",))
    play.sleep("a")
    (device,) = snapshot(play.core, play.now).devices
    assert (device.used, device.promised, device.promised_to) == (1, 0, ()), "it is being woken, and holds it"
    play.wake("b")
    (device,) = snapshot(play.core, play.now).devices
    assert (device.used, device.promised) == (1, 0)


def test_a_model_that_could_not_be_put_to_sleep_says_so() -> None:
    play = Play(two(sleep_retry_delays=()))
    play.finish(_served(play, "a"))
    assert snapshot(play.core, play.now).models[0].kept is None
    play.arrive("b")
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED, code=7)
    assert snapshot(play.core, play.now).models[0].kept is None, "it is not known yet what is to become of it"
    play.end(play.run(Hook.ALIVE, "a"))
    a = snapshot(play.core, play.now).models[0]
    assert (a.state, a.lost) == (ModelState.AWAKE, None)
    assert a.kept is not None
    assert "sleep hook of a" in a.kept.error
    assert a.kept.next_try_secs is not None
    play.advance(a.kept.next_try_secs)
    a = snapshot(play.core, play.now).models[0]
    assert a.kept is not None
    assert a.kept.next_try_secs is None, "as soon as it has to make room"
    play.arrive("b")
    play.end(play.run(Hook.SLEEP, "a"))
    assert snapshot(play.core, play.now).models[0].kept is None


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
