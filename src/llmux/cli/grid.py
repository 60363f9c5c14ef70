"""Tables that fit a terminal, however long the names in them are.

Where the columns do not fit, names are shortened in their middle, and then the least important columns go. Every other
cell is shown whole: half a state is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 3
NARROW_GAP = 2
"""What is between two columns, and what is where that is too much."""

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """`least`: a column of names, which can be shortened to so many cells; None for any other. `folds`: the same for a
    column in which what is too long goes on in the next line. `keep`: where there is no room, those of the lowest
    number go first; None: never."""

    heading: str
    right: bool = False
    least: int | None = None
    folds: int | None = None
    keep: int | None = None


@dataclass(slots=True)
class Grid:
    """A table without lines, as docker and kubectl print them. As wide as it takes, if there is room for that."""

    columns: Sequence[Column]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add_row(self, *cells: Cell) -> None:
        """Add a row, with a cell for every column."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        places, widths, gap = self._layout(options.max_width)
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
        shown = []
        for place in places:
            column, width = self.columns[place], widths[place]
            table.add_column(
                column.heading,
                justify="right" if column.right else "left",
                no_wrap=column.folds is None,
                overflow="ellipsis" if column.folds is None else "fold",
                width=width,
            )
            cells = [_as_text(row[place], folds=column.folds is not None) for row in self.rows]
            if column.least is not None:
                short = shortened([cell.plain for cell in cells], width)
                cells = [Text(name, style=cell.style, no_wrap=True) for name, cell in zip(short, cells, strict=True)]
            shown.append(cells)
        for row in zip(*shown, strict=True):
            table.add_row(*row)
        yield table

    def _layout(self, room: int) -> tuple[list[int], list[int], int]:
        """Which columns are shown, how wide each one is, and how far apart they are."""
        wanted = [
            max(cell_len(column.heading), *(_width(row[place]) for row in self.rows), 1)
            for place, column in enumerate(self.columns)
        ]
        places = list(range(len(wanted)))
        gap = GAP if sum(wanted) + GAP * (len(wanted) - 1) <= room else NARROW_GAP
        least = [self._least(place, width) for place, width in enumerate(wanted)]
        while (free := room - gap * (len(places) - 1) - sum(least[place] for place in places)) < 0:
            going = [place for place in places if self.columns[place].keep is not None]
            if not going:
                break
            places.remove(min(going, key=lambda place: (self.columns[place].keep or 0, -place)))
        for place in places:  # what is left over is for the first that can use it
            more = max(0, min(free, wanted[place] - least[place]))
            least[place] += more
            free -= more
        if free < 0:  # nothing but what must be seen is left, and not even that fits
            for place in places:
                if self.columns[place].least is not None:
                    least[place] = max(1, least[place] + free)
                    break
        return places, least, gap

    def _least(self, place: int, wanted: int) -> int:
        column = self.columns[place]
        least = column.least if column.least is not None else column.folds
        return wanted if least is None else min(wanted, max(least, cell_len(column.heading)))


def _as_text(cell: Cell, *, folds: bool) -> Text:
    text = cell.copy() if isinstance(cell, Text) else Text(cell)
    text.no_wrap = not folds
    return text


def _width(cell: Cell) -> int:
    return cell_len(cell.plain if isinstance(cell, Text) else cell)


def shortened(names: Sequence[str], width: int) -> list[str]:
    """`names`, those that are wider than `width` cells with an ellipsis in them: somewhat before the middle, as more is
    said at their ends, but where it leaves as many of them different from each other as can be."""
    long = list(dict.fromkeys(name for name in names if cell_len(name) > width))
    if not long or width < 3:
        return [set_cell_size(name, width) if cell_len(name) > width else name for name in names]
    usual = (width - 1) // 3
    best: dict[str, str] = {}
    most = 0
    for head in sorted(range(width), key=lambda head: abs(head - usual)):
        cut = {name: _cut(name, head, width - 1 - head) for name in long}
        if (different := len(set(cut.values()))) > most:
            best, most = cut, different
        if most == len(long):
            break
    return [best.get(name, name) for name in names]


def _cut(name: str, head: int, tail: int) -> str:
    return set_cell_size(name, head).rstrip() + "…" + set_cell_size(name[::-1], tail)[::-1].lstrip()
