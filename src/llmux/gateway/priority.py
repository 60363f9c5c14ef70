"""How urgent a request says that it is.

Pure. ``x-llmux-priority``, or else the ``service_tier`` of a JSON body that was looked at for its model, as OpenAI's
API has it.
"""

from __future__ import annotations

from typing import Final

from llmux.access import Key
from llmux.errors import BadRequestError
from llmux.wire.errors import printable
from llmux.wire.request import Request

LEVELS: Final = {"flex": -1, "default": 0, "priority": 1}
"""By the names that OpenAI's API has for them. A level is worth so many seconds of waiting."""


def level_of(request: Request, tier: str | None, key: Key | None) -> int:
    """The level of `request`, whose body says `tier`; not above 0 if its `key` may not ask for that.

    Raises:
        BadRequestError: its header field says something else than those names.
    """
    if request.priority is not None:
        said = request.priority.decode("latin-1").lower()
        if said not in LEVELS:
            known = ", ".join(LEVELS)
            raise BadRequestError(f"x-llmux-priority is one of {known}, not {printable(said, 50)!r}")
        level = LEVELS[said]
    else:
        # Of the tiers that APIs have, all others are about whom to bill and where to run.
        level = LEVELS.get(tier or "", 0)
    return min(level, 0) if key is not None and not key.may_raise_priority else level
