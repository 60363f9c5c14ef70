"""What came of it: the figures, the table of refusals by cause, and all that must not be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from .box import Box
from .clients import Tally
from .diary import Diary
from .judge import Verdict
from .shadow import Note
from .troubles import Chaos
from .usage import too_much

RIGHT = 0.75
"""The share of requests, of those whose clients stayed, that must be answered right.

That none is lost and none is unexplained does not say that much was served: llmux could refuse all, each time for a
cause. What the troubles may cost is bounded. One comes every 5 seconds, while 16 clients ask 30 to 40 times. Half of
them strike one request or none. A server killed or a hook that fails costs at most what waits for one model, or is in
flight there, and what is asked of it in a pause of 2 seconds: up to 16. A kill of llmux, or a release that refuses,
costs every client a request or two. So a fifth may fail at worst; in runs of three minutes it was 5 to 14 %. More
than a quarter means that something did not recover.
"""


@dataclass
class Result:
    """All that is known once the run is over."""

    box: Box
    tally: Tally
    chaos: Chaos
    diary: Diary
    notes: list[Note]
    verdict: Verdict
    status: int
    minutes: float
    seed: int
    right: float = RIGHT
    replay: int = 0
    faults: list[str] = field(default_factory=list)

    def find_faults(self) -> list[str]:
        """What must not be, in words; the soak has failed unless there is none."""
        tally, verdict = self.tally, self.verdict
        stayed = sum(count for end, count in tally.ends.items() if end != "left")
        overlaps = [f"overlap: {n.model}'s {n.hook} at {n.at:.2f} while it was held: {n.detail}" for n in self.notes
                    if n.what == "overlap"]  # fmt: skip
        faults = [*(f"lost: {what}" for what in tally.lost), *(f"unexplained: {what}" for what in verdict.unexplained)]
        faults += [*(f"hook failed for no reason: {what}" for what in verdict.hooks), *overlaps]
        faults += [f"died for no reason: {what}" for what in verdict.deaths]
        faults += [f"the scheduler raised: {what}" for what in self.diary.raised]
        faults += [*self.chaos.wrong, *self.box.died]
        for number, life in enumerate(self.box.lives, 1):
            faults += [f"life {number} has grown: {measure}" for measure in too_much(life)]
        if self.status:
            faults.append(f"llmux ended with {self.status}")
        if self.replay:
            faults.append(f"llmux replay --check says {self.replay}: its decisions cannot be made again")
        left = [model for model in self.box.ports if self.box.pid_of(model) is not None]
        if left:
            faults.append(f"still up, though on_exit is sleep: {', '.join(left)}")
        if tally.ends["right"] < self.right * stayed:
            faults.append(f"{tally.ends['right']} of {stayed} were answered right, which is less than {self.right:.0%}")
        whole = range(int(self.minutes))
        faults += [f"minute {minute + 1}: nothing was answered right" for minute in whole if not tally.minutes[minute]]
        return faults

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        tally = self.tally
        stayed = sum(count for end, count in tally.ends.items() if end != "left")
        return {
            "minutes": self.minutes,
            "seed": self.seed,
            "requests": sum(tally.ends.values()),
            **{end: tally.ends[end] for end in ("right", "refused", "cut", "left", "lost")},
            "unexplained": len(self.verdict.unexplained),
            "right_of_those_who_stayed": round(tally.ends["right"] / max(1, stayed), 4),
            "causes": [
                {"ended": said, "cause": cause, "count": count}
                for (said, cause), count in sorted(self.verdict.table.items())
            ],
            "troubles": dict(self.chaos.done.most_common()),
            "troubles_without_a_victim": dict(self.chaos.skipped.most_common()),
            "troubles_taken_by_hooks": dict(
                Counter(f"{n.hook} {n.detail}" for n in self.notes if n.what == "trouble").most_common()
            ),
            "orders": dict(sorted(self.chaos.orders.items())),
            "lives": [life.grown() for life in self.box.lives],
            "wakes": sum(note.what == "claim" for note in self.notes),
            "overlaps": sum(note.what == "overlap" for note in self.notes),
            "exit_status": self.status,
            "faults": self.faults,
        }

    def show(self, console: Console) -> None:
        """All of it, for people."""
        facts = self.as_json()
        keys = ("minutes", "seed", "requests", "right", "refused", "cut", "left", "lost", "unexplained",
                "right_of_those_who_stayed", "wakes", "overlaps", "exit_status")  # fmt: skip
        console.print(", ".join(f"{key.replace('_', ' ')} {facts[key]}" for key in keys))
        for key in ("troubles", "troubles_without_a_victim", "troubles_taken_by_hooks", "orders"):
            said = ", ".join(f"{name} {count}" for name, count in facts[key].items())
            console.print(f"{key.replace('_', ' ')}: {said or 'none'}", markup=False)
        causes = Table("ended", "cause", "requests", title="refused and cut")
        for (said, cause), count in sorted(self.verdict.table.items()):
            causes.add_row(said, cause, str(count))
        console.print(causes)
        console.print(self._lives())
        for fault in self.faults[:40]:
            console.print(fault, markup=False)
        console.print(f"{len(self.faults)} faults" if self.faults else "no faults")

    def _lives(self) -> Table:
        shown = Table(
            "life", "seconds", "memory, MiB", "descriptors", "tasks", title="each process of llmux, once warm"
        )
        worst: dict[str, float] = {}
        for number, life in enumerate(self.box.lives, 1):
            grown = life.grown()
            cells = ["too short to tell"] * 3
            if grown is not None:
                cells = [f"{start:.1f} to {end:.1f}" for start, end, _ in grown.values()]
                worst = {what: max(per_hour, worst.get(what, per_hour)) for what, (_, _, per_hour) in grown.items()}
            shown.add_row(str(number), f"{life.ended - life.began:.0f}", *cells)
        if worst:
            shown.add_row("", "worst per hour", *(f"{per_hour:+.1f}" for per_hour in worst.values()))
        return shown
