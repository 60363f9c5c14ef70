"""Where the process of every ``llmux`` command begins.

Whoever only serves, or asks for the version, does not wait until typer and all the commands are imported: that is a
fifth of the time until llmux serves. Everything else, and all that is not quite clear, is for `llmux.cli.commands`.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import Final, NoReturn

from llmux import hangup
from llmux.cli.serving import plainly, run

COMPLETE_VARIABLE = "_LLMUX_COMPLETE"
"""The environment variable by which a shell's script asks llmux what could come next."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

_UNWRITABLE: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main() -> None:
    """What the ``llmux`` command runs. Always raises SystemExit."""
    _fill_standard_streams()
    # Whoever starts llmux may ignore it, and then no hook's exit status could be had.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked = COMPLETE_VARIABLE in os.environ
    arguments = sys.argv[1:]
    if arguments == ["--version"] and not asked:
        from llmux.version import version

        try:
            print(f"llmux {version()}", flush=True)  # noqa: T201  # this is the command line
        except OSError as error:
            _fail_to_write(error)
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
    try:
        app(prog_name="llmux")  # however it was started: the name is in what completion looks for
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        _fail_to_write(error)


def _fill_standard_streams() -> None:
    """Open those of the streams 0 to 2 that llmux was started without, or the first sockets would take their place
    and whoever writes to stderr would write to a client. What a stream has no letters for does not end a command."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:  # Python has found it closed
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail_to_write(error: OSError) -> NoReturn:
    """Exit, as what a command has to say cannot be written; in silence if nobody reads it any more (``| head``)."""
    if error.errno != errno.EPIPE:
        sys.stderr.write(f"llmux: its output cannot be written: {error.strerror}\n")
    # Python would try once more to write what it has kept.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(1)
