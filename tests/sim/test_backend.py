from __future__ import annotations

import pytest

from llmux.sim.backend import BackendModel, Server


def play(model: BackendModel, requests: list[tuple[float, float]]) -> tuple[list[float | None], list[float]]:
    """Start and end of each request, given as (arrival, seconds alone)."""
    started: list[float | None] = [None] * len(requests)
    ends = [0.0] * len(requests)
    server = Server(model, started)
    waiting = list(enumerate(requests))
    while waiting or server.busy:
        end = server.next_end()
        if waiting and (end is None or waiting[0][1][0] < end):
            index, (at, work) = waiting.pop(0)
            server.add(index, work, at)
        else:
            assert end is not None
            ends[server.end_next(end)] = end
    return started, ends


def test_a_request_alone() -> None:
    assert BackendModel().alone(prompt_tokens=800, output_tokens=40) == pytest.approx(0.15 + 0.1 + 1.0)


def test_the_batch_runs_together_and_the_rest_waits_its_turn() -> None:
    started, ends = play(BackendModel(batch=2), [(0.0, 10.0), (1.0, 2.0), (1.5, 1.0), (1.6, 1.0)])
    assert started == [0.0, 1.0, 3.0, 4.0]
    assert ends == [10.0, 3.0, 4.0, 5.0]


def test_a_full_batch_is_as_slow_as_it_is_said_to_be() -> None:
    half = BackendModel(rate=40.0, batched_rate=20.0, batch=2)
    _, ends = play(half, [(0.0, 3.0), (0.0, 1.0)])
    assert ends == pytest.approx([4.0, 2.0])  # both at half the speed until 2, then the first has 2 s of work left
    _, ends = play(half, [(0.0, 3.0), (1.0, 1.0)])
    assert ends == pytest.approx([4.0, 3.0])


def test_what_is_cut_off_makes_room() -> None:
    started: list[float | None] = [None] * 4
    server = Server(BackendModel(batch=2), started)
    for index, work in enumerate([5.0, 9.0, 1.0, 1.0]):
        server.add(index, work, 0.0)
    server.remove(3, 1.0)  # it was waiting
    server.remove(0, 2.0)
    assert started == [0.0, 0.0, 2.0, None]
    assert server.next_end() == 3.0
    assert server.end_next(3.0) == 2
    assert server.next_end() == 9.0
