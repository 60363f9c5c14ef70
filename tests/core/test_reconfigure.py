"""Another configuration in the middle of everything, in virtual time."""

from __future__ import annotations

import pytest

from llmux.core import CoreSettings, ModelSpec, PolicyNote
from llmux.core.reconfigure import claim_after
from llmux.costs import SwitchCostTracker
from llmux.messages import (
    AbortRequests,
    Grant,
    Hook,
    ModelRemoved,
    ModelState,
    OperatorFree,
    OperatorSleep,
    OperatorSwitch,
    Outcome,
    PolicyFault,
    ProbesEnded,
    Refusal,
    SwitchEnded,
)
from tests.core.harness import Play, two

pytestmark = pytest.mark.fault(61)


def named(*names: str, **overrides: object) -> CoreSettings:
    """One model awake at a time."""
    return CoreSettings(models=tuple(ModelSpec(name) for name in names), **overrides)  # type: ignore[arg-type]  # sugar


def on_gpus(needs: dict[str, int], **devices: int) -> CoreSettings:
    """Models that need so much of any one of the devices."""
    return CoreSettings(
        models=tuple(ModelSpec(name, tuple({gpu: need} for gpu in devices)) for name, need in needs.items()),
        devices=devices,
        alive_interval=0,
    )


def awake(play: Play, *names: str) -> None:
    for name in names:
        play.command(OperatorSwitch, name)
        play.wake(name)


def lost(play: Play, model: str, other: str) -> None:
    """`model` is awake, cannot be put to sleep for `other`, and nothing vouches for it."""
    play.arrive(other)
    for pause in (1.0, 2.0, 0.0):
        play.end(play.run(Hook.SLEEP, model), Outcome.FAILED)
        play.advance(pause)
    play.end(play.run(Hook.ALIVE, model), Outcome.FAILED)
    assert play.state(model) is ModelState.LOST


# --- a device that is gone may have been renamed ----------------------------------------------------------------------


def test_nobody_is_woken_on_a_device_that_may_be_the_one_that_is_gone() -> None:
    play = Play(on_gpus({"a": 10, "b": 10}, gpu0=10))
    awake(play, "a")
    play.memory.renamed("gpu0", "gpu1")
    play.reconfigure(on_gpus({"a": 10, "b": 10}, gpu1=10))
    waiting = play.arrive("b")
    assert play.running() == ["sleep a"]
    assert play.run(Hook.SLEEP, "a").devices == ()  # it has no name that the hook could know
    play.sleep("a", after=3.0)
    play.wake("b")
    assert waiting in play.in_flight


def test_it_is_not_woken_again_where_it_may_not_be() -> None:
    """Its backend died: by the books it could be woken in its place, but that is not where its memory is."""
    play = Play(on_gpus({"a": 10}, gpu0=10))
    awake(play, "a")
    play.fail_backend("a")
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    play.arrive("a")
    play.memory.renamed("gpu0", "gpu1")
    play.reconfigure(on_gpus({"a": 10}, gpu1=10))
    play.advance(2.0)
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert play.run(Hook.WAKE, "a").devices == ("gpu1",)


def test_one_that_has_gone_and_comes_back_by_another_name_is_claimed_in_a_later_file_too() -> None:
    play = Play(on_gpus({"a": 10, "b": 10}, gpu0=10))
    awake(play, "a")
    play.reconfigure(on_gpus({"a": 10, "b": 10}, gpu1=10))  # another one, in truth
    play.memory.renamed("gpu0", "gpu2")
    play.reconfigure(on_gpus({"a": 10, "b": 10}, gpu1=20, gpu2=10))
    waiting = play.arrive("b")
    assert play.running() == ["sleep a"]
    assert play.core.ledger.models["a"].placement == {"gpu1": 20, "gpu2": 10}
    play.sleep("a")
    play.wake("b")
    assert waiting in play.in_flight


def test_who_has_nothing_on_it_serves_on() -> None:
    spec = ModelSpec("b", ({"gpu1": 10},))
    play = Play(CoreSettings(models=(ModelSpec("a", ({"gpu0": 10},)), spec), devices={"gpu0": 10, "gpu1": 10}))
    awake(play, "a", "b")
    play.memory.renamed("gpu0", "gpu2")
    play.reconfigure(CoreSettings(models=(ModelSpec("a", ({"gpu2": 10},)), spec), devices={"gpu1": 10, "gpu2": 10}))
    assert play.running() == ["sleep a"]
    assert play.arrive("b") in play.in_flight


