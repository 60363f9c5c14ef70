"""Hours of traffic and trouble: the real process, real hooks, real backends, and things that go wrong all the time.

    python -m bench.soak [--minutes 20] [--seed 1] [--models 4] [--clients 16] [--json FILE]

Clients ask for models by a Zipf law, by name or alias, streamed or whole, and check every byte of what they get; some
leave while they wait, some in the middle of an answer. Four models share two devices: two need one of them each, one
needs any of the two, one needs both. Meanwhile, every few seconds (`plan.py`):

- backends are killed, answer 500, drop connections, hang, and stop in the middle of answers;
- wake, sleep and alive hooks fail, hang, or print megabytes;
- the configuration is changed and read again (SIGHUP): another alias, another size of a device, another policy;
- operators order: switch, sleep, pin and unpin, drain and undrain, release and resume, cancel;
- every few minutes llmux itself is killed with kill -9 and started again.

Every request ends in one class:

- right: the whole answer, and the one that this model gives to this question;
- refused: an error in place of an answer; cut: broken off, visibly, or told by an event of the stream. Both need a
  cause, a trouble that could have done it (`judge.py`); what has none is unexplained, and must be 0;
- left: the client went away on purpose;
- lost: anything else. No answer within the deadline, a clean end of half an answer, the answer to somebody else's
  question. Must be 0.

The hooks keep a shadow of who really holds memory (`shadow.py`): no model may be woken on a device that another one
holds. The exit status is 1 if anything was lost, unexplained or held twice; if a hook failed or a model died without a
cause; if an order or a reload was not carried out; if the event log cannot be replayed to the same decisions; if a life
of llmux has grown in memory, tasks or descriptors; or if fewer requests than `--right` were answered right.

The seed fixes what is asked and which trouble is made when, not when the machine gets round to it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from . import usage
from .box import LONGEST_WAIT, Box
from .clients import Client, Tally
from .diary import parts, read_diary
from .judge import MARGIN, Judge
from .plan import Trouble, plan
from .report import RIGHT, Result
from .shadow import read_notes
from .troubles import Chaos

SAMPLE_EVERY = 3.0
"""Seconds between two looks at what llmux uses."""


async def look_after(box: Box, until: float) -> None:
    """Sample what llmux uses, and see that it lives."""
    async with httpx.AsyncClient(base_url=box.url, timeout=10.0) as client:
        while time.monotonic() < until:
            await asyncio.sleep(SAMPLE_EVERY)
            box.check()
            life = box.lives[-1]
            if box.listening.is_set():
                with contextlib.suppress(httpx.HTTPError):  # killed at this moment
                    used = usage.read((await client.get("/metrics")).text)
                    life.take(time.monotonic(), used)


def table(tally: Tally, chaos: Chaos, lives: int, done: float, minutes: float) -> Table:
    shown = Table(title=f"{done:.1f} of {minutes:g} minutes")
    for column in ("requests", "right", "refused", "cut", "left", "lost", "troubles", "lives"):
        shown.add_column(column, justify="right")
    counts = [sum(tally.ends.values()), *[tally.ends[key] for key in ("right", "refused", "cut", "left", "lost")]]
    shown.add_row(*map(str, counts), str(chaos.done.total()), str(lives))
    return shown


async def watch(until: float, console: Console, shown: Callable[[], Table]) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while time.monotonic() < until:
            live.update(shown(), refresh=True)
            await asyncio.sleep(1.0 if console.is_terminal else 30.0)


async def soak(options: argparse.Namespace, folder: Path) -> int:
    console = Console()
    box = Box(folder, options.models)
    seconds = options.minutes * 60
    restart_every = min(options.restart_every * 60, seconds / 2)
    troubles = plan(options.seed, seconds, list(box.ports), every=options.trouble_every, restart_every=restart_every)
    if options.plan:
        for trouble in troubles:
            console.print(f"{trouble.at:8.2f}", trouble.kind, trouble.detail, *trouble.models, markup=False)
        return 0
    box.write()
    try:
        await box.start()
        result = await soaked(options, box, troubles, console)
    finally:
        box.kill()
    result.show(console)
    if options.json is not None:
        options.json.write_text(json.dumps(result.as_json(), indent=2) + "\n")
    return 1 if result.faults else 0


async def soaked(options: argparse.Namespace, box: Box, troubles: list[Trouble], console: Console) -> Result:
    """The whole run, and the verdict on it."""
    began, tally = time.monotonic(), Tally()
    until = began + options.minutes * 60
    chaos = Chaos(box, began)

    def shown() -> Table:
        return table(tally, chaos, len(box.lives), (time.monotonic() - began) / 60, options.minutes)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(options.clients):
                group.create_task(Client(number, box, tally, options.seed, began).run(until))
            group.create_task(chaos.run(troubles))
            group.create_task(look_after(box, until))
            group.create_task(watch(until, console, shown))
        status = await box.stop()
    except* RuntimeError:
        if not box.died:
            raise
        status = -1
    diary, notes = read_diary(box.events), read_notes(box.folder / "shadow.log")
    judge = Judge(diary, notes, chaos.deeds, box.devices, waits=LONGEST_WAIT, offset=box.offset, margin=options.margin)
    verdict = judge.judge(tally.judged)
    result = Result(box, tally, chaos, diary, notes, verdict, status, options.minutes, options.seed, options.right)
    result.replay = await replayed(box)
    result.faults = result.find_faults()
    return result


async def replayed(box: Box) -> int:
    """The status of llmux replay --check for all that was written down."""
    command = [sys.executable, "-m", "llmux", "replay", "--check", *map(str, parts(box.events))]
    with (box.folder / "replay.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        return await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--trouble-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--restart-every", type=float, default=4.0, metavar="MINUTES", help="kill -9 of llmux itself")
    parser.add_argument("--right", type=float, default=RIGHT, metavar="SHARE", help="that must be answered right")
    parser.add_argument(
        "--margin", type=float, default=MARGIN, metavar="SECONDS", help="more, on a machine that stands still at times"
    )
    parser.add_argument("--json", type=Path, help="write the result here as well")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder, and leave it")
    parser.add_argument("--plan", action="store_true", help="only say which troubles the seed makes")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        return asyncio.run(soak(options, options.keep.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(soak(options, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
