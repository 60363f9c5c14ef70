"""The simulator: the core that runs live, in virtual time.

Pure: takes arrivals, settings, a policy, and what hooks and backends would take; gives back what everybody waited. The
same inputs, seeds among them, give the same result. Reads no files, touches no clock, imports the pure layer only.
"""

from __future__ import annotations

from llmux.sim.backend import BackendModel
from llmux.sim.engine import SimulationError, simulate
from llmux.sim.generators import bursty, daily, poisson, zipf_rates
from llmux.sim.hooks import HookTimes
from llmux.sim.results import Result, Shares, Summary, Waits
from llmux.sim.trace import Arrival, TraceError, parse_trace

__all__ = [
    "Arrival",
    "BackendModel",
    "HookTimes",
    "Result",
    "Shares",
    "SimulationError",
    "Summary",
    "TraceError",
    "Waits",
    "bursty",
    "daily",
    "parse_trace",
    "poisson",
    "simulate",
    "zipf_rates",
]
