"""Where the process of every ``llmux`` command begins.

Whoever only serves, or asks for the version, does not wait until typer and all the commands are imported: that is a
fifth of the time until llmux serves. Everything else, and all that is not quite clear, is for `llmux.cli.commands`.
"""

from __future__ import annotations

import os
import sys

from llmux import hangup
from llmux.cli.serving import plainly, run

COMPLETE_VARIABLE = "_LLMUX_COMPLETE"
"""The environment variable by which a shell's script asks llmux what could come next."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """What the ``llmux`` command runs. Always raises SystemExit."""
    _fill_standard_streams()
    asked = COMPLETE_VARIABLE in os.environ
    arguments = sys.argv[1:]
    if arguments == ["--version"] and not asked:
        from llmux.version import version

        sys.stdout.write(f"llmux {version()}\n")
        sys.exit(0)
    options = None if asked else plainly(arguments)
    if options is not None:
        try:
            sys.exit(run(options))
        except KeyboardInterrupt:  # before there was a loop that knows what to do about it
            sys.exit(INTERRUPTED)

    if not ("serve" in arguments or all(argument.startswith("-") for argument in arguments)):
        hangup.forget()
    from llmux.cli.commands import app

    if asked:
        from llmux.cli.completion import prepare

        prepare()
    app(prog_name="llmux")  # however it was started: the name is in what completion looks for


def _fill_standard_streams() -> None:
    """Open those of the streams 0 to 2 that llmux was started without, or the first sockets would take their place
    and whoever writes to stderr would write to a client."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
