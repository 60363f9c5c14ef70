"""Hours of traffic leave nothing behind. Numbers are rows of the fault table."""

from __future__ import annotations

import gc
import os
import sys

import pytest

from llmux.core import CoreEvent, CoreSettings, ModelSpec
from llmux.core.invariants import violations
from llmux.messages import Effect, Hook, Left, OperatorSwitch, Outcome
from llmux.policy import BreakEvenPolicy
from tests.core.harness import Play

CYCLES = int(os.environ.get("LLMUX_CORE_CYCLES", "20000"))
"""Requests; a million takes some minutes."""


class Quick(Play):
    """Checks nothing, and remembers nothing of what is over: that would not be the core's."""

    def send(self, event: CoreEvent) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        for effect in effects:
            self._take(effect)
        for memory in (self.ends, self.rejected, self.replies, self.to_abort, self.cancelled):
            memory.clear()
        return effects


class Traffic:
    """Arrivals, grants, departures, refusals, switches, failed hooks and commands, in turns, without end."""

    def __init__(self) -> None:
        models = (ModelSpec("a", max_in_flight=2), ModelSpec("b", max_queue=3), ModelSpec("c"))
        self.play = Quick(CoreSettings(models=models, request_timeout=50.0), BreakEvenPolicy(20.0))
        self.number = 0

    def run(self, requests: int) -> None:
        play = self.play
        handle = play.send
        for _ in range(requests):
            self.number += 1
            number = self.number
            request = play.arrive("abc"[(number // 7) % 3])
            if number % 5 == 0 and request in play.waiting:
                play.leave(request)
            elif number % 11 == 0 and request in play.in_flight:
                del play.in_flight[request]
                handle(Left(request))
            if number % 101 == 0:
                play.command(OperatorSwitch, "abc"[number % 3])
            for run in list(play.hooks.values()):
                failed = run.hook is Hook.WAKE and number % 97 == 0
                play.end(run, Outcome.FAILED if failed else Outcome.OK, after=0.5)
            for one in list(play.in_flight)[: 1 + number % 3]:
                play.finish(one)
            play.advance(1.0)


def found() -> tuple[int, int]:
    """Objects that the collector knows, and blocks of memory that Python holds."""
    gc.collect()
    return len(gc.get_objects()), sys.getallocatedblocks()


@pytest.mark.fault(53)
def test_53_memory_is_flat_however_many_requests_came() -> None:
    traffic = Traffic()
    traffic.run(CYCLES // 4)
    before = found()
    traffic.run(CYCLES)
    grown = [now - then for now, then in zip(found(), before, strict=True)]
    # What waits and what is served differs a little between the two moments; one thing kept per hundred requests would
    # already be more.
    assert max(grown) < min(CYCLES // 100, 2000), f"objects, blocks of memory: {grown} after {CYCLES} requests"
    assert not violations(traffic.play.core)
