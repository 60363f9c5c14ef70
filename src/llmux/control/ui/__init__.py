"""The dashboard at ``/ui``: a page that shows what the admin API tells and gives its orders.

The page is plain HTML, CSS and ES modules in `static/`, as they are: nothing is built, nothing comes from elsewhere.
`assets.py` has the map of all that is served; no path of a request ever reaches the file system. The page itself is no
secret and needs no key: it asks the admin API with the operator's key like any other client of it, once `doors.py` has
told it that it needs one.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.routing import Route

from llmux.access import Access
from llmux.control.ui import assets, doors
from llmux.control.ui.assets import to_page

__all__ = ["routes", "to_page"]


def routes(access: Callable[[], Access] = Access) -> list[Route]:
    """All routes. Reads the files, so it must not be called on a loop; `access` is asked for each request who is let
    in."""
    return [*assets.routes(), doors.route(access)]
