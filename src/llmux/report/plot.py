"""Pictures of a study: per policy who was awake when and who waited, and how the waits are distributed.

Needs matplotlib, which is imported on use (the extra ``[plot]``). Draws without a display.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmux.messages import ModelState
from llmux.report.study import Outcome, Run, Study
from llmux.report.table import Row, as_table, notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SWITCHING = "#bdbdbd"
_HATCHED = "////"
_POINTS = 1500  # of each line at most, or files grow large and pictures no better
_MOST_NAMES = 12
_LEGEND_COLUMNS = 8
_MOST_SWITCHES = 150  # in a timeline, or it turns into grey

_STYLE: dict[Any, Any] = {  # matplotlib's own type lists every name there is
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "llmux",  # else ids in the file are random
    "svg.fonttype": "none",
}


def draw(
    path: Path, study: Study, outcome: Outcome, rows: Sequence[Row], text: Sequence[str], *, title: str, limit: float
) -> None:
    """Draw a study that was run with ``spans=True``, into a file whose suffix (.png, .svg, .html) says how.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = _figure(study, outcome, title=title, limit=limit)
        if path.suffix.lower() == ".html":
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            path.write_text(_page(study, outcome, rows, text, drawn.getvalue(), title, limit), encoding="utf-8")
        elif path.suffix.lower() == ".svg":
            figure.savefig(path, format="svg", metadata={"Date": None})
        else:
            figure.savefig(path, format="png", dpi=130)


def _figure(study: Study, outcome: Outcome, *, title: str, limit: float) -> Figure:
    from matplotlib.figure import Figure

    colours = _colours(study)
    devices = list(study.candidates[0].settings.devices)
    count = len(study.candidates)
    strip = 0.22 + 0.2 * len(devices)
    heights = [strip, 0.95, 0.42] * count + [0.3, 3.0]  # of each policy: who is awake, who waits, and some room
    figure = Figure(figsize=(11, sum(heights) + 1.3), layout=None)
    rows = _legend(figure, colours)
    top, bottom = 1 - (0.66 + 0.19 * rows) / figure.get_figheight(), 0.55 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, hspace=0.0, left=0.075, right=0.985, top=top, bottom=bottom
    )
    figure.suptitle(title, x=0.01, y=1 - 0.12 / figure.get_figheight(), ha="left", va="top", weight="bold", fontsize=12)
    since, until, part = _window([runs[0] for runs in outcome.runs])
    most = max(max(_queue(runs[0], model, since, until)[1]) for runs in outcome.runs for model in colours)
    scale, unit = _time_scale(until)
    for index, (candidate, runs) in enumerate(zip(study.candidates, outcome.runs, strict=True)):
        awake = figure.add_subplot(grid[3 * index])
        queues = figure.add_subplot(grid[3 * index + 1], sharex=awake)
        _draw_spans(awake, runs[0], devices, colours, scale)
        awake.set_title(candidate.label)
        _draw_queues(queues, runs[0], colours, scale, since, until)
        awake.set_xlim(since / scale, until / scale)
        queues.set_ylim(0, most * 1.05 or 1)
        queues.set_ylabel("waiting")
        if index == count - 1:
            queues.set_xlabel(f"time ({unit}){part}; queues on one scale", labelpad=1)
        else:
            queues.tick_params(labelbottom=False)
    _draw_waits(figure.add_subplot(grid[-1]), study, outcome, limit)
    return figure


def _colours(study: Study) -> dict[str, Any]:
    from matplotlib import colormaps

    models = [spec.name for spec in study.candidates[0].settings.models]
    palette = colormaps["tab10" if len(models) <= 7 else "tab20"].colors  # type: ignore[attr-defined]  # of listed ones
    usable = [colour for index, colour in enumerate(palette) if index != 7 or len(palette) > 10]  # tab10's grey
    return {model: usable[index % len(usable)] for index, model in enumerate(models)}


def _time_scale(seconds: float) -> tuple[float, str]:
    if seconds > 3 * 86_400:
        return 86_400.0, "days"
    if seconds > 3 * 3600:
        return 3600.0, "h"
    return (60.0, "min") if seconds > 180 else (1.0, "s")