@pytest.mark.fault(44)
@pytest.mark.parametrize("devices", [{"gpu1": 10}, {"default": 1}, {"gpu1": 10, "gpu2": 30}])
def test_a_lost_model_stays_in_the_way_whatever_its_device_is_called(devices: dict[str, int]) -> None:
    play = Play(on_gpus({"a": 10, "b": 10}, gpu0=10))
    awake(play, "a")
    lost(play, "a", "b")
    need = 1 if "default" in devices else 10
    play.reconfigure(on_gpus({"a": need, "b": need}, **devices))
    refused = play.arrive("b")
    assert play.rejected[refused].reason is Refusal.DEVICE_LOST
    assert play.running() == []


# --- who comes, who goes ----------------------------------------------------------------------------------------------


def test_untouched_models_serve_on_and_keep_what_was_learned() -> None:
    play = Play(two())
    first = play.arrive("a")
    play.wake("a", after=4.0)
    play.finish(first)
    held = play.arrive("a")
    play.advance(3.0)
    play.reconfigure(named("b", "a", "c", min_active=1.0))
    assert play.in_flight == {held: "a"}
    assert play.core.costs.estimate(None, "a") == 4.0
    assert list(play.core.ledger.models) == ["b", "a", "c"]
    model = play.core.ledger.models["a"]
    assert (model.awake_since, model.service_time) == (4.0, 0.0)
    play.arrive("a")
    assert len(play.in_flight) == 2


def test_a_model_that_is_added_is_asked_first_and_nobody_gets_its_room_before() -> None:
    play = Play(two())
    play.reconfigure(named("a", "b", "c"))
    waiting = play.arrive("a")
    assert play.running() == ["alive c"]
    play.end(play.run(Hook.ALIVE, "c"), Outcome.OK)  # somebody has started it by hand
    assert play.facts(ProbesEnded)[-1] == ProbesEnded(("c",))
    assert play.running() == ["sleep c"]
    play.sleep("c")
    play.wake("a")
    assert waiting in play.in_flight


def test_a_model_that_is_added_holds_up_only_the_devices_that_it_may_be_on() -> None:
    before = CoreSettings(
        models=(ModelSpec("a", ({"gpu0": 10},)), ModelSpec("b", ({"gpu1": 10},))), devices={"gpu0": 10, "gpu1": 10}
    )
    play = Play(before)
    play.reconfigure(
        CoreSettings(models=(*before.models, ModelSpec("c", ({"gpu1": 10},))), devices=dict(before.devices))
    )
    play.arrive("a")
    play.arrive("b")
    assert sorted(play.running()) == ["alive c", "wake a"]
    play.end(play.run(Hook.ALIVE, "c"), Outcome.FAILED)
    assert sorted(play.running()) == ["wake a", "wake b"]


def test_a_model_that_is_removed_refuses_finishes_sleeps_and_is_forgotten() -> None:
    play = Play(two(drain_before_switch=False))
    awake(play, "a")
    running = play.arrive("a")
    play.reconfigure(named("b", drain_before_switch=False))
    assert play.rejected[play.arrive("a")].reason is Refusal.MODEL_NOT_FOUND
    assert play.replies[play.command(OperatorSwitch, "a")].reason is Refusal.MODEL_NOT_FOUND
    waiting = play.arrive("b")
    assert play.running() == []  # what is in flight is waited for, though switches do not drain
    play.finish(running)
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert play.facts(ModelRemoved) == [ModelRemoved("a")]
    assert list(play.core.ledger.models) == ["b"]
    play.wake("b")
    assert waiting in play.in_flight
    assert play.core.costs.estimate(None, "a") is None
    assert not play.core.ledger.outgoing


def test_who_waits_for_a_model_that_is_removed_is_told_at_once_and_its_switch_is_called_off() -> None:
    play = Play(two())
    awake(play, "a")
    running, waiting = play.arrive("a"), play.arrive("b")
    assert play.state("a") is ModelState.DRAINING
    play.reconfigure(named("a"))
    assert play.rejected[waiting].reason is Refusal.MODEL_NOT_FOUND
    assert play.state("a") is ModelState.AWAKE
    assert running in play.in_flight
    assert [end.result for end in play.facts(SwitchEnded) if isinstance(end, SwitchEnded)] == ["success", "cancelled"]
    assert play.facts(ModelRemoved) == [ModelRemoved("b")]


