"""The figures that say most, as bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .bench import CEILING, Results
from .peers import BUILDS

# What is drawn: measure, case, figure, its unit, and what it is called.
BARS = (
    ("requests", "1 KB, 32 at a time", "rate", 1.0, "requests/s, 1 KB, 32 at a time"),
    ("requests", "1 KB, 32 at a time", "cpu", 1e-6, "CPU per request, µs"),
    ("streams", "500 streams, 20/s each", "cpu", 1e-6, "CPU per chunk, 500 streams, µs"),
    ("streams", "500 streams, 20/s each", "p50", 1e-3, "delay of a chunk, median, ms"),
)


def draw(results: Results, titles: Mapping[str, str], path: Path) -> bool:
    """Writes an SVG; returns whether there was anything to draw, and something to draw it with."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = []
    for measure, case, figure, unit, name in BARS:
        found = {key: results.get(measure, case, key, figure) for key in titles}
        values = {titles[key]: value / unit for key, value in found.items() if value}
        if values:
            panels.append((name, values))
    if not panels:
        return False
    mpl.rcParams["svg.hashsalt"] = "llmux"  # the same picture from the same figures
    mpl.rcParams["svg.fonttype"] = "none"
    drawing = Figure(figsize=(11, 1.2 + 2.6 * ((len(panels) + 1) // 2)), layout="constrained")
    all_axes = drawing.subplots((len(panels) + 1) // 2, 2, squeeze=False).flat
    own = {titles.get(key) for key in BUILDS}
    for axes, (name, values) in zip(all_axes, panels, strict=False):
        colours = ["#c44e52" if label in own else "#8c9ab0" for label in values]
        if titles.get(CEILING) in values:
            colours[list(values).index(titles[CEILING])] = "#d8d8d8"
        bars = axes.barh(list(values), list(values.values()), color=colours)
        axes.bar_label(bars, labels=[f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values.values()])
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(all_axes):
        axes.set_visible(False)
    drawing.savefig(path, metadata={"Date": None})
    return True
