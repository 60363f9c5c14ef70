"""The admin API, version 1, under ``/admin/v1``: everything about the scheduler, and an operator's orders.

`operations.py` is the one table of routes, from which both the routes and the OpenAPI document are made; `handlers.py`
answers them; `answers.py` has the shapes; `stream.py` is the event stream. Reading changes nothing and is GET; whatever
changes something is POST.

Nothing is imported here: `llmux.oversight` needs the shapes before Starlette, which the handlers need, is loaded.
"""