def _draw_spans(axes: Axes, run: Run, devices: Sequence[str], colours: Mapping[str, Any], scale: float) -> None:
    """One lane per device, divided among the models that are there together."""
    models = list(colours)
    for lane, device in enumerate(devices):
        spans = [span for span in run.spans if device in span.devices]
        shared = _overlap(spans)
        here = [model for model in models if any(span.model == model for span in spans)] if shared else []
        height = 0.84 / max(1, len(here))
        for model in models:
            low = lane - 0.42 + (here.index(model) * height if model in here else 0)
            for state in (ModelState.AWAKE, ModelState.DRAINING, ModelState.WAKING, ModelState.SLEEPING):
                bars = [
                    (span.start / scale, (span.end - span.start) / scale)
                    for span in spans
                    if span.model == model and span.state is state and span.end > span.start
                ]
                if not bars:
                    continue
                if state is ModelState.AWAKE:
                    axes.broken_barh(bars, (low, height), facecolors=colours[model], linewidth=0)
                elif state is ModelState.DRAINING:
                    axes.broken_barh(bars, (low, height), facecolors=colours[model], alpha=0.45, linewidth=0)
                else:
                    axes.broken_barh(bars, (low, height), facecolors=_SWITCHING, linewidth=0)
    axes.set_ylim(len(devices) - 0.5, -0.5)
    single = len(devices) == 1
    axes.set_yticks(range(len(devices)), ["awake"] if single else devices)
    axes.tick_params(left=False, labelbottom=False, bottom=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _overlap(spans: Sequence[Any]) -> bool:
    """Whether several models are on a device at one time."""
    ordered = sorted(spans, key=lambda span: (span.start, span.end))
    latest = -math.inf
    for span in ordered:
        if span.start < latest - 1e-9:
            return True
        latest = max(latest, span.end)
    return False


def _window(runs: Sequence[Run]) -> tuple[float, float, str]:
    """The stretch of time to draw, and words for it: all of it, or the part around the longest queue of the first run
    if there are too many switches to tell apart."""
    end = max(run.result.seconds for run in runs)
    switches = max(sum(span.state is ModelState.WAKING for span in run.spans) for run in runs)
    if switches <= _MOST_SWITCHES:
        return 0.0, end, ""
    longest, middle = -1, 0.0
    for model in runs[0].result.models:
        times, numbers = _queue(runs[0], model, 0.0, end)
        at = max(range(len(numbers)), key=numbers.__getitem__)
        if numbers[at] > longest:
            longest, middle = numbers[at], times[at]
    width = end * _MOST_SWITCHES / switches
    since = min(max(0.0, middle - width / 2), end - width)
    scale, unit = _time_scale(end)
    return since, since + width, f", around the longest queue in {end / scale:.3g} {unit}"


def _queue(run: Run, model: str, since: float, until: float) -> tuple[list[float], list[int]]:
    """How many wait for a model to be granted, as steps: times, and the number from then on."""
    result = run.result
    changes: list[tuple[float, int]] = []
    for arrived, granted, name in zip(result.arrived, result.granted, result.model_of, strict=True):
        if name == model and granted is not None and granted > arrived:
            changes += [(arrived, 1), (granted, -1)]
    changes.sort()
    times, numbers, waiting = [since], [0], 0
    for at, change in changes:
        if at > until:
            break
        waiting += change
        if at <= times[-1]:
            numbers[-1] = waiting
        else:
            times.append(at)
            numbers.append(waiting)
    times.append(until)
    numbers.append(numbers[-1])
    return times, numbers


def _thinned(times: Sequence[float], numbers: Sequence[int]) -> tuple[list[float], list[int]]:
    """The same line with no more than so many points: the largest number of each stretch of time."""
    if len(times) <= _POINTS:
        return list(times), list(numbers)
    start = times[0]
    width = (times[-1] - start) / _POINTS
    most: dict[int, int] = {}
    last = 0
    for index, at in enumerate(times):
        stretch = int((at - start) / width)
        for skipped in range(last + 1, stretch):
            most[skipped] = numbers[index - 1]
        most[stretch] = max(most.get(stretch, numbers[index - 1] if index else 0), numbers[index])
        last = stretch
    return [start + stretch * width for stretch in sorted(most)], [most[stretch] for stretch in sorted(most)]


def _draw_queues(axes: Axes, run: Run, colours: Mapping[str, Any], scale: float, since: float, until: float) -> None:
    for model, colour in colours.items():
        times, numbers = _thinned(*_queue(run, model, since, until))
        at = [time / scale for time in times]
        axes.fill_between(at, numbers, step="post", color=colour, alpha=0.25, linewidth=0)
        axes.step(at, numbers, where="post", color=colour, linewidth=0.9)
    axes.tick_params(axis="y", labelsize=8)
    axes.locator_params(axis="y", nbins=3, integer=True)


def _legend(figure: Figure, colours: Mapping[str, Any]) -> int:
    """Draw the legend; returns how many rows it has."""
    from matplotlib.patches import Patch

    named = list(colours.items())[:_MOST_NAMES]
    handles = [Patch(color=colour, label=model) for model, colour in named]
    if len(colours) > len(named):
        handles.append(Patch(facecolor="none", label=f"and {len(colours) - len(named)} more"))
    handles += [
        Patch(color="black", alpha=0.45, label="draining (pale)", linewidth=0),
        Patch(color=_SWITCHING, label="sleep and wake hooks"),
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.005, 1 - 0.36 / figure.get_figheight()),
        ncols=min(len(handles), _LEGEND_COLUMNS),
        frameon=False,
        fontsize=8.5,
        handlelength=1.2,
        columnspacing=1.4,
        borderaxespad=0,
    )
    return math.ceil(len(handles) / _LEGEND_COLUMNS)


