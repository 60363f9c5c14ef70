"""Studies: what is noted while they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmux.core import CoreSettings, ModelSpec
from llmux.messages import ModelState
from llmux.report import Candidate, Scenario, Study, figures, run_study
from llmux.report.plot import draw
from llmux.report.table import rows
from llmux.sim import Arrival, BackendModel, HookTimes

SETTINGS = CoreSettings(models=(ModelSpec("a", drain_timeout=50.0), ModelSpec("b")), alive_interval=0)


def study(arrivals: list[Arrival], **options: bool) -> Study:
    candidate = Candidate("fifo", "fifo", {}, SETTINGS)
    return Study([candidate], [Scenario(1, arrivals, HookTimes.constant("ab", 10.0))], BackendModel(), **options)


def test_spans_tell_who_was_where() -> None:
    arrivals = [Arrival(0.0, "a", 0, 0), Arrival(100.0, "b", 0, 0)]
    seen = []
    outcome = run_study(study(arrivals, spans=True, bound=False), progress=lambda done, of: seen.append((done, of)))
    spans = [(span.model, span.state, span.start, span.end) for span in outcome.runs[0][0].spans]
    assert spans == [
        ("a", ModelState.WAKING, 0.0, 8.0),
        ("a", ModelState.AWAKE, 8.0, 100.0),
        ("a", ModelState.DRAINING, 100.0, 100.0),
        ("a", ModelState.SLEEPING, 100.0, 102.0),
        ("b", ModelState.WAKING, 102.0, 110.0),
        ("b", ModelState.AWAKE, 110.0, pytest.approx(110.15)),
    ]
    assert all(span.devices == ("default",) for span in outcome.runs[0][0].spans)
    assert seen == [(0, 1), (1, 1)]
    assert outcome.bounds == [None]


def test_a_drain_that_cuts_off_thousands() -> None:
    """a has a batch of 16 that takes 1,000 s, and 2,984 requests behind it, when b's turn comes."""
    arrivals = [Arrival(0.0, "a", 0, 40_000) for _ in range(3000)] + [Arrival(100.0, "b", 0, 0)]
    (row,) = run_study(study(arrivals)).runs
    one = figures([run.result for run in row], limit=60)
    assert (one.unfinished, one.unserved) == (3000, 2984)
    assert row[0].result.started[-1] == pytest.approx(100.0 + 50.0 + 10.0)


def test_a_timeline_with_too_many_switches_shows_a_part(tmp_path: Path) -> None:
    arrivals = [Arrival(15.0 * number, "ab"[number % 2], 0, 0) for number in range(800)]
    arrivals += [Arrival(6001.0, "a", 0, 0)] * 30
    arrivals.sort(key=lambda arrival: arrival.at)
    made = study(arrivals, spans=True, bound=False)
    outcome = run_study(made)
    file = tmp_path / "part.svg"
    draw(file, made, outcome, rows(made, outcome, 60.0), [], title="part", limit=60.0)
    assert "around the longest queue in 3.33 h" in file.read_text()
    draw(file, study(arrivals[:100], spans=True), run_study(study(arrivals[:100], spans=True, bound=False)), [], [],
         title="all", limit=60.0)  # fmt: skip
    assert "around the longest queue" not in file.read_text()
