"""``llmux check``: a configuration file, looked at as closely as can be without waking anybody.

Reads the file, asks the shell whether it understands the hooks, looks whether llmux may write where it is to, asks
every model whether it is alive, and works out who could be awake together.

Exit status: 0 for nothing wrong, 1 for a file that llmux takes but that cannot work here, 2 for a file with faults.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmux.cli.options import DEFAULT_CONFIG, DONE, REFUSED, USAGE, ConfigOption, JsonOption, print_json
from llmux.cli.serving import no_file_hint

if TYPE_CHECKING:
    from llmux.cli.together import Company
    from llmux.config import Config, ModelConfig
    from llmux.hooks import HookResult

SHOWN = 12
"""How many sets of models are named."""


@dataclass(slots=True)
class _Findings:
    warnings: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    alive: dict[str, HookResult] = field(default_factory=dict)
    company: Company | None = None


def check(
    config: ConfigOption = DEFAULT_CONFIG,
    hooks: Annotated[bool, typer.Option("--hooks/--no-hooks", help="Run the alive hooks.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration file: its faults, hooks that cannot work, who is alive now, who could be awake together.

    Runs the alive hooks and nothing else, wakes nobody. Exit status 1: hooks that cannot work, or files that cannot be
    written; 2: faults in the file.
    """
    from llmux.cli.places import place_problems
    from llmux.config import Config
    from llmux.errors import ConfigError

    try:
        loaded = Config.from_file(config)
        warnings = [*loaded.warnings, *_as_the_server_would(loaded)]
    except ConfigError as error:
        if as_json:
            problems = [{"path": path, "line": line, "message": message} for path, line, message in error.problems]
            print_json({"file": str(config), "ok": False, "problems": problems})
        else:
            hint = no_file_hint(None if config == DEFAULT_CONFIG else config)
            typer.echo(f"llmux: {error}{hint}", err=True)
        raise typer.Exit(USAGE) from None
    findings = _Findings(
        warnings=[*warnings, *_backend_warnings(loaded)],
        problems=[*_script_problems(loaded), *place_problems(loaded)],
    )
    if hooks:
        findings.alive = _ask_alive(loaded)
        findings.problems += _alive_problems(findings.alive)
    findings.company = _company(loaded)
    findings.warnings += _overfull(loaded, findings.alive)
    if as_json:
        print_json(_described(config, loaded, findings))
    else:
        _print(config, loaded, findings)
    raise typer.Exit(REFUSED if findings.problems else DONE)


def _as_the_server_would(config: Config) -> list[str]:
    """What starting a server would find out besides: policy, keys, certificate. Returns warnings.

    Raises:
        ConfigError: one of them cannot be had.
    """
    from llmux.errors import ConfigError
    from llmux.exposure import expose
    from llmux.journals import tracing
    from llmux.policy import load_policy

    try:
        load_policy(config.policy.name, config.policy.arguments())
    except ValueError as error:
        raise ConfigError("configuration", [("policy", None, str(error))]) from error
    made = tracing(config)
    if made is not None:
        made.close()
    return list(expose(config).warnings)


# --- the backends ----------------------------------------------------------------------------------------------------