def _draw_waits(axes: Axes, study: Study, outcome: Outcome, limit: float) -> None:
    """The survival function: the share of requests that waited longer than so long."""
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    palette = colormaps["tab10"].colors  # type: ignore[attr-defined]  # of listed ones
    styles = ("-", "--", ":", "-.")
    longest, least = 1.0, 0.1
    for index, (candidate, runs) in enumerate(zip(study.candidates, outcome.runs, strict=True)):
        waits = sorted(wait for run in runs for wait in run.result.waits())
        if not waits:
            continue
        count = len(waits)
        least = min(least, 1 / count)
        longest = max(longest, waits[-1])
        marks = range(count) if count <= _POINTS else sorted({int(x) for x in _ranks(count)})
        axes.step(
            [0.0, *(waits[mark] for mark in marks)],
            [1.0, *((count - mark - 1) / count if mark + 1 < count else 0.5 / count for mark in marks)],
            where="post",
            color=palette[index % len(palette)],
            linestyle=styles[index // len(palette) % len(styles)],
            linewidth=1.2 + 1.8 * (1 - index / len(study.candidates)),  # so that lines on top of each other are seen
            label=candidate.label,
        )
    axes.axvline(limit, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate(
        f"limit {limit:g} s",
        (limit, 1),
        xycoords=("data", "axes fraction"),  # above the plot, where no curve is
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=8,
        va="bottom",
        ha="center",
    )
    axes.set_yscale("log")
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    axes.set_xlim(0, max(longest, limit) * 1.15)
    axes.set_ylim(least * 0.8, 1.15)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_title("Share of requests that waited longer")
    axes.set_xlabel("seconds, from arrival to the start of service (logarithmic above 1)")
    axes.grid(which="major", color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")


def _ranks(count: int) -> list[float]:
    """Ranks to draw: evenly spread, and closely spaced at the far end, which a logarithmic axis shows large."""
    even = [index * count / (_POINTS // 2) for index in range(_POINTS // 2)]
    tail = [count - math.exp(math.log(count) * index / (_POINTS // 2)) for index in range(_POINTS // 2)]
    return [min(max(0.0, rank), count - 1.0) for rank in [*even, *tail, count - 1.0]]


# --- the page --------------------------------------------------------------------------------------------------------

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 2px 9px; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
thead th {{ border-bottom: 1px solid #888; }}
tr.policy td {{ font-weight: 600; border-top: 1px solid #ddd; }}
tr.model td {{ color: #555; }}
tr.model td:first-child {{ padding-left: 24px; }}
.scroll {{ overflow-x: auto; }}
.verdict {{ background: #f3f6fa; border-left: 4px solid #4a7ab5; padding: .6rem 1rem; }}
.verdict p {{ margin: .2rem 0; }}
.notes {{ color: #666; font-size: 13px; }}
svg {{ width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
<div class="verdict">{verdict}</div>
<div class="scroll">{table}</div>
<div class="notes">{notes}</div>
{picture}
</html>
"""


def _page(
    study: Study, outcome: Outcome, rows: Sequence[Row], text: Sequence[str], svg: str, title: str, limit: float
) -> str:
    table = as_table(study, rows, limit=limit, baseline=None, title=title)
    columns = [(html.escape(str(column.header)), [str(cell) for cell in column.cells]) for column in table.columns]
    lines = ["<table><thead><tr>", *(f"<th>{head}</th>" for head, _ in columns), "</tr></thead><tbody>"]
    for number in range(table.row_count):
        kind = "model" if columns[0][1][number].startswith("  ") else "policy"
        cells = "".join(f"<td>{html.escape(cells[number].strip())}</td>" for _, cells in columns)
        lines.append(f'<tr class="{kind}">{cells}</tr>')
    lines.append("</tbody></table>")
    paragraphs = [f"<p>{html.escape(line)}</p>" for line in text]
    told = notes(study, outcome, rows, limit=limit, baseline=None)
    return _PAGE.format(
        title=html.escape(title),
        verdict="".join(paragraphs),
        table="".join(lines),
        notes="".join(f"<p>{html.escape(line)}</p>" for line in told),
        picture=svg[svg.index("<svg") :],
    )
