"""The same workload live and simulated: do the waits agree, and the order of the policies?

    python bench/live.py [--seconds 240] [--write docs]

Live: an llmux process per policy, all side by side, since their hooks only sleep. Requests go over real sockets to its
gateway, real shell hooks run, and simulated backends (`llmux.testing.SimulatedBackend`) answer. A wait is from sending
a request until its backend begins with it. Simulated: `llmux.sim` with the same arrivals, the same configuration, the
backends' stated speeds, and hooks that take what they took live, each model's first wake what its first wake took, and
so on, as the run's event log has it. Besides, the event log itself as a trace, as `llmux simulate --from-log` reads it.

Status 1 if a policy's mean wait, over all requests or over those of one model, is more than 10 % off, or if two
policies whose simulated means are that far apart come in another order live.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any

from llmux.config import Config
from llmux.core import CoreEvent
from llmux.eventlog import observed
from llmux.eventlog.files import entries
from llmux.eventlog.format import Recorded
from llmux.messages import Effect, Hook, HookEnded, RunHook, SwitchEnded
from llmux.messages import Outcome as Ended
from llmux.policy import load_policy
from llmux.settings import core_settings
from llmux.sim import Arrival, BackendModel, HookTimes, Result, poisson, simulate, zipf_rates
from llmux.sim.hooks import HookClock
from llmux.testing import SimulatedBackend

GOAL = 0.10
"""How far off a mean may be."""

MODELS = ("m1", "m2", "m3")
POLICIES: dict[str, dict[str, Any]] = {
    "fifo": {},
    "break-even": {},
    "round-robin": {},
    "drain-first": {},
    "priority": {"levels": {"m1": 2}},
}

#: A tenth of what large models take: a switch of 1 s, and requests of about half a second alone.
SLEEP_SECS, WAKE_SECS = 0.2, 0.8
BACKEND = BackendModel(rate=40.0, batched_rate=20.0, batch=16, prefill_rate=8000.0, overhead=0.05)
TOKENS = (80.0, 18.0)
RATE, SKEW = 3.0, 0.7

#: Simulations with hook times that are drawn anew, from their means and scatter, to see how much of a mean is luck: a
#: switch that comes a little later may let another one go first.
DRAWS = 25


@dataclass(frozen=True)
class Waits:
    """Mean waits in seconds, and what else is compared."""

    mean: float
    p95: float
    models: dict[str, float]
    switches: int

    @classmethod
    def of(cls, waits: Sequence[tuple[str, float]], switches: int) -> Waits:
        seconds = sorted(wait for _, wait in waits)
        by_model = {model: [wait for name, wait in waits if name == model] for model in MODELS}
        means = {model: statistics.fmean(own) for model, own in by_model.items() if own}
        return cls(statistics.fmean(seconds), seconds[int(len(seconds) * 0.95)], means, switches)

    def off(self, other: Waits) -> tuple[float, float]:
        """How far this is off `other`, as a part of it: the mean, and the mean of the model that is off most."""
        worst = max((self.models[model] / other.models[model] - 1 for model in other.models), key=abs)
        return self.mean / other.mean - 1, worst


@dataclass(frozen=True)
class Outcome:
    """One policy: lived through, simulated from the stated workload, simulated from its own event log.

    Attributes:
        same: how many switches the live run and the simulation have in common, from the first on.
        luck: the least and the largest mean where hook times are drawn anew.
        waits: of all requests, ascending, live and simulated.
    """

    policy: str
    live: Waits
    simulated: Waits
    from_log: Waits
    same: int
    luck: tuple[float, float]
    hooks: HookTimes
    waits: tuple[list[float], list[float]]

    @property
    def deviations(self) -> tuple[float, ...]:
        return (*self.simulated.off(self.live), *self.from_log.off(self.live))


# --- live ------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_config(folder: Path, policy: str, ports: dict[str, int]) -> Path:
    hooks = {
        "wake": f"sleep {WAKE_SECS} && : > up-$LLMUX_MODEL",
        "sleep": f"sleep {SLEEP_SECS} && rm -f up-$LLMUX_MODEL",
        "alive": "test -e up-$LLMUX_MODEL",
    }
    config = {
        "models": {model: {"port": port, **hooks} for model, port in ports.items()},
        "policy": {"name": policy, **POLICIES[policy]},
        "port": free_port(),
        "event_log": "events.jsonl",
        "event_log_max_bytes": "1GiB",
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


@contextlib.asynccontextmanager
async def gateway(config: Path, port: int) -> AsyncIterator[None]:
    """An llmux of its own, ready to serve."""
    with (config.parent / "output.txt").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "llmux",
            "-c",
            str(config),
            stdout=output,
            stderr=output,
            stdin=asyncio.subprocess.DEVNULL,
        )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                if await exchange(port, b"GET /ready HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n") == 200:
                    break
            await asyncio.sleep(0.05)
        else:
            raise SystemExit(f"llmux did not start:\n{(config.parent / 'output.txt').read_text()}")
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def exchange(port: int, request: bytes) -> int:
    """Send a request and read its answer to the end; returns the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        answer = await reader.read(-1)
        return int(answer.split(b" ", 2)[1]) if answer else 0
    finally:
        writer.close()


