"""``llmux hook run``: one hook, run just as the server would, with its output as it comes.

Exit status: 0 if the hook said yes, 1 if not, 2 for bad usage or a bad configuration.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmux.cli.options import DEFAULT_CONFIG, DONE, INTERRUPTED, REFUSED, USAGE, ConfigOption, fail, print_json
from llmux.cli.typed import App

if TYPE_CHECKING:
    from llmux.config import Config
    from llmux.hooks import HookResult
    from llmux.messages import Hook

app = App(name="hook", help="Try hooks out.", no_args_is_help=True)


class Which(enum.StrEnum):
    WAKE = "wake"
    SLEEP = "sleep"
    ALIVE = "alive"
    VERIFY = "verify"


def _names_in_file(context: typer.Context, incomplete: str) -> list[str]:
    """For completion in a shell: the names and aliases of the configuration file, as far as it can be read. Not checked
    any further: that is for whoever presses Enter, and takes longer."""
    import yaml

    names: list[Any] = []
    try:
        models = yaml.safe_load(Path(context.params.get("config") or DEFAULT_CONFIG).read_bytes())["models"]
        for name, model in models.items():
            names += [name, *model.get("aliases", ())]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        pass
    return [name for name in map(str, names) if name.startswith(incomplete)]


@app.callback()
def hook() -> None:
    """Try hooks out."""


@app.command()
def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Its name, or an alias.", autocompletion=_names_in_file, show_default=False
        ),
    ],
    which: Annotated[Which, typer.Argument(metavar="wake|sleep|alive|verify", show_default=False)],
    config: ConfigOption = DEFAULT_CONFIG,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="A,B", help="What LLMUX_DEVICES is.", show_default="what the model would get first"
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", metavar="", help="Also where a running llmux has the model, and will not know of it."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print the result as JSON; the hook's output goes to stderr.")
    ] = False,
) -> None:
    """Run a hook as the server would: same shell, folder, environment, deadline and process group; show its output,
    then its exit code, how long it took and what has survived it. Ctrl-C ends it."""
    from llmux.config import Config
    from llmux.errors import ConfigError
    from llmux.hooks.output import printable
    from llmux.messages import Hook

    try:
        loaded = Config.from_file(config)
    except ConfigError as error:
        fail(str(error), USAGE, as_json=as_json)
    name = loaded.names().get(model)
    if name is None:
        fail(printable(f"{config} has no model {model!r}; it has {', '.join(loaded.models)}"), USAGE, as_json=as_json)
    script = loaded.models[name].script(Hook(which.value))
    if script is None:
        fail(printable(f"{name} has no {which.value} hook in {config}"), USAGE, as_json=as_json)
    if which in (Which.WAKE, Which.SLEEP) and not anyway:
        _refuse_if_served(name, which, config, as_json=as_json)
    raise typer.Exit(_try(loaded, name, Hook(which.value), devices, as_json=as_json))


def _refuse_if_served(model: str, which: Which, file: Path, *, as_json: bool) -> None:
    """A server must know who holds memory; a wake or sleep behind its back is how two models end up on one GPU."""
    from llmux.cli.connection import CallError, RefusedError, Server, UsageError, environment_key, find

    try:
        place = find(None, file)
        state = Server(place, environment_key()).get("/models", timeout=2.0)
        served = any(one["name"] == model for one in state["models"])
    except RefusedError:
        served = True  # somebody is there who wants a key
    except (CallError, UsageError, KeyError, TypeError):
        return
    if served:
        order = "switch" if which is Which.WAKE else "sleep"
        fail(
            f"an llmux serves {model} at {place.url} and would not know of it: use `llmux {order} {model}`, "
            "or give --anyway",
            code="served",
            as_json=as_json,
        )


def _try(config: Config, model: str, hook: Hook, devices: str | None, *, as_json: bool) -> int:
    import asyncio

    import uvloop

    from llmux.cli.progress import HookShow
    from llmux.cli.trial import Trial, devices_of, on_interrupt
    from llmux.messages import Outcome

    chosen = devices_of(config, model) if devices is None else [part for part in devices.split(",") if part]
    deadline = config.hook_timeout(model, hook)
    limit = "no deadline" if deadline is None else f"deadline {deadline:g}s"
    typer.echo(f"{model} {hook.value}: in {config.hook_cwd(model, hook) or '.'}, {limit}", err=True)

    async def main() -> tuple[HookResult, bool]:
        show = HookShow(f"{model} {hook.value}", deadline, to_stderr=as_json)
        trial = Trial(config, lambda _, __, line: show.line(line))
        on_interrupt(trial.cancel, trial.kill)
        with show:
            result = await trial.run(model, hook, chosen)
            return result, await trial.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result, held = runner.run(main())
    _report(model, hook, result, held, as_json=as_json)
    if result.outcome is Outcome.CANCELLED:
        return INTERRUPTED
    return DONE if result.outcome is Outcome.OK else REFUSED


def _report(model: str, hook: Hook, result: HookResult, held: bool, *, as_json: bool) -> None:
    from llmux.cli.tables import duration
    from llmux.messages import Outcome

    if as_json:
        print_json(
            {
                "model": model,
                "hook": hook.value,
                "outcome": result.outcome.value,
                "exit_code": result.exit_code,
                "duration_secs": result.duration,
                "survivors": list(result.survivors),
                "output_held": held,
                "backend": None if result.backend is None else str(result.backend),
                "detail": result.detail,
            }
        )
    meaning = {
        "wake": ("ready to serve", "not awake"),
        "sleep": ("its memory is free", "its memory may not be free"),
        "alive": ("awake and well", "not awake"),
        "verify": ("its memory is free", "its memory is not free yet"),
    }[hook.value][0 if result.outcome is Outcome.OK else 1]
    how = "exit code 0" if result.outcome is Outcome.OK else result.detail
    typer.echo(f"{model} {hook.value}: {how}, after {duration(result.duration)}: {meaning}", err=True)
    if result.backend is not None:
        typer.echo(f"backend: {result.backend}", err=True)
    if result.survivors:
        pids = ", ".join(map(str, result.survivors))
        typer.echo(f"survivors: {pids} (they left the hook's session, so llmux does not end them)", err=True)
    if held:
        typer.echo(
            "warning: something that it left behind still writes to the hook's output, and gets SIGPIPE once llmux "
            "has ended: start servers with setsid, their output in a file and /dev/null as their input",
            err=True,
        )
