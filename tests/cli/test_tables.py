"""What is left of the tables on narrow terminals, with names as long as they are on Hugging Face."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from llmux.cli import tables
from llmux.cli.grid import Column, Grid, shortened

NAMES = [
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-70B-Instruct",
    "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4",
    "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int8",
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5-FP8-dynamic",  # 52
    *(f"organisation-{number % 4}/Some-Model-{number}B-Instruct" for number in range(25)),
]
WIDTHS = (60, 80, 100)


def lines_of(shown: RenderableType, width: int, height: int = 100) -> list[str]:
    """What a terminal of that size has of it."""
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False, markup=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert all(cell_len(line) <= width for line in lines)
    return lines


def model(name: str, state: str = "asleep", **more: object) -> dict[str, Any]:
    return {
        "name": name, "state": state, "aliases": [f"alias-of-{name}"], "waiting": 0, "oldest_waiter_secs": None,
        "in_flight": 0, "wake_secs": 12.0, "sleep_secs": 2.0, "devices": [], "pinned": False, "drained": False,
        "pinned_against": [], "lost": None, "kept": None, "arrivals_per_sec": 0.1, **more,
    }  # fmt: skip


def state(models: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    device = {"capacity": 24 * 2**30, "used": 0, "promised": 0, "promised_to": [], "lost": False, "lost_models": []}
    return {
        "ready": True, "reasons": [], "version": "3", "now": 10.0, "started": 0.0, "policy": "fifo", "released": None,
        "switches": [], "models": models,
        "devices": [{"name": "gpu0", **device}, {"name": "gpu1", **device}], **more,
    }  # fmt: skip


STATES = {0: "awake", 3: "unconfirmed", 4: "waking"}
MODELS = [
    model(name, STATES.get(place, "asleep"), devices=["gpu0", "gpu1"] if place in STATES else [])
    for place, name in enumerate(NAMES)
]


def table_of(lines: list[str]) -> list[list[str]]:
    """Its rows, each cell apart from the next by at least two spaces."""
    begin = next(place for place, line in enumerate(lines) if line.startswith("MODEL"))
    rows = []
    for line in lines[begin:]:
        if not line:
            break
        rows.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return rows


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("what", ["status", "models"])
def test_states_can_be_read_and_names_told_apart(what: str, width: int) -> None:
    shown = tables.status(state(MODELS), "http://x") if what == "status" else tables.models(MODELS)
    heading, *rows = table_of(lines_of(shown, width))
    place = heading.index("STATE")
    assert [row[place] for row in rows] == [model["state"] for model in MODELS]
    assert len({row[0] for row in rows}) == len(NAMES)
    assert all(len(row[0]) >= 24 for row in rows[:5]), "enough of it to be known by"
    assert not any("…" in cell for row in rows for cell in row[2 if what == "models" else 1 :])


def test_the_least_important_columns_go_first() -> None:
    every = ["MODEL", "STATE", "WAITING", "OLDEST", "IN FLIGHT", "WAKE", "SLEEP", "DEVICES"]
    headings = {
        width: table_of(lines_of(tables.status(state(MODELS), "http://x"), width))[0] for width in (*WIDTHS, 200)
    }
    assert headings[200] == headings[100] == every
    assert headings[80] == ["MODEL", "STATE", "WAITING", "OLDEST", "IN FLIGHT", "DEVICES"]
    assert headings[60] == ["MODEL", "STATE", "WAITING", "IN FLIGHT"]
    one_long = [model("small", "awake", devices=["gpu0"], aliases=[]), model(NAMES[4], aliases=[])]
    assert table_of(lines_of(tables.models(one_long), 80)) [0] == [
        "MODEL", "ALIASES", "STATE", "DEVICES", "WAKE", "SLEEP", "ASKED FOR",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [1000, 200])
def test_where_there_is_room_nothing_is_left_out(width: int) -> None:
    lines = lines_of(tables.models(MODELS), width)
    for one, line in zip(MODELS, lines[1:], strict=True):
        assert one["name"] in line
        assert one["aliases"][0] in line


def test_held_and_promised_are_told_apart() -> None:
    going, coming = model("old", "sleeping", devices=["gpu0"]), model("new", waiting=1, oldest_waiter_secs=1.0)
    found = state([going, coming])
    found["devices"][0] |= {"used": 20 * 2**30, "promised": 18 * 2**30, "promised_to": ["new"]}
    lines = lines_of(tables.status(found, "http://x"), 80)
    devices = [line.split() for line in lines if line.startswith("gpu")]
    assert devices[0] == ["gpu0", "20GiB", "18GiB", "24GiB", "old,", "new", "(promised)"]
    assert devices[1] == ["gpu1", "0", "-", "24GiB", "-"]
    assert lines.index("") < next(place for place, line in enumerate(lines) if line.startswith("DEVICE"))
    starts = [line.split()[0] for line in lines if line]
    assert starts.index("DEVICE") < starts.index("MODEL")


def request(number: int, **more: object) -> dict[str, Any]:
    return {
        "id": number, "model": NAMES[number], "granted": True, "age_secs": 3.0, "events": 0, "client": "10.0.0.1",
        "key": None, "path": "/v1/chat/completions", "stream": None, "level": "default", **more,
    }  # fmt: skip


def test_requests_can_be_told_apart() -> None:
    plain = [
        request(0, events=7, stream=True),
        request(1, granted=False, stream=False),
        request(2, stream=True),
        request(3),
    ]
    heading, *lines = lines_of(tables.requests(plain), 200)
    assert heading.split() == ["ID", "MODEL", "STATE", "AGE", "EVENTS", "CLIENT", "PATH"]
    assert [line.split()[2:5] for line in lines] == [
        ["served", "3.0s", "7"], ["waits", "3.0s", "-"], ["served", "3.0s", "0"], ["served", "3.0s", "?"],
    ]  # fmt: skip
    more = [*plain, request(4, key="alice", level="flex")]
    assert lines_of(tables.requests(more), 200)[0].split()[5:] == ["LEVEL", "KEY", "CLIENT", "PATH"]
    heading, *lines = lines_of(tables.requests(more), 80)
    assert heading.split() == ["ID", "MODEL", "STATE", "AGE", "EVENTS", "LEVEL", "KEY", "CLIENT"]
    assert len({line.split()[1] for line in lines}) == 5
    assert lines[-1].split()[-2:] == ["alice", "10.0.0.1"]


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [18, 24, 50])
def test_what_is_live_fits_and_has_what_matters(width: int, height: int) -> None:
    models = [dict(model) for model in MODELS]
    models[-1] |= {"waiting": 2, "oldest_waiter_secs": 3.0}
    found = state(models, switches=[{"from": None, "to": NAMES[4], "phase": "waking", "since_secs": 1.0}])
    lines = lines_of(tables.status(found, "http://127.0.0.1:3000", fitting=True), width, height)
    assert len(lines) < height
    assert [line.split()[0] for line in lines if line.startswith("gpu")] == ["gpu0", "gpu1"]
    if height == 50:
        assert len(table_of(lines)) == 1 + len(NAMES)
        return
    _, *rows, more = table_of(lines)
    states = [row[1] for row in rows]
    assert [state for state in states if state != "asleep"] == ["awake", "unconfirmed", "waking"]
    assert "24B" in rows[-1][0], "it sleeps, and somebody waits"
    assert more == [f"and {len(NAMES) - len(rows)} more: asleep"]


def test_what_is_not_shown_is_summed_up() -> None:
    models = [model(f"m{number}", "awake", waiting=number % 2) for number in range(20)]
    lines = lines_of(tables.status(state(models, devices=[]), "http://x", fitting=True), 80, 10)
    _, *rows, more = table_of(lines)
    assert all(row[2] == "1" for row in rows), "those first that somebody waits for"
    assert more[0].startswith(f"and {20 - len(rows)} more: awake; ")
    assert more[0].endswith(f"{10 - len(rows)} requests wait for them")


def test_remarks_leave_room_for_the_models() -> None:
    lost = {"error": "exit code 1 " * 20, "since_secs": 3.0, "next_look_secs": 7.0}
    models = [model(f"m{number}", "lost", lost=lost) for number in range(12)]
    lines = lines_of(tables.status(state(models), "http://x", fitting=True), 80, 24)
    assert len(lines) < 24
    assert len(table_of(lines)) > 5
    assert lines[-1].endswith("more lines: `llmux status`")
    whole = lines_of(tables.status(state(models), "http://x"), 80)
    assert sum("looks now" in line for line in whole) == 12


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [16, 20, 24, 30, 60])
def test_names_are_shortened_so_that_they_differ(width: int) -> None:
    short = shortened(NAMES, width)
    assert all(cell_len(name) <= width for name in short)
    assert len(set(short)) == len(set(NAMES))
    assert all(one == name or "…" in one[1:-1] for one, name in zip(short, NAMES, strict=True))


@pytest.mark.parametrize("width", [0, 1, 2, 3, 7])
def test_there_may_be_hardly_any_room(width: int) -> None:
    assert all(cell_len(name) <= width for name in shortened(["模型模型模型模型", "plain-name", "模型"], width))


def test_a_table_without_rows_and_one_without_room() -> None:
    grid = Grid([Column("MODEL", least=24), Column("STATE")])
    assert lines_of(grid, 80) == ["MODEL   STATE"]
    grid.add_row("x" * 50, "unconfirmed")
    (_, row) = lines_of(grid, 20)
    assert row.endswith("unconfirmed")