async def ask(port: int, number: int, arrival: Arrival, start: float, sent: dict[int, float]) -> None:
    """One request of the workload, at its time."""
    question = {
        "model": arrival.model,
        "prompt": "word " * arrival.prompt_tokens,
        "max_tokens": max(1, arrival.output_tokens),
    }
    body = json.dumps(question).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nX-Number: {number}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    await asyncio.sleep(start + arrival.at - time.monotonic())
    sent[number] = time.monotonic()
    status = await exchange(port, head.encode() + body)
    if status != 200:
        raise SystemExit(f"request {number} was answered with {status}")


async def live(policy: str, folder: Path, arrivals: Sequence[Arrival], done: Callable[[], None]) -> list[float]:
    """Play the workload through a real llmux; returns what each request waited, in seconds."""
    async with contextlib.AsyncExitStack() as stack:
        backends, ports = {}, {}
        for model in MODELS:
            backends[model] = SimulatedBackend(
                model,
                tokens_per_second=BACKEND.rate,
                full_batch_tokens_per_second=BACKEND.batched_rate,
                batch=BACKEND.batch,
                prompt_tokens_per_second=BACKEND.prefill_rate,
                first_token_secs=BACKEND.overhead,
                tokens=10**9,
                record_last=len(arrivals),
            )
            _, ports[model] = await stack.enter_async_context(backends[model].serving())
        config = write_config(folder, policy, ports)
        port = json.loads(config.read_text())["port"]
        await stack.enter_async_context(gateway(config, port))
        sent: dict[int, float] = {}
        start = time.monotonic() + 1.0
        async with asyncio.TaskGroup() as group:
            for number, arrival in enumerate(arrivals):
                group.create_task(ask(port, number, arrival, start, sent)).add_done_callback(lambda _: done())
        waits = [0.0] * len(arrivals)
        for backend in backends.values():
            for record in backend.requests:
                number = int(record.header("x-number") or -1)
                assert record.began is not None
                waits[number] = record.began - sent[number]
        return waits


async def lateness(samples: list[float]) -> None:
    """How late this process's own loop is, in seconds, again and again."""
    while True:
        due = time.monotonic() + 0.05
        await asyncio.sleep(0.05)
        samples.append(time.monotonic() - due)


# --- simulated -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LivedTimes(HookTimes):
    """Hook times one by one, as they were: `runs` by hook and model. The means, once there are no more."""

    runs: Mapping[tuple[Hook, str], Sequence[float]] = field(default_factory=dict)

    def source(self) -> HookClock:
        return _InOrder(self)


class _InOrder(HookClock):
    def __init__(self, times: LivedTimes) -> None:
        super().__init__(times)
        self._runs = {key: iter(seconds) for key, seconds in times.runs.items()}

    def sleep(self, model: str, to_model: str | None) -> float:
        return next(self._runs[Hook.SLEEP, model], None) or super().sleep(model, to_model)

    def wake(self, model: str, from_model: str | None) -> float:
        return next(self._runs[Hook.WAKE, model], None) or super().wake(model, from_model)


@dataclass
class Story:
    """What the comparison needs of a course of events: the targets of switches, and what hooks took."""

    switches: list[str] = field(default_factory=list)
    hooks: dict[tuple[Hook, str], list[float]] = field(
        default_factory=lambda: {(hook, model): [] for hook in (Hook.WAKE, Hook.SLEEP) for model in MODELS}
    )
    _running: dict[int, RunHook] = field(default_factory=dict)

    def take(self, at: float, event: CoreEvent, effects: Sequence[Effect]) -> None:
        if isinstance(event, HookEnded) and event.outcome is Ended.OK:
            run = self._running.pop(event.run_id)
            if run.hook is not Hook.ALIVE:
                self.hooks[run.hook, run.model].append(event.duration)
        for effect in effects:
            if isinstance(effect, RunHook):
                self._running[effect.run_id] = effect
            elif isinstance(effect, SwitchEnded) and effect.result == "success":
                self.switches.append(effect.to_model)


def waits_of(result: Result) -> Waits:
    assert all(start is not None for start in result.started), "everybody must be served"
    return Waits.of(list(zip(result.model_of, result.waits(), strict=True)), result.switches)


