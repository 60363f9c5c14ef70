"""The version of the installed distribution, looked up once and only when asked for: the look-up reads files."""

from __future__ import annotations

import functools
import re


@functools.cache
def version() -> str:
    """As in ``3.0.0``; ``unknown`` when llmux runs from a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version("llmux-server")
    except PackageNotFoundError:
        return "unknown"


def plain(version: str) -> str:
    """The release that `version` is or will be, as three numbers: for clients that read semantic versions (semver.org)
    and would take the rest of Python's for a mistake."""
    found = re.match(r"\d+\.\d+\.\d+", version)
    return "0.0.0" if found is None else found.group()
