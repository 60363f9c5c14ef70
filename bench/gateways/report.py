"""What came out, as tables and as JSON, and how the goals fare."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .bench import CEILING, Results
from .peers import BUILDS, said
from .picture import draw
from .processes import Cores, libraries

US, MS, KB = 1e-6, 1e-3, 1024


@dataclass
class Run:
    """How it was measured. `peers` gives title, version and description."""

    command: str
    peers: dict[str, tuple[str, str, str]]
    skipped: dict[str, str]
    tools: dict[str, str | None] = field(default_factory=dict)
    cores: Cores = field(default_factory=Cores.found)

    def title(self, key: str) -> str:
        return "straight to the backend" if key == CEILING else self.peers[key][0]


@dataclass(frozen=True)
class Column:
    """A figure, divided by its unit."""

    heading: str
    figure: str
    unit: float = 1.0
    digits: int = 0

    def cell(self, value: float | None) -> str:
        return "" if value is None else f"{value / self.unit:,.{self.digits}f}"


TABLES: dict[str, tuple[str, list[Column]]] = {
    "requests": (
        "Short requests, one after the other on each of so many connections; the answer has 1 KB.",
        [
            Column("requests/s", "rate"),
            Column("p50, ms", "p50", MS, 2),
            Column("p99, ms", "p99", MS, 2),
            Column("CPU of the proxy, s per 1,000 requests", "cpu", MS, 3),
        ],
    ),
    "large": (
        "Requests of 5 MB, as with a picture in base64.",
        [
            Column("requests/s", "rate", 1, 1),
            Column("p50, ms", "p50", MS, 1),
            Column("p99, ms", "p99", MS, 1),
            Column("CPU of the proxy, s per 1,000 requests", "cpu", MS, 2),
        ],
    ),
    "streams": (
        "Server-sent events of 190 bytes, a write each. *Delay* is from the backend's writing a chunk until the kernel "
        "has it for the client, with chunks evenly spread; *at most* is how many get through when the backend writes "
        "all it can, and then several are read, and written, at a time.",
        [
            Column("chunks/s", "paced"),
            Column("delay p50, ms", "p50", MS, 3),
            Column("p99, ms", "p99", MS, 2),
            Column("CPU of the proxy, ms per 1,000 chunks", "cpu", US, 1),
            Column("chunks/s at most", "flat"),
            Column("CPU then", "flat_cpu", US, 2),
        ],
    ),
    "memory": (
        "Resident memory of the process and its children, before and per open stream that has had some chunks.",
        [Column("KB per stream", "each", KB, 1), Column("MB before", "idle", KB * KB, 1)],
    ),
    "start": (
        "From starting the process; *answering* is when a request was answered.",
        [
            Column("listening, s", "listening", 1, 3),
            Column("answering, s", "answering", 1, 3),
            Column("CPU, s", "cpu", 1, 3),
        ],
    ),
    "switch": (
        "A request for the model that is asleep, with hooks that do next to nothing. For llama-swap, the hooks are the "
        "commands that end one process and start another.",
        [
            Column("request to first byte, ms", "switch", MS, 2),
            Column("both hooks alone, ms", "hooks", MS, 2),
            Column("beyond them, ms", "beyond", MS, 2),
        ],
    ),
    "queue": (
        "Requests of 1 KB, each on a connection of its own, that wait for one model, which then wakes. llama-swap asks "
        "the backend once a second whether it is awake.",
        [
            Column("KB each", "each", KB, 1),
            Column("s until all wait", "arrived", 1, 2),
            Column("s from then until all are answered", "answered", 1, 2),
            Column("CPU of that, ms per 1,000", "cpu", US, 1),
        ],
    ),
    "growth": (
        "1 KB, 32 at a time, for a model that is awake. Others wait for another model, on another device.",
        [
            Column("requests/s", "rate"),
            Column("p99, ms", "p99", MS, 2),
            Column("CPU of the proxy, s per 1,000 requests", "cpu", MS, 3),
        ],
    ),
}


@dataclass(frozen=True)
class Goal:
    """`reached` must be at least (or, with `at_most`, at most) `wanted`; None if it was not measured."""

    what: str
    wanted: float
    reached: float | None
    unit: str
    at_most: bool = False

    @property
    def fare(self) -> str:
        if self.reached is None:
            return ""
        met = self.reached <= self.wanted if self.at_most else self.reached >= self.wanted
        return f"{self.reached:.3g}{self.unit}, {'met' if met else 'missed'}"


SHORT = {"llmux-2.4.0": 1.0, "llama-swap": 1.5, "nginx": 0.6, "litellm": 100.0, "fastapi": 20.0}
"""How many times as fast as these llmux is to be with short requests."""


def goals(results: Results, title: Callable[[str], str], llmux: str) -> Iterable[Goal]:
    """Those that llmux has set itself, against the peers that were measured with it. `llmux` is the key of a build."""

    def ratio(measure: str, case: str, figure: str, peer: str, *, lower: bool = False) -> float | None:
        own = results.get(measure, case, llmux, figure)
        theirs = results.get(measure, case, peer, figure)
        if not own or not theirs:
            return None
        return theirs / own if lower else own / theirs

    for peer, wanted in SHORT.items():
        for connections in (32, 256):
            reached = ratio("requests", case := f"1 KB, {connections} at a time", "rate", peer)
            yield Goal(f"requests/s, {case}: of {title(peer)}", wanted, reached, " times")
        for figure in ("p50", "p99"):
            reached = ratio("requests", case := "1 KB, 1 at a time", figure, peer, lower=True)
            yield Goal(f"{figure}, {case}, of {title(peer)}", wanted, reached, " times")
    for case in results.cases("large"):
        reached = ratio("large", case, "rate", "llmux-2.4.0")
        yield Goal(f"requests/s, {case}: of {title('llmux-2.4.0')}", 1.0, reached, " times")
    for case in results.cases("streams"):
        if case.startswith("500"):
            reached = ratio("streams", case, "cpu", "nginx", lower=True)
            yield Goal(f"CPU per chunk, {case}: times as little as {title('nginx')}", 1.0, reached, " times")
            own, straight = (results.get("streams", case, key, "p50") for key in (llmux, CEILING))
            added = None if own is None or straight is None else (own - straight) / MS
            yield Goal(f"added delay of a chunk, median, {case}", 0.3, added, " ms", at_most=True)
    beyond = {key: results.get("switch", "two models", key, "beyond") for key in (llmux, "llmux-2.4.0", "llama-swap")}
    own = beyond.pop(llmux)
    yield Goal("switch beyond its hooks, median", 2.0, None if own is None else own / MS, " ms", at_most=True)
    for peer, value in beyond.items():
        reached = None if own is None or value is None else own / value
        yield Goal(f"switch beyond its hooks: of that of {title(peer)}", 1.0, reached, " times", at_most=True)
    for case in results.cases("memory"):
        each = results.get("memory", case, llmux, "each")
        yield Goal(f"memory, {case}, each", 25, None if each is None else each / KB, " KB", at_most=True)
    for case in results.cases("start"):
        for figure in ("listening", "answering"):
            reached = results.get("start", case, llmux, figure)
            yield Goal(f"start, {case}: {figure}", 0.4, reached, " s", at_most=True)
    for kind in ("models", "waiting"):
        cases = [case for case in results.cases("growth") if case.endswith(kind)]
        if len(cases) > 1:
            few, many = (results.get("growth", case, llmux, "cpu") for case in (cases[0], cases[-1]))
            reached = many / few if few and many else None
            yield Goal(f"CPU per request, {cases[-1]}: of that with {cases[0]}", 1.05, reached, " times", at_most=True)


def fares(run: Run, results: Results) -> Iterable[str]:
    """The goals, and how each build of llmux that was measured fares."""
    builds = [key for key in BUILDS if key in run.peers]
    yield f"| goal | wanted | {' | '.join(run.title(key) for key in builds)} |"
    yield f"|---|---|{'---|' * len(builds)}"
    for row in zip(*(goals(results, lambda key: run.peers.get(key, (key,))[0], key) for key in builds), strict=True):
        if any(goal.reached is not None for goal in row):
            wanted = f"{'≤' if row[0].at_most else '≥'} {row[0].wanted:g}{row[0].unit}"
            yield f"| {row[0].what} | {wanted} | {' | '.join(goal.fare for goal in row)} |"


def markdown(run: Run, results: Results, picture: str | None) -> str:
    """All of it, as a document."""
    lines = [
        "# Speed, side by side",
        "",
        f"Made by `{run.command}`: `bench/README.md` says how to run it.",
        "",
        f"Measured on {datetime.date.today():%d %B %Y}; {machine()}. {placement(run.cores)} The proxies take turns: "
        "all run, but those whose turn it is not are stopped. Figures are medians over the rounds; slow peers have "
        "one round.",
        "",
        "| peer | version | |",
        "|---|---|---|",
        *(f"| {title} | {version} | {about} |" for title, version, about in run.peers.values()),
        "",
        f"Load: {tool(run, 'wrk', 'a client in Python')}; backend of short requests: "
        f"{tool(run, 'nginx', 'a server in Python')}; everything else: plain sockets in Python.",
        "",
    ]
    lines += [f"Not measured: {key}, as {why}." for key, why in run.skipped.items()]
    if picture is not None:
        lines += ["", f"![llmux and its peers]({picture})"]
    lines += ["", "## Goals", "", *fares(run, results)]
    for measure, (about, columns) in TABLES.items():
        cases = results.cases(measure)
        if cases:
            lines += ["", f"## {measure.capitalize()}", "", about, ""]
            lines += table(run, results, measure, cases, columns)
    return "\n".join(lines) + "\n"


def table(run: Run, results: Results, measure: str, cases: list[str], columns: list[Column]) -> Iterable[str]:
    headings = [column.heading for column in columns]
    yield f"| | | {' | '.join(headings)} |"
    yield f"|---|---|{'---|' * len(columns)}"
    for case in cases:
        shown = case
        for peer in [*run.peers, CEILING]:
            why = results.failed.get((measure, case, peer))
            values = [results.get(measure, case, peer, column.figure) for column in columns]
            if why is None and all(value is None for value in values):
                continue
            cells = [column.cell(value) for column, value in zip(columns, values, strict=True)]
            if why is not None:
                cells = [f"failed: {why[:60]}".replace("|", "/"), *([""] * (len(columns) - 1))]
            yield f"| {shown} | {run.title(peer)} | {' | '.join(cells)} |"
            shown = ""


def machine() -> str:
    """What it was measured on, in words."""
    model = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return f"{model}, Linux {platform.release().split('-')[0]}, {system}"


def placement(cores: Cores) -> str:
    if cores.shared:
        return "There is only one processor, which proxies, load and backends share, so only the CPU times mean much."
    others = "another" if len(cores.others) == 1 else f"{len(cores.others)} others"
    return f"Each proxy has one processor to itself; load and backends have {others}."


def tool(run: Run, key: str, otherwise: str) -> str:
    path = run.tools.get(key)
    if path is None:
        return otherwise
    if key == "nginx":
        return f"nginx {said([path, '-v']).rpartition('/')[2]}"
    return said([path, "-v"], libraries(path)).splitlines()[0].partition(" Copyright")[0]


def write(run: Run, results: Results, folder: Path | None) -> None:
    """Print the document; write it, the figures and the picture to `folder`, if there is one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw(results, {key: run.title(key) for key in [*run.peers, CEILING]}, folder / "speed.svg")
        (folder / "speed.md").write_text(markdown(run, results, "speed.svg" if drawn else None))
        whole = {
            "command": run.command,
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": {key: version for key, (_, version, _) in run.peers.items()},
            "skipped": run.skipped,
            "results": results.as_json(),
        }
        (folder / "speed.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(markdown(run, results, None))
