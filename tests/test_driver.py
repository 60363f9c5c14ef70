"""The driver with real hooks: effects carried out, events in order, and nobody left hanging by a bug."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from blockbuster import BlockBuster

from llmux.core import Core, CoreEvent, CoreSettings, ModelSpec
from llmux.core.ledger import Model
from llmux.driver import Driver
from llmux.errors import HookFailedError, LlmuxError, ModelNotFoundError, ShuttingDownError
from llmux.hooks import HookResult, HookRunner, HookSpec
from llmux.messages import Active, Effect, Grant, Hook, HookEnded, OnExit, Start, Switching
from llmux.policy import FifoPolicy

pytestmark = pytest.mark.anyio


class Sink:
    def __init__(self) -> None:
        self.facts: list[Effect] = []
        self.hooks: list[tuple[str, Hook]] = []
        self.broken = False

    def fact(self, now: float, effect: Effect) -> None:
        self.facts.append(effect)

    def hook_ended(self, model: str, hook: Hook, result: HookResult) -> None:
        self.hooks.append((model, hook))
        if self.broken:
            raise RuntimeError("a bug in telemetry")


class Request:
    """A requester that remembers what it was told."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.error: LlmuxError | None = None
        self.abort_error: LlmuxError | None = None
        self.switched: bool | None = None

    def granted(self, waited: float, switched: bool) -> None:
        self.outcome.set_result("switched" if switched else "at once")

    def refused(self, error: LlmuxError, switched: bool = False) -> None:
        self.error, self.switched = error, switched
        self.outcome.set_result("refused")

    def aborted(self, error: LlmuxError) -> None:
        self.abort_error = error

    async def told(self) -> str:
        return await asyncio.wait_for(asyncio.shield(self.outcome), 20)


class World:
    def __init__(
        self,
        wake: str = "true",
        sleep: str = "true",
        cwd: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sink = Sink()
        self.hooks = HookRunner()
        scripts = {
            (model, hook): HookSpec({Hook.WAKE: wake, Hook.SLEEP: sleep, Hook.ALIVE: "false"}[hook], cwd)
            for model in "ab"
            for hook in (Hook.WAKE, Hook.SLEEP, Hook.ALIVE)
        }
        self.driver = Driver(
            Core(CoreSettings(models=(ModelSpec("a"), ModelSpec("b")), sleep_retry_delays=()), FifoPolicy()),
            hooks=self.hooks,
            scripts=scripts,
            ports={"a": 8001},
            aliases={"alpha": "a"},
            sink=self.sink,
            clock=clock,
        )

    async def __aenter__(self) -> World:
        self.driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.driver.stop(0.1, OnExit.LEAVE)
        await self.hooks.wait_closed()
        self.driver.close()


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as made:
        yield made


async def test_one_that_is_refused_knows_whether_it_waited_for_a_switch() -> None:
    async with World(wake="exit 1") as world:
        one, other = Request(), Request()
        world.driver.arrived("a", one)
        world.driver.arrived("a", other)
        assert [await one.told(), await other.told()] == ["refused"] * 2
        assert (one.switched, other.switched) == (True, True)


@pytest.mark.parametrize("switching", [True, False])
async def test_so_does_one_that_an_operator_cancels(switching: bool) -> None:
    async with World(wake="sleep 30") as world:
        if not switching:
            world.driver.arrived("b", Request())  # whose switch comes first
        one = Request()
        request = world.driver.arrived("a", one)
        await until(lambda: isinstance(world.driver.core.state(), Switching))
        world.driver.cancel(request)
        assert await one.told() == "refused"
        assert one.switched is switching


async def test_a_request_is_granted_once_its_model_is_awake(world: World) -> None:
    first, second = Request(), Request()
    one = world.driver.arrived("a", first)
    assert await first.told() == "switched"
    two = world.driver.arrived("a", second)
    assert second.outcome.result() == "at once"
    assert world.driver.core.state() == Active("a")
    for number in (one, two):
        world.driver.finished(number)
    assert world.driver.core.ledger.models["a"].in_flight == 0


async def test_names_and_aliases(world: World) -> None:
    assert world.driver.resolve("a") == "a"
    assert world.driver.resolve("alpha") == "a"
    assert world.driver.resolve("beta") is None


async def test_hooks_get_their_variables(tmp_path: Path) -> None:
    wake = 'echo "$LLMUX_MODEL|$LLMUX_HOOK|$LLMUX_PORT|$LLMUX_FROM|$LLMUX_TO|$LLMUX_DEVICES" > said'
    async with World(wake=wake, cwd=tmp_path) as world:
        await world.driver.switch("a")
        assert await asyncio.to_thread((tmp_path / "said").read_text) == "a|wake|8001||a|\n"
        await world.driver.switch("b")
        assert await asyncio.to_thread((tmp_path / "said").read_text) == "b|wake||a|b|\n"


async def test_leaving_before_the_grant_is_no_longer_heard_of() -> None:
    async with World(wake="sleep 0.1") as world:
        request = Request()
        number = world.driver.arrived("a", request)
        world.driver.left(number)
        world.driver.left(number)
        world.driver.finished(number)
        await world.driver.switch("a")
        assert not request.outcome.done()
        assert world.driver.core.ledger.requests == {}


async def test_a_request_that_ends_in_its_grant_is_not_lost(world: World) -> None:
    """An event caused by an effect waits until the effect's own event is done with."""
    await world.driver.switch("a")

    class Hasty(Request):
        def granted(self, waited: float, switched: bool) -> None:
            super().granted(waited, switched)
            world.driver.finished(world.driver._next_request)

    world.driver.arrived("a", Hasty())
    assert world.driver.core.ledger.models["a"].in_flight == 0


async def test_commands_raise_what_went_wrong() -> None:
    async with World(wake="exit 3") as world:
        with pytest.raises(HookFailedError, match="wake hook of a failed: exit code 3"):
            await world.driver.switch("a")
        with pytest.raises(ModelNotFoundError, match="nobody"):
            await world.driver.switch("nobody")


async def test_a_command_that_is_given_up_leaves_nothing_behind() -> None:
    async with World(wake="sleep 30") as world:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.driver.switch("a"), 0.01)
        assert world.driver._commands == {}


