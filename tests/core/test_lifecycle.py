from __future__ import annotations

import pytest

from llmux.core import Core
from llmux.core.lifecycle import TRANSITIONS, IllegalStepError, Step, after
from llmux.messages import ModelState, RunHook, Start
from llmux.policy import FifoPolicy
from tests.core.harness import two


@pytest.mark.parametrize("state", ModelState)
@pytest.mark.parametrize("step", Step)
def test_a_step_is_in_the_table_or_raises(state: ModelState, step: Step) -> None:
    if (state, step) in TRANSITIONS:
        assert after(state, step) is TRANSITIONS[state, step]
    else:
        with pytest.raises(IllegalStepError, match=step.name):
            after(state, step)


def test_an_illegal_step_changes_nothing() -> None:
    core = Core(two(), FifoPolicy())
    model = core.ledger.models["a"]
    before = list(core.ledger.out)
    with pytest.raises(IllegalStepError):
        core.ledger.step(model, Step.WOKE, 1.0)
    assert model.state is ModelState.UNCONFIRMED
    assert core.ledger.out == before


def test_every_state_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS.values()) == set(ModelState)
    assert {old for old, _ in TRANSITIONS} == set(ModelState)
    assert {step for _, step in TRANSITIONS} == set(Step)


def test_start_asks_a_few_models_at_a_time() -> None:
    settings = two(probe_parallel=1)
    core = Core(settings, FifoPolicy())
    asked = [effect.model for effect in core.handle(Start(), 0.0) if isinstance(effect, RunHook)]
    assert asked == ["a"]
