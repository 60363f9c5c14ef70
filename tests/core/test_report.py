from __future__ import annotations

from llmux.core.report import snapshot
from llmux.messages import Hook, ModelState, Outcome
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


def test_a_stopping_scheduler_is_not_ready() -> None:
    play = Play(two())
    play.arrive("a")
    play.wake("a")
    play.stop()
    assert not snapshot(play.core, play.now).ready