def test_a_model_that_is_removed_while_it_wakes_is_put_to_sleep_after_that() -> None:
    play = Play(two())
    play.arrive("a")
    play.reconfigure(named("b"))
    assert play.running() == ["wake a"]
    play.wake("a")
    play.sleep("a")
    assert play.facts(ModelRemoved) == [ModelRemoved("a")]


def test_an_endless_stream_of_a_removed_model_is_cut_at_its_drain_deadline() -> None:
    play = Play(CoreSettings(models=(ModelSpec("a", drain_timeout=10.0), ModelSpec("b"))))
    awake(play, "a")
    endless = play.arrive("a")
    play.reconfigure(named("b"))
    play.advance(10.0)
    assert play.facts(AbortRequests) == [AbortRequests("a", (endless,), "drain of a took longer than 10 s")]
    play.finish(endless)
    play.sleep("a")
    assert play.facts(ModelRemoved)


def test_a_removed_model_that_comes_back_in_time_was_never_gone() -> None:
    play = Play(two())
    awake(play, "a")
    running = play.arrive("a")
    play.reconfigure(named("b"))
    assert play.state("a") is ModelState.DRAINING
    play.reconfigure(two())
    assert play.state("a") is ModelState.AWAKE
    assert play.in_flight == {running: "a"}
    assert not play.facts(ModelRemoved)


def test_a_removed_model_whose_sleep_fails_stays_in_the_books_until_somebody_vouches() -> None:
    play = Play(two(sleep_retry_delays=()))
    awake(play, "a")
    play.reconfigure(named("b", sleep_retry_delays=()))
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.FAILED)
    assert play.state("a") is ModelState.LOST
    assert play.rejected[play.arrive("b")].reason is Refusal.DEVICE_LOST
    assert play.replies[play.command(OperatorFree, "a")].reason is None
    assert play.facts(ModelRemoved) == [ModelRemoved("a")]
    play.arrive("b")
    assert play.running() == ["wake b"]


def test_a_removed_model_that_refuses_to_sleep_is_asked_again_later() -> None:
    play = Play(two(sleep_retry_delays=()))
    awake(play, "a")
    play.reconfigure(named("b", sleep_retry_delays=()))
    play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.OK)
    assert play.state("a") is ModelState.AWAKE
    assert play.running() == []
    play.advance(2.0)
    play.sleep("a")
    assert play.facts(ModelRemoved)


# --- room -------------------------------------------------------------------------------------------------------------


def test_where_a_device_shrinks_the_least_recently_used_goes_and_nobody_takes_its_place_before() -> None:
    play = Play(on_gpus({"a": 10, "b": 10, "c": 10}, gpu0=20))
    awake(play, "a", "b")
    old, used = play.arrive("a"), play.arrive("b")
    play.reconfigure(on_gpus({"a": 10, "b": 10, "c": 10}, gpu0=15))
    assert play.states() == {"a": "draining", "b": "awake", "c": "asleep"}
    play.arrive("c")
    assert play.running() == []
    play.finish(old)
    assert play.running() == ["sleep a"]
    play.sleep("a")
    assert used in play.in_flight
    assert play.state("b") is ModelState.DRAINING  # now for c


def test_what_a_model_holds_counts_until_it_sleeps_and_what_it_needs_from_its_next_wake() -> None:
    play = Play(on_gpus({"a": 10, "b": 10}, gpu0=20))
    awake(play, "a")
    play.reconfigure(on_gpus({"a": 4, "b": 16}, gpu0=20))
    play.arrive("b")
    assert play.running() == ["sleep a"]  # by the new figures both would fit; but it was woken by the old ones
    play.sleep("a")
    play.wake("b")
    play.reconfigure(on_gpus({"a": 4, "b": 18}, gpu0=20))
    play.finish(next(iter(play.in_flight)))
    play.arrive("a")
    assert play.running() == ["sleep b"]  # the larger figure counts


def test_where_a_sleep_fails_after_a_device_has_shrunk_somebody_goes_all_the_same() -> None:
    play = Play(on_gpus({"a": 10, "b": 10, "c": 10}, gpu0=20))
    awake(play, "a", "b")
    play.arrive("c")
    assert play.running() == ["sleep a"]
    play.reconfigure(on_gpus({"a": 10, "b": 10, "c": 10}, gpu0=15))
    for _ in range(3):
        play.end(play.run(Hook.SLEEP, "a"), Outcome.FAILED)
        play.advance(2.0)
    play.end(play.run(Hook.ALIVE, "a"), Outcome.OK)  # back to work, but now there is too much
    assert len(play.core.ledger.outgoing) == 1