def compare(policy: str, folder: Path, arrivals: Sequence[Arrival], lived: list[float]) -> Outcome:
    log = folder / "events.jsonl"
    seen, settings = observed(log), core_settings(Config.from_file(folder / "config.json"))
    real, simulated = Story(), Story()
    for entry in entries([log]):
        if isinstance(entry.record, Recorded):
            real.take(entry.record.at, entry.record.event, entry.record.decoded())
    hooks = LivedTimes(seen.hooks.sleeps, seen.hooks.wakes, runs=real.hooks)

    def play(
        trace: Sequence[Arrival],
        backend: BackendModel | dict[str, BackendModel],
        hooks: HookTimes,
        story: Story | None = None,
    ) -> Result:
        chosen = load_policy(policy, POLICIES[policy])
        watch = story.take if story is not None else None
        return simulate(trace, settings, chosen, hooks=hooks, backends=backend, watch=watch)

    result = play(arrivals, BACKEND, hooks, simulated)
    common = (mine == theirs for mine, theirs in zip(real.switches, simulated.switches, strict=False))
    means = [waits_of(play(arrivals, BACKEND, replace(seen.hooks, seed=seed))).mean for seed in range(DRAWS)]
    return Outcome(
        policy=policy,
        live=Waits.of([(one.model, wait) for one, wait in zip(arrivals, lived, strict=True)], len(real.switches)),
        simulated=waits_of(result),
        from_log=waits_of(play(seen.arrivals, seen.backends, hooks)),
        same=sum(takewhile(bool, common)),
        luck=(min(means), max(means)),
        hooks=seen.hooks,
        waits=(sorted(lived), sorted(result.waits())),
    )


def out_of_order(outcomes: Sequence[Outcome]) -> list[str]:
    """Pairs of policies that the simulation tells clearly apart, and that came the other way round live."""
    wrong = []
    for one, other in combinations(outcomes, 2):
        better, worse = sorted((one, other), key=lambda outcome: outcome.simulated.mean)
        if worse.simulated.mean > better.simulated.mean * (1 + GOAL) and worse.live.mean <= better.live.mean:
            wrong.append(f"{better.policy} and {worse.policy}")
    return wrong


# --- what is said ----------------------------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| policy | mean wait live | simulated | off | model off most | from its log | off | model off most "
        "| p95 live, simulated | switches live, simulated, in common | with other hook times |",
        f"|{'---|' * 11}",
    ]
    for one in sorted(outcomes, key=lambda outcome: outcome.live.mean):
        off, worst, log_off, log_worst = one.deviations
        lines.append(
            f"| {one.policy} | {one.live.mean:.2f} s | {one.simulated.mean:.2f} s | {off:+.1%} | {worst:+.1%} "
            f"| {one.from_log.mean:.2f} s | {log_off:+.1%} | {log_worst:+.1%} "
            f"| {one.live.p95:.1f} s, {one.simulated.p95:.1f} s "
            f"| {one.live.switches}, {one.simulated.switches}, {one.same} "
            f"| {one.luck[0]:.2f} to {one.luck[1]:.2f} s |"
        )
    return "\n".join(lines)


def verdict(outcomes: Sequence[Outcome]) -> tuple[bool, str]:
    farthest = max(abs(deviation) for one in outcomes for deviation in one.deviations)
    wrong = out_of_order(outcomes)
    orders = [
        " < ".join(one.policy for one in sorted(outcomes, key=key))
        for key in (lambda outcome: outcome.live.mean, lambda outcome: outcome.simulated.mean)
    ]
    met = farthest <= GOAL and not wrong
    order = f"policies whose simulated means are more than {GOAL:.0%} apart come in the same order live"
    if wrong:
        order = f"policies come in another order live: {', '.join(wrong)}"
    return met, (
        f"{'Met' if met else 'MISSED'}: the largest deviation of a mean, a single model's included, is {farthest:.1%} "
        f"(goal {GOAL:.0%}), and {order}.\nLive: {orders[0]}.\nSimulated: {orders[1]}."
    )


