"""What two configurations differ in, by the names of keys. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from llmux.config.config import Config
from llmux.config.tree import dotted

#: Keys whose change counts only once llmux is started anew. So does `tls` where it comes or goes.
AT_START = (
    "host",
    "port",
    "access_log",
    "access_log_max_bytes",
    "access_log_keep",
    "tracing",
    "event_log",
    "event_log_max_bytes",
    "event_log_keep",
    "state_dir",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Models by name; `changed` and `at_start` are keys as people read them, `models.llama.port`."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    at_start: tuple[str, ...]

    @property
    def policy(self) -> bool:
        """Whether the policy has to be made anew: it may remember models that are no more."""
        return bool(self.added or self.removed) or any(key.startswith("policy.") for key in self.changed)


def difference(old: Config, new: Config) -> Difference:
    """What is to be done to get from `old` to `new`."""
    at_start = _at_start(old, new)
    kept = [name for name in new.models if name in old.models]
    changed = [
        dotted((key,))
        for key in Config.model_fields
        if key not in ("models", "policy", *at_start) and getattr(old, key) != getattr(new, key)
    ]
    changed += [
        f"policy.{key}" for key in type(new.policy).model_fields if getattr(old.policy, key) != getattr(new.policy, key)
    ]
    changed += [
        dotted(("models", name, key))
        for name in kept
        for key in type(new.models[name]).model_fields
        if getattr(old.models[name], key) != getattr(new.models[name], key)
    ]
    return Difference(
        added=tuple(name for name in new.models if name not in old.models),
        removed=tuple(name for name in old.models if name not in new.models),
        changed=tuple(changed),
        at_start=tuple(key for key in at_start if getattr(old, key) != getattr(new, key)),
    )


def as_started(old: Config, new: Config) -> Config:
    """`new`, but for the keys that only count at the start, which stay as they are in `old`."""
    return new.model_copy(update={key: getattr(old, key) for key in _at_start(old, new)})


def _at_start(old: Config, new: Config) -> tuple[str, ...]:
    return (*AT_START, "tls") if (old.tls is None) != (new.tls is None) else AT_START
