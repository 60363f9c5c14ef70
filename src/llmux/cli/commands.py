"""``llmux``: its commands and options.

Heavy imports are inside the commands: ``llmux --version`` and a refused configuration should not wait for what only
serving needs.

Exit status: 0 for success, 1 for a failure to start, 2 for a configuration or a command line that cannot be used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from llmux.cli import hook, logs, operate, stand
from llmux.cli.check import check
from llmux.cli.completion import completion
from llmux.cli.init import init
from llmux.cli.options import DEFAULT_CONFIG
from llmux.cli.serving import LogFormat, ServeOptions, run
from llmux.cli.simulate import simulate
from llmux.cli.typed import App

app = App(
    name="llmux",
    help="One OpenAI-compatible endpoint, many models, too little GPU memory: llmux wakes the model that is asked for.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Configuration file, YAML or JSON.", show_default=str(DEFAULT_CONFIG), metavar="FILE"
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port", "-p", metavar="N", help="Port to listen on, in place of the configuration's.", min=0, max=65535
    ),
]
HostOption = Annotated[
    str | None, typer.Option("--host", help="Address to listen on, in place of the configuration's.", metavar="ADDRESS")
]
WatchOption = Annotated[
    bool,
    typer.Option("--watch", metavar="", help="Read the configuration again when its file changes, not only at SIGHUP."),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", metavar="", help="Log more, and what hooks print.")]
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option("--log-format", help="auto: text on a terminal, JSON lines otherwise.", show_default="auto"),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from llmux.version import version

        typer.echo(f"llmux {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    config: ConfigOption = None,
    port: PortOption = None,
    host: HostOption = None,
    verbose: VerboseOption = False,
    log_format: LogFormatOption = None,
    watch: WatchOption = False,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Without a command, llmux serves."""
    context.obj = ServeOptions(config, port, host, verbose, log_format, watch)
    if context.invoked_subcommand is None:
        raise typer.Exit(run(context.obj))
    if context.invoked_subcommand != "serve" and context.obj.given:
        context.fail(f"options of `{context.invoked_subcommand}` come after its name; those before it are for serving")


@app.command()
def serve(
    context: typer.Context,
    config: ConfigOption = None,
    port: PortOption = None,
    host: HostOption = None,
    verbose: VerboseOption = False,
    log_format: LogFormatOption = None,
    watch: WatchOption = False,
) -> None:
    """Serve the models of a configuration file, until SIGTERM or Ctrl-C. A second one ends at once."""
    raise typer.Exit(run(ServeOptions(config, port, host, verbose, log_format, watch).or_else(context.obj)))


app.command()(init)
app.command()(check)


@app.command()
def demo(
    folder: Annotated[
        Path,
        typer.Option(
            "--dir", metavar="FOLDER", help="Where to put the files that it writes: configuration, hooks, logs."
        ),
    ] = Path("llmux-demo"),
    stay: Annotated[
        bool, typer.Option("--serve", metavar="", help="Stay up afterwards, for your own requests.")
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--simulated", metavar="", help="Pretend to have models; needs no weights.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            metavar="N",
            min=0,
            max=65535,
            help="Port to listen on.",
            show_default="3000, or any free one",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="How many times each model is asked.")
    ] = 3,
) -> None:
    """Watch two small real models take turns behind one endpoint, on this machine's CPU."""
    from llmux.demo import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(dir=folder, serve=stay, simulated=simulated, port=port, rounds=rounds)))


app.command()(simulate)


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Event logs, in any order.")],
    check: Annotated[
        bool,
        typer.Option("--check", metavar="", help="Run the events through the core again; 0: same effects, 1: not."),
    ] = False,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Tell only what concerns it.")] = None,
    last: Annotated[int | None, typer.Option("--last", min=1, metavar="N", help="Tell only the last N lines.")] = None,
    trust_policy: Annotated[
        bool, typer.Option("--trust-policy", metavar="", help="Import the policy class that the log names, and run it.")
    ] = False,
) -> None:
    """Tell what an event log says, or check it; status 2 for a file that cannot be read."""
    from llmux.cli.replay import check_files, tell_story

    if check:
        raise typer.Exit(check_files(files, trust=trust_policy))
    raise typer.Exit(tell_story(files, model=model, last=last))


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def backend(context: typer.Context) -> None:
    """Run a simulated OpenAI-like backend, for trying out hooks and configurations; `--help` lists its options."""
    from llmux.testing.__main__ import main as run

    try:
        status = run(["backend", *context.args])
    except OSError as error:
        _fail(f"cannot start: {error}", status=1)
    raise typer.Exit(status)


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration file, for editors and checks."""
    import json

    from llmux.config import config_schema

    typer.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))


app.command()(completion)
app.add_typer(hook.app)

for _command in (
    operate.status,
    operate.models,
    operate.requests,
    operate.switch,
    operate.sleep,
    stand.pin,
    stand.unpin,
    stand.drain,
    stand.undrain,
    stand.release,
    stand.resume,
    operate.free,
    operate.look,
    operate.cancel,
    operate.reload,
    logs.logs,
):
    app.command(rich_help_panel="A running llmux")(_command)


def _fail(message: str, *, status: int) -> NoReturn:
    typer.echo(f"llmux: {message}", err=True)
    raise typer.Exit(status)
