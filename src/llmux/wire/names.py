"""The names that clients write for one and the same model. Pure."""

from __future__ import annotations

_LATEST = ":latest"


def other_spelling(name: str) -> str | None:
    """As with Ollama, a name without a tag and the same name with the tag `latest` mean the same. What else `name` may
    be called by that rule; None: nothing."""
    if name.endswith(_LATEST):
        return name.removesuffix(_LATEST)
    return None if ":" in name else name + _LATEST
