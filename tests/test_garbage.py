"""When Python looks for garbage, by the clients that there are, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llmux.garbage import BEARABLE, CHEAP, LOOK_SECONDS, PATIENCE, SETTLED_SECONDS, tame
from tests.simulation.loop import VirtualLoop

SETTLED = SETTLED_SECONDS + 0.5


@pytest.fixture
def full() -> Iterator[list[int]]:
    """Grows by one for each time that all objects are looked at; undoes what `tame` may leave."""
    looks: list[int] = []

    def looked(phase: str, info: dict[str, Any]) -> None:
        if phase == "stop" and info["generation"] == 2:
            looks.append(info["collected"])

    gc.callbacks.append(looked)
    yield looks
    gc.callbacks.remove(looked)


@contextmanager
def tamed(connections: list[int]) -> Iterator[VirtualLoop]:
    """A loop on which llmux listens; `connections` is how many clients there are, and may be changed."""
    loop = VirtualLoop()
    ends: list[Any] = []
    loop.call_soon(lambda: ends.append(tame(lambda: connections[0])))
    try:
        run_for(loop, 0.1)
        yield loop
    finally:
        ends[0]()
        loop.close()


def run_for(loop: VirtualLoop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def test_what_is_there_from_the_start_is_looked_at_once_and_set_aside(full: list[int]) -> None:
    gc.disable()
    thresholds = gc.get_threshold()
    with tamed([0]) as loop:
        full.clear()
        run_for(loop, SETTLED)
        assert len(full) == 1
        assert gc.isenabled()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[:2] == thresholds[:2]
        assert gc.get_threshold()[2] > thresholds[2]
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()


def test_a_crowd_in_the_first_second_is_not_kept_waiting_by_it(full: list[int]) -> None:
    with tamed([10_000]) as loop:
        full.clear()
        run_for(loop, SETTLED)
        assert not full
        assert gc.get_freeze_count() > 10_000


def test_with_few_clients_the_old_are_looked_at_each_time(full: list[int]) -> None:
    with tamed([CHEAP]) as loop:
        run_for(loop, SETTLED)
        full.clear()
        run_for(loop, 5 * LOOK_SECONDS)
        assert len(full) == 5


def test_with_many_it_is_put_off_but_not_for_ever(full: list[int]) -> None:
    with tamed([BEARABLE]) as loop:
        run_for(loop, SETTLED)
        full.clear()
        run_for(loop, PATIENCE * LOOK_SECONDS)
        assert not full
        run_for(loop, LOOK_SECONDS)
        assert len(full) == 1
        run_for(loop, PATIENCE * LOOK_SECONDS)
        assert len(full) == 1  # and the patience begins anew


def test_with_so_many_that_it_would_be_felt_it_waits_until_there_are_fewer(full: list[int]) -> None:
    connections = [BEARABLE + 1]
    with tamed(connections) as loop:
        run_for(loop, SETTLED)
        full.clear()
        run_for(loop, 10 * PATIENCE * LOOK_SECONDS)
        assert not full
        connections[0] = BEARABLE
        run_for(loop, LOOK_SECONDS)
        assert len(full) == 1