async def test_a_bug_in_the_core_answers_who_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> None:
    no_blocking_calls.deactivate()  # a traceback in the log reads the source

    request = Request()
    with monkeypatch.context() as patch:
        patch.setitem(world.driver.core.ledger.models, "a", cast("Model", object()))  # nothing can be done with that
        world.driver.arrived("a", request)
    assert request.error is not None
    assert request.error.status == 500
    again = Request()
    number = world.driver.arrived("a", again)
    assert await again.told() == "switched"
    world.driver.finished(number)


async def test_a_bug_in_telemetry_stops_nothing(world: World, no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()
    world.sink.broken = True
    await world.driver.switch("a")
    world.driver.snapshot()
    assert ("a", Hook.WAKE) in world.sink.hooks


async def test_telemetry_is_told_once_hooks_are_not_just_being_started(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()
    now: float | None = 0.0
    async with World(clock=lambda: time.monotonic() if now is None else now) as world:
        try:
            request = Request()
            number = world.driver.arrived("a", request)
            assert await request.told() == "switched"
            world.driver.finished(number)
            # Time stands still: all hooks have only just been started.
            assert (world.sink.facts, world.sink.hooks) == ([], [])
            now = 0.05
            await until(lambda: world.sink.facts)
            assert ("a", Hook.WAKE) in world.sink.hooks
        finally:
            now = None  # or the end of the world would never come


async def test_watchers_see_everything_and_a_broken_one_is_dropped(
    world: World, no_blocking_calls: BlockBuster
) -> None:
    no_blocking_calls.deactivate()
    seen: list[CoreEvent | Effect] = []

    def broken(now: float, message: CoreEvent | Effect) -> None:
        raise RuntimeError

    world.driver.subscribe(broken)
    end = world.driver.subscribe(lambda now, message: seen.append(message))
    request = Request()
    number = world.driver.arrived("a", request)
    await request.told()
    end()
    before = len(seen)
    world.driver.finished(number)
    kinds = {type(message) for message in seen}
    assert {HookEnded, Grant} <= kinds
    assert Start not in kinds
    assert len(seen) == before


async def test_stopping_refuses_those_who_wait() -> None:
    async with World(wake="sleep 30") as world:
        request = Request()
        world.driver.arrived("a", request)
        await world.driver.stop(0.1, OnExit.LEAVE)
        assert isinstance(request.error, ShuttingDownError)
        assert world.hooks.running == 0
