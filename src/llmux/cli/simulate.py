"""``llmux simulate``: what each policy would have made of some traffic, as a table, pictures and a recommendation.

The options are here, and what is printed; `traffic` and `inputs` make sense of what they name. Everything but progress
and errors goes to standard output.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from llmux.cli.traffic import Traffic
    from llmux.report import Study
    from llmux.report.study import Outcome

_PICTURES = (".png", ".svg", ".html")


class Generator(enum.StrEnum):
    POISSON = "poisson"
    BURSTY = "bursty"
    ZIPF = "zipf"
    DAILY = "daily"


def simulate(
    trace: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TRACE.csv]",
            help="Requests: CSV of arrival_s, model, prompt_tokens, output_tokens.",
            show_default=False,
        ),
    ] = None,
    from_log: Annotated[
        list[Path] | None,
        typer.Option("--from-log", metavar="FILE", help="Requests and costs of an event log; may be repeated."),
    ] = None,
    generate: Annotated[
        Generator | None, typer.Option("--generate", help="Make requests up; zipf: the k-th model gets 1/k of them.")
    ] = None,
    rate: Annotated[float, typer.Option("--rate", metavar="N", help="Generated requests per second, in all.")] = 0.5,
    seconds: Annotated[float, typer.Option("--seconds", metavar="SECONDS", help="How long they come.")] = 7200.0,
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="PROMPT,OUTPUT", help="Their mean numbers of tokens.")
    ] = "800,200",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of generated requests, and of --noise.")] = 1,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="Simulate that many seeds, from --seed on.")
    ] = 1,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Models, devices and policy of a configuration file."),
    ] = None,
    models: Annotated[
        int | None,
        typer.Option(
            "--models",
            metavar="N",
            min=1,
            help="Without one: that many models, one awake.",
            show_default="3, or those of the trace",
        ),
    ] = None,
    cost: Annotated[
        float | None,
        typer.Option(
            "--cost",
            metavar="SECONDS",
            help="What a switch takes: a fifth to sleep, the rest to wake.",
            show_default="10",
        ),
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option("--costs", metavar="FILE", help="The same for each pair: CSV of from, to, seconds."),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise", metavar="N", help="Scatter of hook times: their coefficient of variation.", show_default="0"
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="KEY=VALUE,...",
            help="Backends: rate, batched_rate (tokens/s alone, in a full batch), batch, prefill_rate, overhead (s).",
            show_default="rate=40,batch=16,prefill_rate=8000,overhead=0.15",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="NAME[:KEY=VALUE,...]", help="A policy; may be repeated.", show_default="all built in"
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="policy.KEY=VALUE,...", help="Simulate each value; may be repeated."),
    ] = None,
    limit: Annotated[
        float, typer.Option("--limit", metavar="SECONDS", help="Longest wait that counts as goodput.")
    ] = 60.0,
    bound: Annotated[
        bool, typer.Option("--bound/--no-bound", help="Compare with a lower bound on the mean wait.")
    ] = True,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw it: .png, .svg, or .html for a page with the table."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare policies on your traffic: the same decisions as live, in virtual time."""
    from concurrent.futures import BrokenExecutor
    from dataclasses import asdict

    from llmux.cli import traffic
    from llmux.cli.inputs import InputError
    from llmux.errors import LlmuxError
    from llmux.sim import SimulationError

    try:
        _check_numbers(rate=rate, seconds=seconds, limit=limit, cost=cost, noise=noise)
        _check_plot(plot)
        if models is not None and (from_log or config is not None):
            raise InputError("--models goes neither with --from-log nor with --config: the models are known")
        if models is not None and trace is None and generate is None:
            generate = Generator.POISSON
        sources = [trace is not None, bool(from_log), generate is not None]
        if sum(sources) != 1:
            raise InputError("give one of TRACE.csv, --from-log and --generate, or --models for Poisson traffic")
        if from_log and config is not None:
            raise InputError("--from-log has the configuration of its day in it: leave --config out")
        if from_log:
            requests = traffic.logged(from_log, cost, costs, noise, backend)
        else:
            requests = traffic.requests(
                trace, generate, rate, seconds, _tokens(tokens), config, models, (cost, costs, noise or 0.0), backend
            )
        candidates, baseline = traffic.candidates(requests, policy or [], sweep or [])
        if seeds > 1 and generate is None and not requests.hooks.noise:
            raise InputError("--seeds above 1 are all alike, without --generate or --noise")
        scenarios = traffic.scenarios(requests, range(seed, seed + seeds))
    except (InputError, LlmuxError) as error:
        _fail(str(error), status=2)

    from llmux.report import Study, run_study
    from llmux.report.verdict import verdict

    study = Study(candidates, scenarios, requests.backends, spans=plot is not None, bound=bound)
    try:
        with _progress() as progress:
            outcome = run_study(study, progress=progress)
    except (SimulationError, BrokenExecutor) as error:
        _fail(str(error), status=1)
    results = [[run.result for run in runs] for runs in outcome.runs]
    said = verdict(
        results,
        [one.label for one in candidates],
        limit=limit,
        baseline=baseline,
        generated=generate is not None,
    )
    from llmux.report import table

    rows = table.rows(study, outcome, limit)
    if as_json:
        described = table.as_data(study, rows, said, limit=limit, baseline=baseline)
        described |= {"notes": list(requests.notes), "fits": {name: asdict(one) for name, one in requests.fits.items()}}
        typer.echo(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        _print(study, outcome, rows, said.text, requests, limit, baseline)
    if plot is not None:
        from llmux.report.plot import draw

        try:
            draw(plot, study, outcome, rows, said.text, title=requests.described, limit=limit)
        except OSError as error:
            _fail(f"{plot}: cannot be written: {error.strerror or error}", status=1)


# --- what is asked for -----------------------------------------------------------------------------------------------


def _check_numbers(**values: float | None) -> None:
    from math import isfinite

    from llmux.cli.inputs import InputError

    for name, value in values.items():
        least_is_open = name in ("rate", "seconds")
        if value is not None and not (isfinite(value) and value >= 0 and (value > 0 or not least_is_open)):
            raise InputError(f"--{name} must be {'above' if least_is_open else 'at least'} 0, not {value:g}")


def _check_plot(plot: Path | None) -> None:
    from importlib.util import find_spec

    from llmux.cli.inputs import InputError

    if plot is None:
        return
    if plot.suffix.lower() not in _PICTURES:
        raise InputError(f"--plot {plot}: the file must end in {', '.join(_PICTURES[:-1])} or {_PICTURES[-1]}")
    if find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install 'llmux-server[plot]'")
    if not plot.parent.is_dir():
        raise InputError(f"--plot {plot}: there is no folder {plot.parent}")


def _tokens(text: str) -> tuple[float, float]:
    from llmux.cli.inputs import InputError

    try:
        prompt, output = (float(part) for part in text.split(","))
    except ValueError:
        prompt = output = -1.0
    if not (0 <= prompt < 1e9 and 0 <= output < 1e9):
        raise InputError(f"--tokens must be two numbers, such as 800,200, not {text!r}")
    return prompt, output


# --- what is printed -------------------------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _print(
    study: Study,
    outcome: Outcome,
    rows: Sequence[Any],
    text: Sequence[str],
    traffic: Traffic,
    limit: float,
    baseline: int | None,
) -> None:
    from rich.console import Console
    from rich.text import Text

    from llmux.report import table

    console = Console(highlight=False)
    made = table.as_table(study, rows, limit=limit, baseline=baseline, title=traffic.described)
    # On a narrow terminal, lines that wrap can still be read; numbers that are left out cannot.
    console.width = max(console.width, console.measure(made, options=console.options.update(width=10_000)).maximum)
    console.print(made)
    for note in [*table.notes(study, outcome, rows, limit=limit, baseline=baseline), *traffic.notes]:
        console.print(Text(note, style="dim"), soft_wrap=True)
    console.print()
    for line in text:
        console.print(Text(line), soft_wrap=True)


def _fail(message: str, *, status: int) -> NoReturn:
    typer.echo(f"llmux: {message}", err=True)
    raise typer.Exit(status)
