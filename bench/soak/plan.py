"""Which troubles are made, when, and to whom: all of it is drawn from the seed before anything is started. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Trouble that a run of a hook gets into: shell text, run before the hook itself.
HOOK_TROUBLE = {
    "fail": "exit 7",
    "fail-again": "exit 7",
    "fail-for-good": "exit 7",
    "fail-and-be-lost": 'touch "$box/$LLMUX_MODEL.alive.fail"; exit 7',
    "hang": "trap '' TERM; sleep 60",
    "print": "head -c 4000000 /dev/zero | tr '\\0' 'x'",
    "daemon": "sleep 20 &",
}
HARMLESS = ("print", "daemon")
"""Trouble after which a hook goes on and succeeds."""

#: What a hook that is told to has, one run after the other. A sleep is tried three times; then alive is asked.
HOOK_PLANS = {
    "fail": ["fail"],
    "hang": ["hang"],
    "print": ["print"],
    "daemon": ["daemon"],
    "stuck": ["fail", "fail-again", "fail-for-good"],
    "lost": ["fail", "fail-again", "fail-and-be-lost"],
}
#: Trouble of one request to a backend, by name; `llmux.testing.backend.Fault` has the meaning.
FAULTS: dict[str, dict[str, object]] = {
    "status": {"kind": "status", "status": 500},
    "die": {"kind": "die"},
    "die in the middle": {"kind": "die", "after": 5},
    "malformed": {"kind": "malformed"},
    "malformed in the middle": {"kind": "malformed", "after": 3},
    "slow": {"kind": "slow", "delay_secs": 2.0},
    "hang": {"kind": "hang"},
    "hang in the middle": {"kind": "hang", "after": 4},
}
RELOADS = ("alias", "device", "policy")

#: How often each kind of trouble is drawn, beside the others.
KINDS = {
    "kill": 3,
    "fault": 8,
    "hook": 6,
    "reload": 3,
    "switch": 1,
    "sleep": 1,
    "pin": 1,
    "drain": 1,
    "release": 1,
    "cancel": 2,
}
LASTING = {"pin": (3.0, 10.0), "drain": (2.0, 8.0), "release": (2.0, 5.0)}
"""Orders that are taken back, and after how many seconds."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One bad thing to do, `at` seconds after the start. `models` is every model in the order in which they are tried:
    the first to which it can be done has it. `lasts` is in seconds."""

    at: float
    kind: str
    models: tuple[str, ...]
    detail: str = ""
    lasts: float = 0.0


def plan(seed: int, seconds: float, models: list[str], *, every: float, restart_every: float) -> list[Trouble]:
    """Troubles, `every` seconds apart on average, and kills of llmux `restart_every` seconds apart, give or take 30 %.
    There are none in the last 20 seconds, and no kill of llmux in the last 45; in a short run, in its last quarter and
    third."""
    chance = random.Random(f"{seed}/plan")  # noqa: S311  # a load, not a secret
    troubles, at = [], 0.0
    while (at := at + chance.expovariate(1 / every)) < seconds - min(20, seconds / 4):
        troubles.append(_drawn(chance, at, models))
    at = 0.0
    while (at := at + restart_every * chance.uniform(0.7, 1.3)) < seconds - min(45, seconds / 3):
        troubles.append(Trouble(at, "kill llmux", ()))
    return sorted(troubles, key=lambda trouble: trouble.at)


def _drawn(chance: random.Random, at: float, models: list[str]) -> Trouble:
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    order = tuple(chance.sample(models, len(models)))
    detail = ""
    match kind:
        case "fault":
            detail = chance.choice(list(FAULTS))
        case "hook":
            hook = chance.choice(["wake", "wake", "sleep", "sleep", "alive"])
            known = [name for name in HOOK_PLANS if hook == "sleep" or name != "lost"]
            detail = f"{hook} {chance.choice(known)}"
        case "reload":
            detail = chance.choice(RELOADS)
        case "release":
            detail = chance.choice(["hold", "refuse"])
    return Trouble(at, kind, order, detail, chance.uniform(*LASTING.get(kind, (0.0, 0.0))))
