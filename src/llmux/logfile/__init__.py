"""Files of lines that are written while llmux serves: the event log's and the access log's.

A line is put into a queue on the event loop, and a thread writes what is queued. Touches the file and its thread; knows
nothing of what the lines say. Nothing here may hold up the loop.
"""

from __future__ import annotations

from llmux.logfile.file import BusyError, LogFile
from llmux.logfile.writer import QUEUE_BYTES, LineWriter

__all__ = ["QUEUE_BYTES", "BusyError", "LineWriter", "LogFile"]