OWN_HOSTS = ("127.0.0.1", "localhost", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound to
"""Where llmux listens so that it would be in the way of a model's server."""


def _backend(model: ModelConfig) -> str:
    return str(model.url or f"http://127.0.0.1:{model.port}")


def _backend_warnings(config: Config) -> list[str]:
    """Ports that may be a slip. No faults: `--port` can move llmux, and servers may take turns at one port."""
    own = [name for name, model in config.models.items() if model.port == config.port != 0]
    found = []
    if own and config.host in OWN_HOSTS:
        found.append(f"port {config.port} is llmux's own, and that of {', '.join(own)}: give the model another")
    backends: dict[str, list[str]] = {}
    for name, model in config.models.items():
        backends.setdefault(_backend(model), []).append(name)
    for backend, names in backends.items():
        if len(names) > 1:
            found.append(
                f"{', '.join(names)} have one backend, {backend}: the alive hook of each must say yes only where "
                "that very model answers"
            )
    return found


# --- the scripts -----------------------------------------------------------------------------------------------------


def _script_problems(config: Config) -> list[tuple[str, str]]:
    from llmux.cli.trial import syntax_fault
    from llmux.config.tree import dotted
    from llmux.messages import SCRIPTS

    found = []
    for name, model in config.models.items():
        for hook in SCRIPTS:
            script = model.script(hook)
            if not script:
                continue
            problem = syntax_fault(script) or _command_problem(script, config.hook_cwd(name, hook))
            if problem:
                found.append((dotted(("models", name, hook.value)), problem))
    return found


def _command_problem(script: str, cwd: Path | None) -> str:
    """Whether the first command of a script is there. Only where that is beyond doubt: a plain word, or a path."""
    from llmux.cli.trial import found_by_shell

    words = script.split()
    while words and re.fullmatch(r"[A-Za-z_]\w*=[\w./:,-]*|exec|nohup|setsid", words[0]):
        words.pop(0)
    word = words[0].rstrip(";") if words else ""
    if not re.fullmatch(r"[\w./+-]+", word):
        return ""
    if "/" not in word:
        return "" if found_by_shell(word, cwd) else f"there is no command {word!r} on PATH"
    path = (cwd or Path()) / word
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is not there"
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        return f"{path} is not an executable file (chmod +x makes it one)"
    return ""


# --- alive -----------------------------------------------------------------------------------------------------------


def _ask_alive(config: Config) -> dict[str, HookResult]:
    import asyncio

    import uvloop

    from llmux.cli import tables
    from llmux.cli.trial import Trial, devices_of, on_interrupt
    from llmux.messages import Hook

    results: dict[str, HookResult] = {}
    out = tables.console(sys.stderr)

    async def main() -> None:
        trial = Trial(config)
        on_interrupt(trial.cancel, trial.kill)

        async def ask(model: str) -> None:
            results[model] = await trial.run(model, Hook.ALIVE, devices_of(config, model))
            update()

        # All at once, as the server does when it starts.
        await asyncio.gather(*map(ask, config.models))
        await trial.close()

    def update() -> None:
        waiting = [model for model in config.models if model not in results]
        if waiting:
            spinner.update(f"asking alive: {len(results)} of {len(config.models)}; waiting for {', '.join(waiting)}")

    with out.status("asking alive") as spinner, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        update()
        runner.run(main())
    return {model: results[model] for model in config.models}


def _alive_problems(results: dict[str, HookResult]) -> list[tuple[str, str]]:
    from llmux.config.tree import dotted

    return [
        (dotted(("models", model, "alive")), f"no answer: {_answer(result)}")
        for model, result in results.items()
        if _answer(result) not in ("yes", "no")
    ]


def _answer(result: HookResult) -> str:
    """What an alive hook has said, as the server understands it when it starts."""
    from llmux.messages import Outcome

    if result.outcome is Outcome.OK:
        return "yes"
    if result.outcome is Outcome.FAILED and result.exit_code not in (126, 127):
        return "no"
    last = f" ({result.last_line})" if result.last_line else ""
    return f"{result.detail}{last}"


# --- who with whom ---------------------------------------------------------------------------------------------------


def _company(config: Config) -> Company | None:
    from llmux.cli.together import together

    if config.devices is None:
        return None
    return together({name: config.placements(name) or () for name in config.models}, config.devices)


def _overfull(config: Config, alive: dict[str, HookResult]) -> list[str]:
    """Models that are awake now and should not be so together."""
    from llmux.cli.together import together

    awake = [model for model, result in alive.items() if _answer(result) == "yes"]
    if len(awake) < 2:
        return []
    if config.devices is not None:
        placements = {name: config.placements(name) or () for name in awake}
        if any(len(one) == len(awake) for one in together(placements, config.devices).sets):
            return []
    return [f"{', '.join(awake)} say that they are awake now, and do not fit together: llmux would put some to sleep"]


# --- what is printed -------------------------------------------------------------------------------------------------


def _described(file: Path, config: Config, findings: _Findings) -> dict[str, Any]:
    company = findings.company
    return {
        "file": str(file),
        "ok": not findings.problems,
        "problems": [{"path": path, "line": None, "message": problem} for path, problem in findings.problems],
        "warnings": findings.warnings,
        "models": {
            name: {
                "backend": _backend(model),
                "alive": _described_alive(findings.alive.get(name)),
            }
            for name, model in config.models.items()
        },
        "one_at_a_time": company is None,
        "together": [[*one] for one in company.sets] if company else [[name] for name in config.models],
        "together_is_complete": company is None or company.complete,
        "never_together": [[*pair] for pair in company.apart] if company else None,
    }


def _described_alive(result: HookResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    answer = _answer(result)
    return {
        "answer": answer if answer in ("yes", "no") else None,
        "exit_code": result.exit_code,
        "duration_secs": result.duration,
        "detail": result.detail,
        "output": result.output,
    }


def _print(file: Path, config: Config, findings: _Findings) -> None:
    from rich.text import Text

    from llmux.cli import tables
    from llmux.cli.grid import Column, Grid
    from llmux.hooks.output import printable

    out = tables.console()
    count = len(config.models)
    out.print(f"{file}: {count} model{'' if count == 1 else 's'}, policy {config.policy.name}")
    for warning in findings.warnings:
        out.print(Text(f"warning: {printable(warning)}", style="yellow"))
    for path, problem in findings.problems:
        out.print(Text(f"problem: {printable(f'{path}: {problem}')}", style="red"))
    out.print()
    alive = (Column("ALIVE"), Column("TOOK", right=True, keep=1)) if findings.alive else ()
    table = Grid([Column("MODEL", least=24), Column("BACKEND", least=21), *alive])
    for name, model in config.models.items():
        row = [tables.text(name), tables.text(_backend(model))]
        if findings.alive:
            result = findings.alive[name]
            answer = _answer(result)
            words = {"yes": "yes: awake", "no": "no: asleep"}.get(answer, "no answer")
            style = {"yes": "green", "no": "dim"}.get(answer, "red")
            row += [tables.text(words, style), Text(tables.duration(result.duration))]
        table.add_row(*row)
    out.print(table)
    out.print()
    for line in _company_lines(config, findings.company):
        out.print(Text(printable(line)))


def _company_lines(config: Config, company: Company | None) -> list[str]:
    if company is None:
        return ["One model is awake at a time: no `devices` are declared."] if len(config.models) > 1 else []
    lines = ["Awake together could be:"]
    for one in company.sets[:SHOWN]:
        lines.append("  " + ", ".join(f"{name} on {'+'.join(where) or 'no device'}" for name, where in one.items()))
    if len(company.sets) > SHOWN or not company.complete:
        more = f"{len(company.sets) - SHOWN} more" if company.complete else "more"
        lines.append(f"  and {more}")
    if company.apart:
        pairs = [f"{one} and {other}" for one, other in company.apart[:SHOWN]]
        lines.append(f"Never together: {', '.join(pairs)}{' and more' if len(company.apart) > SHOWN else ''}.")
    elif len(config.models) > 1:
        lines.append("Any two of them fit together.")
    return lines
