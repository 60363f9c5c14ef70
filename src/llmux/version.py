"""The version of the installed distribution, looked up once and only when asked for: the look-up reads files."""

from __future__ import annotations

import functools


@functools.cache
def version() -> str:
    """As in ``3.0.0``; ``unknown`` when llmux runs from a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version("llmux-server")
    except PackageNotFoundError:
        return "unknown"
