"""Random histories: arrivals, departures, hook results, timers, operators, the end. The harness checks the invariants
after every event; at the end of each history everything must settle, so nobody can be left waiting for ever.

`LLMUX_HISTORIES` says how many there are of each kind (250 unless told, always the same), and makes them new ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace

from llmux.core import CoreSettings, ModelSpec, PolicyNote
from llmux.messages import (
    Failure,
    Hook,
    ModelState,
    OnExit,
    OperatorCheck,
    OperatorDrain,
    OperatorFree,
    OperatorPin,
    OperatorSleep,
    OperatorSwitch,
    OperatorUndrain,
    OperatorUnpin,
    Outcome,
    Start,
)
from tests.core.harness import Command, Play, three_on_two_gpus, two

OUTCOMES = st.sampled_from([Outcome.OK, Outcome.OK, Outcome.OK, Outcome.FAILED, Outcome.TIMEOUT, Outcome.ERROR])


#: In which states requests have met their models, by the kind of history.
MET: Counter[tuple[str, ModelState]] = Counter()


class History(RuleBasedStateMachine):
    make: Any = staticmethod(two)
    traits: Mapping[str, Any] = {}
    """What models have beyond their names and needs."""

    def __init__(self) -> None:
        super().__init__()
        self.play: Play = Play(two(), started=False)

    @initialize(
        timeout=st.sampled_from([None, 5.0, 60.0]),
        min_active=st.sampled_from([0.0, 0.0, 4.0]),
        drain=st.booleans(),
        alive_interval=st.sampled_from([0.0, 15.0]),
        max_queue=st.sampled_from([2, 10_000]),
        proofs=st.sampled_from([(False, False), (True, False), (False, True), (True, True)]),
        doubt_after=st.sampled_from([None, 2]),
        own_queue=st.sampled_from([None, None, 1, 3]),
        max_in_flight=st.sampled_from([None, None, 1, 2]),
        idle_sleep=st.sampled_from([0.0, 0.0, 2.0, 30.0]),
        preload=st.sampled_from([0, 0, 1, 9]),
        serves=st.sampled_from([True, True, True, False]),
    )
    def begin(
        self,
        timeout: float | None,
        min_active: float,
        drain: bool,
        alive_interval: float,
        max_queue: int,
        proofs: tuple[bool, bool],
        doubt_after: int | None,
        own_queue: int | None,
        max_in_flight: int | None,
        idle_sleep: float,
        preload: int,
        serves: bool,
    ) -> None:
        made: CoreSettings = self.make(
            request_timeout=timeout,
            min_active=min_active,
            drain_before_switch=drain,
            alive_interval=alive_interval,
            max_queue=max_queue,
        )
        verify, canary = proofs
        self.traits = {
            "verify": verify,
            "canary": canary,
            "doubt_after": doubt_after,
            "verify_timeout": 5.0,
            "max_queue": own_queue,
            "max_in_flight": max_in_flight,
            "idle_sleep": idle_sleep,
        }
        specs = [replace(spec, **self.traits) for spec in made.models]
        made = replace(made, models=(*specs[1:], made.models[0]))  # one without limits of its own
        made = replace(made, preload=tuple([spec.name for spec in specs[:preload]]))
        self.play = Play(made, started=False)
        self.models = st.sampled_from([spec.name for spec in made.models])
        self.begun()
        if serves:  # rules that are drawn by chance get there too seldom
            if self.play.core.probing:
                self.play.start()
            self.play.arrive(made.models[0].name)
            self.hooks_succeed()

    def begun(self) -> None:
        """What a history always begins with."""

    @rule(data=st.data(), count=st.integers(1, 3), level=st.sampled_from([0, 0, 0, 1, -1]))
    def arrive(self, data: st.DataObject, count: int, level: int) -> None:
        name = data.draw(self.models)
        for _ in range(count):
            model = self.play.core.ledger.models.get(name)
            if model is not None and self.play.core.ledger.stop is None:
                MET[type(self).__name__, model.state] += 1
            self.play.arrive(name, level)

    @precondition(lambda self: self.play.core.probing and not self.play.hooks)
    @rule()
    def start(self) -> None:
        self.play.send(Start())

    @precondition(lambda self: self.play.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.play.leave(data.draw(st.sampled_from(sorted(self.play.waiting))))

    @precondition(lambda self: self.play.in_flight)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.play.finish(data.draw(st.sampled_from(sorted(self.play.in_flight))))

    @precondition(lambda self: self.play.to_abort)
    @rule()
    def abort(self) -> None:
        self.play.finish(min(self.play.to_abort))

    @precondition(lambda self: self.play.hooks)
    @rule(data=st.data(), outcome=OUTCOMES, after=st.sampled_from([0.0, 0.5, 7.0, 40.0]))
    def end_hook(self, data: st.DataObject, outcome: Outcome, after: float) -> None:
        run = self.play.hooks[data.draw(st.sampled_from(sorted(self.play.hooks)))]
        self.play.end(run, Outcome.CANCELLED if run.run_id in self.play.cancelled else outcome, after=after)

    @precondition(lambda self: self.play.hooks)
    @rule()
    def hooks_succeed(self) -> None:
        """All that run, and those that follow from that: a switch is seldom carried through by chance."""
        for _ in range(20):
            if self.play.hooks:
                run = next(iter(self.play.hooks.values()))
                self.play.end(run, Outcome.CANCELLED if run.run_id in self.play.cancelled else Outcome.OK)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 20.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        self.play.advance(seconds)

    @rule(data=st.data(), failure=st.sampled_from(Failure), in_a_row=st.sampled_from([1, 2, 3, 4]))
    def backend_fails(self, data: st.DataObject, failure: Failure, in_a_row: int) -> None:
        self.play.fail_backend(data.draw(self.models), failure, in_a_row)

    @rule(
        data=st.data(),
        kind=st.sampled_from([OperatorSwitch, OperatorSwitch, OperatorSleep, OperatorFree, OperatorCheck]),
    )
    def operator(self, data: st.DataObject, kind: Command) -> None:
        self.play.command(kind, data.draw(self.models))

    @rule(data=st.data(), kind=st.sampled_from([OperatorDrain, OperatorUndrain, OperatorPin, OperatorUnpin]))
    def standing_order(self, data: st.DataObject, kind: Command) -> None:
        self.play.command(kind, data.draw(self.models))

    @rule(what=st.sampled_from(["hold", "refuse", "resume", "resume"]))
    def release(self, what: str) -> None:
        if what == "resume":
            self.play.resume()
        else:
            self.play.release(refuse=what == "refuse")

    @rule(on_exit=st.sampled_from(OnExit), sure=st.integers(0, 5), within=st.sampled_from([None, 0.0, 20.0]))
    def stop(self, on_exit: OnExit, sure: int, within: float | None) -> None:
        if sure == 0:
            self.play.stop(30.0, on_exit, within)

    def teardown(self) -> None:
        play = self.play
        if play.core.probing and not play.hooks and play.core.ledger.stop is None:
            play.start()
        self.rest_while_closed()
        play.reopen()
        play.settle()
        assert not play.waiting
        assert set(play.replies) == set(range(1, play.commands + 1)), "a command was never answered"
        assert all(count == 1 for count in play.ends.values())
        twin = Play(play.made_from, started=False)
        for now, event in play.log:
            twin.now = now
            twin.effects += twin.core.handle(event, now)
        assert twin.effects == play.effects, "the same events gave other effects"

    def rest_while_closed(self) -> None:
        """Whatever happened: while llmux is released, everything gets to sleep, once its hooks succeed."""
        play, ledger = self.play, self.play.core.ledger
        if ledger.released is None or ledger.stop is not None:
            return
        for _ in range(1000):
            if not ledger.holding:
                return
            if play.hooks:
                play.end(next(iter(play.hooks.values())))
            elif play.in_flight:
                play.finish(next(iter(play.in_flight)))
            else:
                assert play.timers, f"never asleep: {play.states()}"
                play.advance(max(0.0, min(play.timers.values()) - play.now))
        raise AssertionError(f"never asleep: {play.states()}")


class HistoryOnTwoDevices(History):
    make = staticmethod(three_on_two_gpus)


class HistoryOfRestarts(HistoryOnTwoDevices):
    """llmux is killed at any moment, and started again: all that it knows is what it has saved."""

    def begun(self) -> None:
        self.play.start()
        self.play.command(OperatorSwitch, "small")

    @precondition(lambda self: self.play.core.ledger.stop is None)
    @rule(wanted=st.sampled_from(["big", "left", "right", "small"]))
    def kill(self, wanted: str) -> None:
        self.play = self.play.killed()
        self.play.send(Start(self.play.past))
        while running := [run for run in self.play.hooks.values() if run.hook in (Hook.ALIVE, Hook.VERIFY)]:
            run = running[0]
            # A hook that went on was ended by the new one, who asks nobody about that model; and nobody answers else.
            orphan = run.model in self.play.orphans and run.hook is Hook.ALIVE
            self.play.end(run, Outcome.ERROR if orphan else Outcome.FAILED)
        self.play.arrive(wanted)


HISTORIES = os.environ.get("LLMUX_HISTORIES")
BUDGET = settings(
    max_examples=int(HISTORIES or 250),
    derandomize=HISTORIES is None,
    stateful_step_count=50,
)


#: What a model may need: parts of devices with room for 24 each, or of the implicit one.
PLACES: list[tuple[dict[str, int], ...]] = [
    ({"gpu0": 10},),
    ({"gpu0": 20},),
    ({"gpu1": 16},),
    ({"gpu0": 10}, {"gpu1": 10}),
    ({"gpu0": 20, "gpu1": 20},),
    ({},),
]
NAMES = ("a", "b", "c", "d")


class HistoryOfReloads(History):
    """The configuration changes at any moment: models come, go and need other things, devices come and go."""

    devices: dict[str, int] | None
    called: dict[str, str]
    places: dict[str, tuple[dict[str, int], ...]]

    def configured(self, **common: Any) -> CoreSettings:
        self.common = common
        if self.devices is None:
            return CoreSettings(models=self._with_traits([ModelSpec(name) for name in self.places]), **common)
        called = self.called
        specs = []
        least = dict(self.devices)
        for name, places in self.places.items():
            known = tuple(place for place in places if place.keys() <= least.keys()) or (dict(self.devices),)
            for place in known:  # each fits when nothing else is there, as the configuration is checked for
                for device, amount in place.items():
                    least[device] = max(amount, least[device])
            specs.append(ModelSpec(name, tuple({called[device]: n for device, n in place.items()} for place in known)))
        devices = {called[device]: amount for device, amount in least.items()}
        return CoreSettings(models=self._with_traits(specs), devices=devices, **common)

    def _with_traits(self, specs: list[ModelSpec]) -> tuple[ModelSpec, ...]:
        """All but `a` have them."""
        return tuple(spec if spec.name == "a" else replace(spec, **self.traits) for spec in specs)

    def make(self, **common: Any) -> CoreSettings:
        self.devices = {"gpu0": 24, "gpu1": 24}
        self.called = {device: device for device in self.devices}
        self.places = dict(zip(NAMES[:3], PLACES, strict=False))
        return self.configured(**common)

    def begun(self) -> None:
        """Most of what can go wrong needs somebody awake."""
        self.play.start(awake=("a",))
        self.play.command(OperatorSwitch, "a")
        self.models = st.sampled_from(NAMES)

    @rule(names=st.permutations(NAMES), count=st.integers(0, 4), places=st.sampled_from(PLACES))
    def exchange_models(self, names: list[str], count: int, places: tuple[dict[str, int], ...]) -> None:
        self.places = {name: self.places.get(name, places) for name in names[:count]}
        self.reload()

    @rule(name=st.sampled_from(NAMES), places=st.sampled_from(PLACES))
    def change_needs(self, name: str, places: tuple[dict[str, int], ...]) -> None:
        self.places[name] = places
        self.reload()

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        self.places.pop(name, None)
        self.reload()

    @rule(devices=st.sampled_from([None, {"gpu0": 24, "gpu1": 24}, {"gpu0": 24}, {"gpu0": 12, "gpu1": 30}]))
    def change_devices(self, devices: dict[str, int] | None) -> None:
        self.devices = devices
        self.reload()

    @rule(
        which=st.sampled_from(["gpu0", "gpu0", "gpu1"]),
        devices=st.sampled_from([None, {"gpu0": 24, "gpu1": 24}]),
        wanted=st.sampled_from(NAMES),
    )
    def rename_device(self, which: str, devices: dict[str, int] | None, wanted: str) -> None:
        """Nothing but its name is new, and perhaps that others are back; and somebody wants room on it."""
        if self.play.core.ledger.stop is not None:
            return  # it reads no file any more
        old, new = self.called[which], f"{which}-{len(self.play.log)}"
        self.play.memory.renamed(old, new)
        self.called[which] = new
        self.devices = devices or self.devices
        self.reload()
        self.play.arrive(wanted)

    @rule(
        timeout=st.sampled_from([None, 5.0, 60.0]),
        alive_interval=st.sampled_from([0.0, 15.0]),
        drain=st.booleans(),
        policy=st.sampled_from(["fifo", "round-robin", "break-even"]),
    )
    def change_policy(self, timeout: float | None, alive_interval: float, drain: bool, policy: str) -> None:
        changed = {"request_timeout": timeout, "alive_interval": alive_interval, "drain_before_switch": drain}
        self.common |= changed
        self.reload(PolicyNote(policy))

    @rule(
        proofs=st.sampled_from([(False, False), (True, False), (False, True), (True, True)]),
        doubt_after=st.sampled_from([None, 2]),
        max_in_flight=st.sampled_from([None, 1, 2]),
    )
    def change_traits(self, proofs: tuple[bool, bool], doubt_after: int | None, max_in_flight: int | None) -> None:
        verify, canary = proofs
        changed = {"verify": verify, "canary": canary, "doubt_after": doubt_after, "max_in_flight": max_in_flight}
        self.traits = {**self.traits, **changed}
        self.reload()

    def reload(self, policy: PolicyNote | None = None) -> None:
        self.play.reconfigure(self.configured(**self.common), policy)

    def teardown(self) -> None:
        super().teardown()
        play, ledger = self.play, self.play.core.ledger
        if ledger.stop is None:
            for _ in range(1000):
                if not ledger.outgoing:
                    break
                assert play.timers, f"never gone: {list(ledger.outgoing)}"
                play.advance(max(0.0, min(play.timers.values()) - play.now))
                play.settle()
            assert not ledger.outgoing
            assert set(ledger.models) == set(self.places)
            keys = {key.partition(":")[2] for key in ledger.timers if ":" in key}
            assert keys <= ledger.models.keys(), "a timer of a model that is no more"


@pytest.mark.fault(51, 61)
def test_reloads_at_any_moment_keep_the_invariants_and_settle() -> None:
    HistoryOfReloads.TestCase.settings = BUDGET if HISTORIES else settings(BUDGET, max_examples=150)
    HistoryOfReloads.TestCase("runTest").runTest()
    check_variety(HistoryOfReloads)


@pytest.mark.fault(25, 46, 50, 51)
@pytest.mark.parametrize("machine", [History, HistoryOnTwoDevices, HistoryOfRestarts])
def test_every_history_keeps_the_invariants_and_settles(machine: type[History]) -> None:
    machine.TestCase.settings = BUDGET
    case = machine.TestCase("runTest")
    case.runTest()
    check_variety(machine)


def check_variety(machine: type[History]) -> None:
    """Histories in which next to nobody is ever served would show little."""
    if HISTORIES is None:
        met = {state: MET[machine.__name__, state] for state in ModelState}
        assert met[ModelState.AWAKE] + met[ModelState.DRAINING] >= 10, met
