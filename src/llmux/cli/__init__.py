"""The command line. Nobody imports this room; it may import all others, each only when its command is called."""

from __future__ import annotations

from llmux import hangup

__all__ = ["main"]


def main() -> None:
    """What the ``llmux`` command runs. Always raises SystemExit."""
    hangup.note()  # a service manager may have llmux reload as soon as it runs
    from llmux.cli.start import main

    main()
