"""Some hundred worlds; `python -m tests.simulation --seeds 10000` plays more of them.

`LLMUX_SEEDS` says how many are played here (200 unless told).
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmux.core import Core, CoreEvent
from llmux.core.ledger import Run
from llmux.core.switching import Switching
from llmux.messages import Effect, HookEnded, Outcome, SetTimer
from tests.simulation import __main__ as command
from tests.simulation import world

SEEDS = int(os.environ.get("LLMUX_SEEDS", "200"))
ONCE_BROKEN = (
    300397,  # who waited for a model whose own switch ended after the memory was lost waited on
    501346,  # a model that was lost while its own switch went on was never looked at again
)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", [*range(SEEDS), *ONCE_BROKEN])
def test_nothing_breaks(seed: int) -> None:
    verdict = world.run(seed)
    assert not verdict.broken, f"to see its story: python -m tests.simulation --seed {seed} --story"


def test_the_worlds_are_full_of_trouble() -> None:
    """Were they not, the others would show little."""
    faults = sum((world.run(seed).faults for seed in range(12)), start=Counter[str]())
    assert {kind for kind in faults if faults[kind]} >= {
        "client leaves", "operator's order", "crash", "wake hook fails", "wake hook hangs", "sleep hook fails",
        "sleep hook hangs", "alive hook hangs",
    }  # fmt: skip


def test_the_same_seed_gives_the_same_story() -> None:
    """Also in another process, where sets and dictionaries of text have another order."""
    script = (
        "import hashlib; from tests.simulation.world import run; "
        "print(hashlib.sha256(repr(run(3).lines).encode()).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert told == {hashlib.sha256(repr(world.run(3).lines).encode()).hexdigest()}


def forgetting(honest: Callable[[Core, CoreEvent, float], list[Effect]]) -> Callable[..., list[Effect]]:
    """A core whose timers are never set."""

    def forgets(self: Core, event: CoreEvent, now: float) -> list[Effect]:
        return [effect for effect in honest(self, event, now) if not isinstance(effect, SetTimer)]

    return forgets


def test_a_core_that_guesses_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is not blind: one that takes a failed sleep for a success wakes models in memory that is held."""
    honest = Switching.sleep_ended

    def guesses(self: Switching, run: Run, result: HookEnded, now: float) -> None:
        honest(self, run, HookEnded(result.run_id, Outcome.OK, result.duration, 0), now)

    monkeypatch.setattr(Switching, "sleep_ended", guesses)
    assert any("out of memory" in what for seed in range(20) for what in world.run(seed).broken)


def test_a_seed_that_fails_is_named_and_its_story_can_be_told_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Core, "handle", forgetting(Core.handle))
    monkeypatch.setattr(command, "ProcessPoolExecutor", ThreadPoolExecutor)  # here, where the core is the broken one
    assert command.many(0, 4, 1) == 1
    told = capsys.readouterr().out
    (seed, *_) = (int(number) for number in re.findall(r"^seed (\d+): ", told, re.MULTILINE))
    assert "python -m tests.simulation --seed N --story" in told
    stories = []
    for _ in range(2):
        assert command.one(seed, story=True) == 1
        stories.append(capsys.readouterr().out)
    assert stories[0] == stories[1]
    assert re.search(rf"^broken: .+\nseed {seed}: failed$", stories[0], re.MULTILINE)


def test_a_core_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor to waiters whose timers never fire."""
    monkeypatch.setattr(Core, "handle", forgetting(Core.handle))
    assert any(world.run(seed).broken for seed in range(20))
