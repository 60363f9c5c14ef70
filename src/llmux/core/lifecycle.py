"""The states of a model and the steps between them, as one table.

A step that the table does not have raises `IllegalStepError` and changes nothing. The diagram in the docs is made from
`TRANSITIONS`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from llmux.messages import ModelState as S


class Step(enum.StrEnum):
    """Why a model changes its state."""

    FOUND_ASLEEP = "its alive hook said no when it was first asked"
    WAKE = "its wake hook begins"
    WOKE = "its wake hook succeeded"
    ABANDONED = "llmux stops, and its canary was cut short"
    CLEAN_UP = "its wake hook failed, so its sleep hook cleans up"
    UNPROVEN = "its canary failed, so its sleep hook cleans up"
    DIED = "it is dead"
    DRAIN = "it must make room: no more requests for it"
    IDLE = "nobody has asked for it in idle_sleep_secs"
    RETIRE = "its backend fails requests: no more for it until it was put to sleep and woken"
    UNDRAIN = "nobody wants the room any more"
    SLEEP = "its sleep hook begins"
    SLEPT = "its sleep hook succeeded"
    KEPT = "its sleep hook failed, but it is alive: back to work"
    DOUBTED = "its sleep hook failed, and it is alive"
    LOST = "its sleep hook failed, and nothing vouches for it"
    VOUCHED = "its alive hook answers again"
    VERIFIED = "its verify hook says that the memory is free"
    FREED = "an operator says that it holds no memory"


class IllegalStepError(RuntimeError):
    """The core tried a step that the table does not have: a bug in the core."""


TRANSITIONS: Mapping[tuple[S, Step], S] = {
    (S.UNCONFIRMED, Step.FOUND_ASLEEP): S.ASLEEP,
    (S.ASLEEP, Step.WAKE): S.WAKING,
    (S.UNCONFIRMED, Step.WAKE): S.WAKING,
    (S.WAKING, Step.WOKE): S.AWAKE,
    (S.WAKING, Step.ABANDONED): S.UNCONFIRMED,
    (S.WAKING, Step.CLEAN_UP): S.SLEEPING,
    (S.WAKING, Step.UNPROVEN): S.SLEEPING,
    (S.AWAKE, Step.DIED): S.UNCONFIRMED,
    (S.AWAKE, Step.DRAIN): S.DRAINING,
    (S.AWAKE, Step.IDLE): S.DRAINING,
    (S.AWAKE, Step.RETIRE): S.DRAINING,
    (S.UNCONFIRMED, Step.DRAIN): S.DRAINING,
    (S.UNCONFIRMED, Step.IDLE): S.DRAINING,
    (S.DRAINING, Step.UNDRAIN): S.AWAKE,
    (S.DRAINING, Step.DIED): S.UNCONFIRMED,
    (S.DRAINING, Step.SLEEP): S.SLEEPING,
    (S.LOST, Step.SLEEP): S.SLEEPING,
    (S.SLEEPING, Step.SLEPT): S.ASLEEP,
    (S.SLEEPING, Step.KEPT): S.AWAKE,
    (S.SLEEPING, Step.DOUBTED): S.UNCONFIRMED,
    (S.SLEEPING, Step.LOST): S.LOST,
    (S.LOST, Step.VOUCHED): S.UNCONFIRMED,
    (S.LOST, Step.VERIFIED): S.ASLEEP,
    (S.LOST, Step.FREED): S.ASLEEP,
    (S.UNCONFIRMED, Step.VERIFIED): S.ASLEEP,
    (S.UNCONFIRMED, Step.FREED): S.ASLEEP,
}

#: States in which a model may hold its memory; only ASLEEP is known not to.
HOLDING = frozenset(S) - {S.ASLEEP}


def after(state: S, step: Step) -> S:
    """The state that `step` leads to.

    Raises:
        IllegalStepError: the table has no such step from `state`.
    """
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        raise IllegalStepError(f"a model that is {state} cannot take the step {step.name}") from None
