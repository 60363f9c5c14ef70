"""A seed's world: made, run, and judged."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from llmux.core import IMPLICIT_DEVICE, Core, CoreEvent, CoreSettings, ModelSpec, PolicyNote
from llmux.core.invariants import violations
from llmux.driver import Driver
from llmux.errors import LlmuxError
from llmux.hooks import HookResult, HookSpec
from llmux.messages import Effect, Hook, ModelState, OnExit
from llmux.policy import load_policy
from tests.simulation.loop import VirtualLoop
from tests.simulation.machine import Machine, Nature
from tests.simulation.people import People

POLICIES = ("break-even", "drain-first", "fifo", "priority", "round-robin")

PATIENCE = 3 * 3600.0
"""Once all trouble has ended, somebody must be answered every so many seconds. A lost model is looked at every five
minutes, and a hook may hang for an hour if it has no deadline."""


STOP_FORCE = 30.0
"""How much longer than its deadlines the end may take, in seconds: hooks are ended by force, one after the other."""


@dataclass
class Verdict:
    """What became of a world.

    Attributes:
        broken: what must never happen, and did. Empty if all is well.
        lines: the story: every event, effect and happening with its virtual time in seconds.
        faults: troubles made, by kind.
        requests: how many were made.
        hours: virtual time until the trouble ended, in hours.
    """

    seed: int
    broken: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    hours: float = 0.0


class _Silent:
    """Telemetry has its own tests."""

    def fact(self, now: float, effect: Effect) -> None:
        pass

    def hook_ended(self, model: str, hook: Hook, result: HookResult) -> None:
        pass


def settings_of(rng: random.Random) -> CoreSettings:
    """Models, devices and limits, chosen at random."""
    names = [chr(ord("a") + n) for n in range(rng.randint(1, 5))]
    devices = {IMPLICIT_DEVICE: 1}
    placements: Callable[[], tuple[dict[str, int], ...]] = lambda: ({IMPLICIT_DEVICE: 1},)  # noqa: E731  # one of two
    if rng.random() < 0.6:
        devices = {f"gpu{n}": rng.choice([16, 24, 48]) for n in range(rng.randint(1, 3))}

        def placements() -> tuple[dict[str, int], ...]:
            kind = rng.random()
            if kind < 0.1:
                return ({},)
            if kind < 0.3:  # takes something of every device
                return ({device: rng.randint(1, size) for device, size in devices.items()},)
            amount = rng.randint(4, 16)  # on any one of them
            return tuple({device: amount} for device in devices)

    limits = [None, 5.0, 30.0]
    return CoreSettings(
        models=tuple(
            ModelSpec(
                name,
                placements=placements(),
                wake_timeout=rng.choice([20.0, 60.0]),
                sleep_timeout=rng.choice([10.0, 30.0]),
                alive_timeout=5.0,
                drain_timeout=rng.choice([0.0, 5.0, 30.0]),
                verify=rng.random() < 0.3,
                verify_timeout=rng.choice([5.0, 60.0]),
                canary=rng.random() < 0.3,
                canary_timeout=10.0,
                doubt_after=rng.choice([None, None, 3]),
                max_in_flight=rng.choice([None, None, None, 1, 8]),
                max_queue=rng.choice([None, None, 20]),
                pinned=False,
            )
            for name in names
        ),
        devices=devices,
        request_timeout=rng.choice([*limits, 120.0]),
        drain_before_switch=rng.random() < 0.8,
        min_active=rng.choice([0.0, 0.0, 3.0, 20.0]),
        max_queue=rng.choice([10_000, 40]),
        alive_interval=rng.choice([0.0, 5.0, 15.0]),
    )


class World:
    """Everything that the verdict's seed stands for. To be made on its loop."""

    def __init__(self, verdict: Verdict, loop: VirtualLoop) -> None:
        self.verdict = verdict
        self._loop = loop
        rng = self._random = random.Random(verdict.seed)  # noqa: S311  # to be repeated, not to be guessed
        settings = settings_of(rng)
        names = [spec.name for spec in settings.models]
        self._note(f"{settings}")
        self._machine = Machine(
            loop,
            rng,
            settings,
            {n: Nature(rng.uniform(0.2, 13.0), rng.uniform(0.1, 5.0), rng.random() < 0.1) for n in names},
            trouble=rng.choice([0.05, 0.2, 0.4]),
            note=self._note,
            broken=self._broken,
        )
        for spec in settings.models:
            placement = rng.choice(spec.placements)
            if rng.random() < 0.2 and self._machine.fits(placement):
                self._machine.begin_with(spec.name, placement)
        policy = rng.choice(POLICIES)
        options = {"max_wait_secs": rng.choice([None, 10.0, 60.0])} if policy != "fifo" else {}
        self._note(f"policy {policy} {options}; {self._machine.natures}; up: {sorted(self._machine.up)}")
        self._driver = Driver(
            Core(settings, load_policy(policy, options)),
            hooks=self._machine,
            scripts={(name, hook): HookSpec("") for name in names for hook in Hook},
            ports={},
            aliases={},
            sink=_Silent(),
            recorder=self._raised,
            clock=loop.time,
        )
        self._driver.connect(self._machine)
        self._driver.subscribe(self._watch)
        rate = rng.choice([0.05, 0.5, 3.0])
        self._people = People(
            loop,
            rng,
            self._driver,
            self._machine,
            rates=[(name, rate / (rank + 1)) for rank, name in enumerate(names)],
            service=rng.choice([0.5, 3.0, 10.0]),
            endless=rng.choice([0.0, 0.02]),
            note=self._note,
            broken=self._broken,
        )

    def _note(self, what: str) -> None:
        self.verdict.lines.append(f"{self._loop.time():12.6f}    {what}")

    def _broken(self, what: str) -> None:
        self._note(f"BROKEN: {what}")
        self.verdict.broken.append(what)

    def _watch(self, now: float, message: CoreEvent | Effect) -> None:
        event = isinstance(message, CoreEvent)
        self.verdict.lines.append(f"{now:12.6f} {'>>' if event else '  <<'} {message}")
        if event:
            for what in violations(self._driver.core):
                self._broken(what)

    def _raised(self, at: float, event: CoreEvent, effects: Sequence[Effect] | None, raised: str = "") -> None:
        """The driver goes on after an exception in the core; nothing else would tell of it before the books are off."""
        if effects is None:
            self._broken(f"the core raised {raised} on {event}")

    async def run(self) -> None:
        rng, machine, people = self._random, self._machine, self._people
        self._driver.start()
        troubles = [
            self._loop.create_task(one)
            for one in (
                people.keep_coming(),
                people.keep_ordering(rng.choice([10.0, 60.0])),
                self._crashes(),
                self._reloads(rng.choice([30.0, 300.0])),
            )
        ]
        await asyncio.sleep(rng.choice([60.0, 300.0, 900.0]))
        self.verdict.hours = self._loop.time() / 3600
        if rng.random() < 0.7:
            self._note("all trouble ends")
            machine.trouble = 0.0
            await self._end(troubles)
            people.take_all_back()
            await self._settle()
            await self._stop(OnExit.LEAVE, 30.0)
        else:
            self._note("llmux is stopped in the middle of it")
            stopping = self._loop.create_task(self._stop(rng.choice(list(OnExit)), rng.choice([0.0, 5.0, 60.0])))
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            await self._end(troubles)
            if rng.random() < 0.3:
                self._note("llmux is told to stop at once")
                machine.kill_all()
            await stopping
        self.verdict.faults = machine.faults
        self.verdict.requests = people.asked

    async def _crashes(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(self._machine.trouble / 2))
            self._machine.crash(self._random.choice(list(self._machine.natures)))

    async def _reloads(self, every: float) -> None:
        """The configuration changes: deadlines, limits and the policy; a model leaves or comes back, or needs something
        else; a device is renamed, or taken out and put back."""
        first = self._machine.settings
        called = {device: device for device in first.devices}
        all_models = first.models
        rng = self._random
        while True:
            await asyncio.sleep(rng.expovariate(1 / every))
            devices, models = self._other_devices(first, called)
            if len(models) > 1 and rng.random() < 0.5:
                gone = rng.choice(models)
                models = tuple(spec for spec in models if spec is not gone)
            settings = msgspec.structs.replace(
                self._machine.settings,
                models=models,
                devices=devices,
                request_timeout=rng.choice([None, 5.0, 30.0]),
                min_active=rng.choice([0.0, 3.0]),
                alive_interval=rng.choice([0.0, 5.0]),
            )
            self._note(f"the configuration changes: {[(spec.name, spec.placements) for spec in models]} on {devices}")
            self._machine.faults["reload"] += 1
            self._machine.spec(all_models[0].name)  # those that leave are remembered
            self._machine.settings = settings
            policy = PolicyNote(rng.choice(POLICIES)) if rng.random() < 0.5 else None
            names = [spec.name for spec in models]
            scripts = {(name, hook): HookSpec("") for name in names for hook in Hook}
            self._driver.reconfigure(settings, policy, scripts=scripts, ports={}, aliases={})

    def _other_devices(
        self, first: CoreSettings, called: dict[str, str]
    ) -> tuple[dict[str, int], tuple[ModelSpec, ...]]:
        """Devices, and models that fit them, as another file might have them; `called` has the names of the devices
        that there were at first, and is kept."""
        rng = self._random
        if IMPLICIT_DEVICE in first.devices:
            return first.devices, first.models
        if rng.random() < 0.4:
            device = rng.choice(list(called))
            new = f"{device}-{self._machine.faults['rename']}"
            self._machine.faults["rename"] += 1
            self._machine.renamed(called[device], new)
            called[device] = new
        left_out = rng.choice(list(called)) if len(called) > 1 and rng.random() < 0.2 else None
        grown = rng.choice(first.models).name if rng.random() < 0.3 else None
        models = []
        for spec in first.models:
            places = [place for place in spec.placements if left_out not in place]
            if spec.name == grown:
                places = [{device: rng.randint(1, first.devices[device]) for device in place} for place in places]
            named = tuple({called[device]: amount for device, amount in place.items()} for place in places)
            if named:
                models.append(msgspec.structs.replace(spec, placements=named))
        devices = {called[device]: size for device, size in first.devices.items() if device != left_out}
        return (devices, tuple(models)) if models else self._other_devices(first, called)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self) -> None:
        """Nothing goes wrong any more: everybody is served, refused or gone before long."""
        people, machine = self._people, self._machine
        deadline = self._loop.time() + PATIENCE
        old = set(machine.runs)  # some of these still go wrong
        while any(run_id in machine.runs for run_id in old):  # noqa: ASYNC110  # virtual seconds cost nothing
            await asyncio.sleep(1.0)
        left = people.left
        while left and self._loop.time() < deadline:
            people.go_home()
            await asyncio.sleep(1.0)
            if people.left != left:  # a queue may be long, and its model serve one at a time
                left, deadline = people.left, self._loop.time() + PATIENCE
        if people.present:
            self._broken(f"never answered: {list(people.present)[:5]}, of {len(people.present)}")
        if people.orders:
            self._broken(f"{len(people.orders)} orders were never answered")
        # What is lost comes back by itself: its hooks tell the truth now. A model whose memory was slow to come free in
        # the trouble may still be lost for that: it is on its way to sleep until then.
        while self._unsettled() and self._loop.time() < deadline:  # noqa: ASYNC110  # as above
            await asyncio.sleep(1.0)
        for spec in self._machine.settings.models:  # the machine must be usable again
            try:
                await asyncio.wait_for(self._driver.switch(spec.name), PATIENCE)
            except (LlmuxError, TimeoutError) as error:
                self._broken(f"{spec.name} cannot be woken though all is well again: {error!r}")
                continue
            unnoticed = spec.name in machine.crashed or machine.natures[spec.name].always_alive
            if spec.name not in machine.up and not unnoticed:
                self._broken(f"{spec.name} is said to be awake, and is not")

    def _unsettled(self) -> bool:
        """A model that needs no memory may be lost, and no device with it."""
        models = self._driver.snapshot().models
        return any(model.lost is not None or model.state is ModelState.SLEEPING for model in models)

    async def _stop(self, on_exit: OnExit, grace: float) -> None:
        people, machine = self._people, self._machine
        within = self._random.choice([0.0, 5.0, 120.0])
        try:
            await asyncio.wait_for(self._driver.stop(grace, on_exit, within), grace + within + STOP_FORCE)
        except TimeoutError:
            self._broken("llmux does not stop in time")
        await asyncio.sleep(0)
        if machine.runs:
            self._broken(f"hooks outlive llmux: {machine.runs}")
        if people.present:
            self._broken(f"not told of the end: {list(people.present)[:5]}, of {len(people.present)}")
        await asyncio.sleep(0)
        if people.orders:
            self._broken(f"{len(people.orders)} orders were never answered")
        people.come(self._machine.settings.models[0].name)
        if people.present:
            self._broken("a request that came after the end is not refused")
        self._driver.close()


def run(seed: int) -> Verdict:
    """Make the world of `seed` and run it to its end. The same seed gives the same verdict, line by line."""
    loop = VirtualLoop()
    verdict = Verdict(seed)

    async def whole() -> None:
        await World(verdict, loop).run()

    logging.disable(logging.CRITICAL)
    try:
        loop.run_until_complete(whole())
        left = asyncio.all_tasks(loop)
        if left:
            verdict.broken.append(f"tasks are left: {left}")
    except Exception as error:
        verdict.broken.append(f"{type(error).__name__}: {error}")
    finally:
        logging.disable(logging.NOTSET)
        loop.close()
    return verdict