def draw(path: Path, outcomes: Sequence[Outcome]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "llmux",
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        shown = sorted(outcomes, key=lambda outcome: outcome.live.mean)
        for index, (axes, one) in enumerate(zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True)):
            for waits, colour, width, label in zip(
                one.waits, ("#d95f02", "#1b9e77"), (2.6, 1.2), ("live", "simulated"), strict=True
            ):
                step = max(1, len(waits) // 400)
                parts = [(place + 1) / len(waits) for place in range(len(waits))]
                axes.plot(waits[::step], parts[::step], color=colour, linewidth=width, label=label)
            axes.set_title(f"{one.policy}\nmean {one.live.mean:.2f} s, {one.simulated.mean:.2f} s", fontsize=9)
            axes.set_xlabel("wait (s)")
            axes.set_xlim(left=0)
            axes.set_ylim(0, 1)
            if index == 0:
                axes.set_ylabel("share of requests that waited no longer")
                axes.legend(frameon=False, loc="lower right")
        figure.savefig(path, format="svg", metadata={"Date": None})


PAGE = """# Live and simulated

`llmux simulate` runs the same decision core as the live program, in virtual time. This page shows how far its waits are
from those of the live program, with the same requests and the same hook times:

    {command}

![Waits, live and simulated]({picture})

{table}

{verdict}

Live is one llmux process per policy, all side by side: {requests} requests in {seconds:.0f} s to each, {rate:g} per
second (Poisson, {models} models, the k-th in proportion to 1/k^{skew:g}, seed {seed}), over real sockets, real shell
hooks that sleep for {sleep:g} s and {wake:g} s, and simulated backends with {batch} places, {fast:g} tokens per second
alone and {slow:g} each in a full batch. A wait is from sending a request until its backend begins with it.

Simulated is the same with the backends' stated speeds, and with the hook times of the live run's event log, one by one.
{hooks}

- *From its log*: the event log alone as a trace, as `llmux simulate --from-log` reads it.
- Switches *in common*: those before the first one that is to another model live than simulated.
- *With other hook times*: the range of the mean wait in {draws} simulations whose hook times are drawn at random, from
  the means and the scatter that they had. So much of a mean is luck.
- `priority` has `levels: {{m1: 2}}`; all else is as it comes.

The machine was in use by others at the time: the process that sends the requests, and has the backends in it, was up to
{late:.0f} ms late in 99 of 100 cases.
"""


def page(options: argparse.Namespace, outcomes: Sequence[Outcome], requests: int, late: float) -> str:
    sleeps = [value for one in outcomes for value in one.hooks.sleeps.values()]
    wakes = [value for one in outcomes for value in one.hooks.wakes.values()]
    return PAGE.format(
        command=f"python bench/live.py --seconds {options.seconds:g} --seed {options.seed} --write docs",
        picture="live-and-simulated.svg",
        table=table(outcomes),
        verdict=verdict(outcomes)[1].replace("\n", "\n\n"),
        requests=requests,
        seconds=options.seconds,
        rate=RATE,
        models=len(MODELS),
        skew=SKEW,
        seed=options.seed,
        sleep=SLEEP_SECS,
        wake=WAKE_SECS,
        batch=BACKEND.batch,
        fast=BACKEND.rate,
        slow=BACKEND.batched_rate,
        hooks=f"On average, sleep took {min(sleeps):.3f} to {max(sleeps):.3f} s, and wake {min(wakes):.3f} to "
        f"{max(wakes):.3f} s.",
        draws=DRAWS,
        late=late * 1e3,
    )


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def one_more() -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            if not console.is_terminal and done % max(1, total // 10) == 0:
                print(f"{done} of {total} requests answered", file=sys.stderr)

        yield one_more


async def measure(
    options: argparse.Namespace, folder: Path, arrivals: Sequence[Arrival]
) -> tuple[list[Outcome], float]:
    policies = options.policies.split(",")
    late: list[float] = []
    watch = asyncio.create_task(lateness(late))
    with progress(len(arrivals) * len(policies)) as done:
        async with asyncio.TaskGroup() as group:
            runs = {}
            for policy in policies:
                (folder / policy).mkdir(parents=True, exist_ok=True)
                runs[policy] = group.create_task(live(policy, folder / policy, arrivals, done))
    watch.cancel()
    outcomes = [compare(policy, folder / policy, arrivals, run.result()) for policy, run in runs.items()]
    return outcomes, sorted(late)[int(len(late) * 0.99)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0, help="how long requests come")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument("--policies", default=",".join(POLICIES), help=f"of {', '.join(POLICIES)}")
    parser.add_argument("--keep", type=Path, help="keep the configurations and event logs here, in an empty folder")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write live-and-simulated.md and its picture there")
    options = parser.parse_args()
    rates = zipf_rates(MODELS, RATE, SKEW)
    arrivals = poisson(rates, options.seconds, options.seed, prompt_tokens=TOKENS[0], output_tokens=TOKENS[1])
    # A request has a token at least, live and simulated alike.
    arrivals = [replace(one, output_tokens=max(1, one.output_tokens)) for one in arrivals]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep if options.keep is not None else Path(temporary)
        outcomes, late = asyncio.run(measure(options, folder, arrivals))
    print(f"{len(arrivals)} requests per policy; this process was up to {late * 1e3:.0f} ms late in 99 of 100 cases.\n")
    met, said = verdict(outcomes)
    print(table(outcomes), said, sep="\n\n")
    if options.write is not None:
        draw(options.write / "live-and-simulated.svg", outcomes)
        (options.write / "live-and-simulated.md").write_text(page(options, outcomes, len(arrivals), late))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