def test_a_model_whose_device_is_gone_goes() -> None:
    play = Play(on_gpus({"a": 10}, gpu1=20))
    awake(play, "a")
    play.reconfigure(on_gpus({"a": 10}, gpu0=20))
    assert play.running() == ["sleep a"]
    play.arrive("a")
    play.sleep("a")
    play.wake("a")
    assert play.core.ledger.models["a"].placement == {"gpu0": 10}


def test_a_switch_that_no_longer_fits_is_undone_and_planned_anew() -> None:
    play = Play(on_gpus({"a": 10, "b": 10}, gpu0=10))
    awake(play, "a")
    running, waiting = play.arrive("a"), play.arrive("b")
    play.reconfigure(on_gpus({"a": 10, "b": 10}, gpu1=10, gpu0=10))
    assert play.state("a") is ModelState.AWAKE
    play.wake("b")
    assert play.in_flight == {running: "a", waiting: "b"}
    assert play.core.ledger.models["b"].placement == {"gpu1": 10}


def test_a_switch_whose_victims_sleep_already_ends_without_its_wake() -> None:
    play = Play(on_gpus({"a": 10, "b": 10}, gpu0=10))
    awake(play, "a")
    waiting = play.arrive("b")
    assert play.running() == ["sleep a"]
    play.reconfigure(on_gpus({"a": 10, "b": 8}, gpu1=10))
    play.sleep("a")
    play.wake("b")
    assert waiting in play.in_flight
    assert play.core.ledger.models["b"].placement == {"gpu1": 8}


def test_declaring_devices_keeps_a_model_whose_place_is_clear_and_sends_off_one_that_may_be_anywhere() -> None:
    play = Play(named("a", "b"))
    awake(play, "a")
    clear = CoreSettings(models=(ModelSpec("a", ({"gpu0": 5},)), ModelSpec("b", ({"gpu0": 5},))), devices={"gpu0": 10})
    play.reconfigure(clear)
    assert play.state("a") is ModelState.AWAKE
    play.reconfigure(named("a", "b"))
    assert play.state("a") is ModelState.AWAKE
    play.reconfigure(on_gpus({"a": 5, "b": 5}, gpu0=10, gpu1=10))
    assert play.running() == ["sleep a"]


def test_claims() -> None:
    spec = ModelSpec("a", ({"gpu0": 5}, {"gpu1": 5}))
    gpus = {"gpu0": 10, "gpu1": 10}
    assert claim_after({"gpu0": 7}, spec, gpus) == ({"gpu0": 7}, True)
    assert claim_after({"gpu0": 3}, spec, gpus) == ({"gpu0": 5}, True)
    assert claim_after({"gpu0": 3, "gpu1": 3}, spec, gpus) == ({"gpu0": 3, "gpu1": 3}, True)
    assert claim_after({"gpu0": 3, "gpu2": 3}, spec, gpus) == ({"gpu0": 3}, False)
    assert claim_after({"default": 1}, spec, gpus) == ({"gpu0": 5, "gpu1": 5}, False)
    assert claim_after({"gpu0": 3}, spec, gpus, sure=False) == ({"gpu0": 5, "gpu1": 5}, True)


# --- policy and time --------------------------------------------------------------------------------------------------


def test_another_policy_finds_who_waits_in_their_places_with_their_ages() -> None:
    play = Play(named("a", "b", "c"))
    awake(play, "a")
    held = play.arrive("a")
    first, second = play.arrive("b"), play.arrive("c")
    play.advance(7.0)
    play.reconfigure(named("a", "b", "c"), PolicyNote("round-robin", {"quantum": 0.0}))
    assert play.core.policy.name == "round-robin"
    assert [model.oldest_arrival for model in play.core.ledger.waiting_models.values()] == [0.0, 0.0]
    play.finish(held)
    play.settle()
    granted = {grant.request_id: grant.waited for grant in play.facts(Grant) if isinstance(grant, Grant)}
    assert granted[first] >= 7.0
    assert granted[second] >= 7.0


def test_a_policy_that_cannot_be_made_leaves_the_old_one() -> None:
    play = Play(two())
    play.reconfigure(named("a", "b", "c"), PolicyNote("fifo", {"no_such_option": 1}))
    assert play.core.policy.name == "fifo"
    assert len(play.facts(PolicyFault)) == 1
    assert "c" in play.core.ledger.models


