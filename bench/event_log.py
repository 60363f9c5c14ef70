"""What the event log costs per request: the driver alone, with no recorder and with one, by turns in the same run.

    python bench/event_log.py [--rounds 40] [--requests 5000] [--dir FOLDER]

A request for a model that is awake is two events of the core, an arrival with a grant and an end. `loop` is the time
that these take on the thread of the event loop (CPU time of that thread, less the same without a recorder): what the
relay has less. `all` is the CPU time of the whole process, with the thread that writes the file. Each round feeds both
drivers the same number of requests and waits until the file is written; medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from llmux.core import Core, CoreSettings, ModelSpec
from llmux.driver import Driver
from llmux.errors import LlmuxError
from llmux.eventlog import Recorder
from llmux.hooks import HookResult, HookRunner, HookSpec
from llmux.messages import SCRIPTS, Effect, Hook, OnExit
from llmux.policy import FifoPolicy

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


class Sink:
    def fact(self, now: float, effect: Effect) -> None:
        pass

    def hook_ended(self, model: str, hook: Hook, result: HookResult) -> None:
        pass


class Request:
    def granted(self, waited: float, switched: bool) -> None:
        pass

    def refused(self, error: LlmuxError, switched: bool = False) -> None:
        raise error

    def aborted(self, error: LlmuxError) -> None:
        raise AssertionError(error.message)


def driver(settings: CoreSettings, recorder: Recorder | None) -> Driver:
    scripts = {(spec.name, hook): HookSpec("true", None) for spec in settings.models for hook in SCRIPTS}
    return Driver(
        Core(settings, FifoPolicy()),
        hooks=HookRunner(),
        scripts=scripts,
        ports={},
        aliases={},
        sink=Sink(),
        recorder=recorder,
    )


def ask(one: Driver, requests: int) -> float:
    """CPU seconds of this thread."""
    request = Request()
    began = time.thread_time()
    for _ in range(requests):
        one.finished(one.arrived(MODEL, request))
    return time.thread_time() - began


async def measure(options: argparse.Namespace, folder: Path) -> None:
    settings = CoreSettings(models=(ModelSpec(MODEL), ModelSpec("another")), alive_interval=0.0)
    recorder = Recorder(folder / "events.jsonl", settings, "fifo", {})
    recorder.start()
    drivers = {"without": driver(settings, None), "with": driver(settings, recorder)}
    for one in drivers.values():
        await one.switch(MODEL)
    loop: dict[str, list[float]] = {name: [] for name in drivers}
    whole: dict[str, list[float]] = {name: [] for name in drivers}
    for number in range(options.rounds + 3):
        for name, one in drivers.items():
            began = time.process_time()
            took = ask(one, options.requests)
            while recorder._writer.queued():  # noqa: ASYNC110  # a thread empties it, and tells nobody
                await asyncio.sleep(0.02)
            if number >= 3:  # the first ones warm up
                loop[name].append(took / options.requests * 1e6)
                whole[name].append((time.process_time() - began) / options.requests * 1e6)
    for one in drivers.values():
        await one.stop(0.0, OnExit.LEAVE)
        one.close()
    recorder.close()
    assert recorder.dropped == 0, "the figures would be too good"
    size = await asyncio.to_thread(lambda: sum(path.stat().st_size for path in folder.iterdir()))
    total = (options.rounds + 3) * options.requests
    print(f"{options.rounds} rounds of {options.requests} requests; {size / total:.0f} bytes per request; medians, µs")
    print("| driver | loop | all |")
    print("|---|---|---|")
    for name in drivers:
        figures = [statistics.median(one[name]) for one in (loop, whole)]
        print(f"| {name} the event log | {figures[0]:.2f} | {figures[1]:.2f} |")
    extra = [
        statistics.median(b - a for a, b in zip(one["without"], one["with"], strict=True)) for one in (loop, whole)
    ]
    print(f"cost per request: {extra[0]:.2f} µs on the loop, {extra[1]:.2f} µs in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--dir", type=Path, help="where the log is written (default: a temporary folder)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.dir) as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(measure(options, Path(folder)))


if __name__ == "__main__":
    main()
