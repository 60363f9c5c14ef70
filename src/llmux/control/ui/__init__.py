"""The dashboard at ``/ui``: a page that shows what the admin API tells and gives its orders.

The page is plain HTML, CSS and ES modules in `static/`, as they are: nothing is built, nothing comes from elsewhere.
`assets.py` has the map of all that is served; no path of a request ever reaches the file system. The page itself is no
secret and needs no key: it asks the admin API with the operator's key like any other client of it.
"""

from llmux.control.ui.assets import routes, to_page

__all__ = ["routes", "to_page"]