@pytest.mark.parametrize(("old", "new", "at"), [(None, 5.0, 5.0), (60.0, 5.0, 5.0), (5.0, 60.0, 60.0), (5.0, 1.0, 3.0)])
def test_how_long_one_may_wait_counts_from_the_arrival_for_those_who_wait_too(
    old: float | None, new: float, at: float
) -> None:
    play = Play(two(request_timeout=old))
    waiting = play.arrive("a")
    play.advance(3.0)
    play.reconfigure(two(request_timeout=new))
    play.advance(at - play.now)
    assert play.rejected[waiting].reason is Refusal.WAIT_TIMEOUT
    assert play.rejected[waiting].waited == at


def test_nobody_waits_in_vain_once_there_is_no_limit() -> None:
    play = Play(two(request_timeout=5.0))
    waiting = play.arrive("a")
    play.reconfigure(two(request_timeout=None))
    play.advance(100.0)
    assert waiting in play.waiting


@pytest.mark.fault(52)
def test_more_places_are_taken_at_once_by_those_who_waited_longest() -> None:
    """No event of theirs follows the reload: nobody finishes, nobody arrives, no hook ends."""

    def narrow(places: int | None) -> CoreSettings:
        return CoreSettings(models=(ModelSpec("a", max_in_flight=places), ModelSpec("b")))

    play = Play(narrow(1))
    awake(play, "a")
    first, second, third, fourth, fifth = (play.arrive("a") for _ in range(5))
    effects = play.reconfigure(narrow(3))
    assert [effect.request_id for effect in effects if isinstance(effect, Grant)] == [second, third]
    assert play.reconfigure(narrow(2)) == []  # those that are served go on, and nobody follows them before one is left
    play.finish(first)
    play.finish(second)
    assert set(play.in_flight) == {third, fourth}
    play.reconfigure(narrow(None))
    assert set(play.in_flight) == {third, fourth, fifth}
    assert not play.core.ledger.waiting_models


def test_places_that_a_reload_adds_are_nobodys_while_their_model_drains() -> None:
    def narrow(places: int) -> CoreSettings:
        return CoreSettings(models=(ModelSpec("a", max_in_flight=places), ModelSpec("b")))

    play = Play(narrow(1))
    awake(play, "a")
    first = play.arrive("a")
    play.arrive("b")
    late = play.arrive("a")
    play.reconfigure(narrow(2))
    assert play.state("a") is ModelState.DRAINING
    assert set(play.in_flight) == {first}
    assert late in play.waiting


def test_alive_checks_begin_and_end() -> None:
    play = Play(two(alive_interval=0.0))
    awake(play, "a")
    play.reconfigure(two(alive_interval=15.0))
    play.advance(15.0)
    assert play.running() == ["alive a"]
    play.end(play.run(Hook.ALIVE, "a"))
    play.reconfigure(two(alive_interval=0.0))
    play.advance(1000.0)
    assert play.running() == []


def test_a_drain_ends_once_drains_are_not_waited_for() -> None:
    play = Play(two())
    awake(play, "a")
    play.arrive("a")
    play.arrive("b")
    assert play.state("a") is ModelState.DRAINING
    play.reconfigure(two(drain_before_switch=False))
    assert play.running() == ["sleep a"]


def test_nothing_changes_any_more_once_llmux_stops() -> None:
    play = Play(two())
    awake(play, "a")
    play.arrive("a")
    play.stop()
    assert play.reconfigure(named("c")) == []
    assert list(play.core.ledger.models) == ["a", "b"]


@pytest.mark.fault(51)
def test_operators_policy_and_configuration_want_the_same_asleep_at_once() -> None:
    """One sleep hook, one wake hook, and everybody has an answer."""
    play = Play(two())
    awake(play, "a")
    running = play.arrive("a")
    waiting = play.arrive("b")  # the policy wants a to give way
    sleep, switch = play.command(OperatorSleep, "a"), play.command(OperatorSwitch, "b")
    again = play.command(OperatorSleep, "a")
    play.reconfigure(named("b"))  # and so does the configuration
    play.finish(running)
    assert play.running() == ["sleep a"]
    play.sleep("a")
    play.wake("b")
    assert {number: reply.reason for number, reply in play.replies.items() if number > 1} == {
        sleep: None,
        switch: None,
        again: None,
    }
    assert waiting in play.in_flight
    assert not play.hooks


def test_costs_forget_one_model_only() -> None:
    costs = SwitchCostTracker()
    costs.record(None, "a", 1.0)
    costs.record("a", "b", 2.0)
    costs.record("b", "c", 3.0)
    costs.record_wake("a", 1.0)
    costs.forget("a")
    assert costs.learned().pairs == [("b", "c", 3.0)]
    assert costs.wake("a") is None
