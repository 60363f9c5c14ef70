"""What the request path says to mypyc, for builds that compile it (`hatch_build.py`). To plain Python it says nothing.

Imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_):
        """See mypyc's documentation; here, the class as it is."""
        return lambda decorated: decorated


__all__ = ["mypyc_attr"]
