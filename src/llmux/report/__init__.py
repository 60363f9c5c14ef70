"""Comparing policies on the same traffic: simulations in parallel, tables, pictures, and what to make of them.

May import sim and everything below it. Writes nothing by itself: the command line decides what goes where.
"""

from __future__ import annotations

from llmux.report.figures import Figures, figures
from llmux.report.study import Candidate, Run, Scenario, Study, run_study
from llmux.report.verdict import Comparison, Verdict, verdict

__all__ = [
    "Candidate",
    "Comparison",
    "Figures",
    "Run",
    "Scenario",
    "Study",
    "Verdict",
    "figures",
    "run_study",
    "verdict",
]
