"""How a demo run looks: live, in colour, on a terminal; a line for each happening anywhere else.

Writes to a rich console, and to nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from llmux.demo.models import MODELS
from llmux.demo.story import DRAIN, FIRST_TOKEN, PHASES, QUEUE, SLEEP, TOKENS, WAKE, Ask, HookRun, Story, ignore
from llmux.messages import Hook, ModelState, Outcome, SwitchEnded, SwitchStarted

COLOURS = {QUEUE: "white", DRAIN: "yellow", SLEEP: "blue", WAKE: "magenta", FIRST_TOKEN: "cyan", TOKENS: "green"}
MODEL_COLOURS = {"smollm2": "bright_cyan", "gemma3": "bright_magenta"}
STATE_COLOURS = {
    ModelState.AWAKE: "bold green",
    ModelState.WAKING: "magenta",
    ModelState.DRAINING: "yellow",
    ModelState.SLEEPING: "blue",
    ModelState.LOST: "bold red",
}
BAR_WIDTH = 48
FRAMES_PER_SECOND = 12


@contextlib.asynccontextmanager
async def showing(story: Story, console: Console) -> AsyncIterator[None]:
    """Show `story` as it unfolds, until the context ends."""
    clock = asyncio.get_running_loop().time
    if not console.is_terminal:
        story.on_event = _Lines(console, clock).show
        try:
            yield
        finally:
            story.on_event = ignore
        return

    live = Live(console=console, auto_refresh=False, transient=True)

    def show(kind: str, subject: object) -> None:
        if kind == "answer" and isinstance(subject, Ask):
            console.print(ask_block(subject, clock()), soft_wrap=False)

    async def refresh() -> None:
        while True:
            live.update(_now(story, clock()), refresh=True)
            await asyncio.sleep(1 / FRAMES_PER_SECOND)

    story.on_event = show
    with live:
        refreshing = asyncio.create_task(refresh())
        try:
            yield
        finally:
            refreshing.cancel()
            story.on_event = ignore
            live.update(Text())


# --- live --------------------------------------------------------------------------------------------------------


def _now(story: Story, now: float) -> RenderableType:
    """The moment: the models' states, and the questions that are open."""
    states = Text("  ")
    for model, state in story.states.items():
        colour = STATE_COLOURS.get(state, "dim")
        states.append(f"● {model} ", style=MODEL_COLOURS.get(model, ""))
        states.append(f"{state.value}    ", style=colour)
    blocks = [ask_block(ask, now) for ask in story.asks if ask.ended_at is None]
    return Group(*blocks, Panel(states, border_style="dim", expand=False))


def ask_block(ask: Ask, now: float) -> RenderableType:
    """One question: its text, a bar and the seconds of each phase, and as much of the answer as there is."""
    title = Text(f"{ask.number} ", style="bold")
    title.append(ask.model, style=MODEL_COLOURS.get(ask.model, ""))
    title.append(f"  {ask.question}", style="bold")
    spent = ask.seconds(now)
    if ask.error is not None:
        answer: RenderableType = Text(ask.error, style="bold red")
    elif ask.text:
        answer = Text(ask.text)
    else:
        answer = Spinner("dots", style="dim")
    return Group(title, Padding(Group(_bar(spent), _legend(ask, spent), answer), (0, 0, 1, 2)))


def _bar(spent: dict[str, float]) -> Text:
    """The phases side by side, each as wide as its share of the time."""
    total = sum(spent.values()) or 1.0
    bar = Text()
    for phase in PHASES:
        if (seconds := spent.get(phase, 0.0)) > 0:
            bar.append("━" * round(seconds / total * BAR_WIDTH), style=COLOURS[phase])
    return bar


def _legend(ask: Ask, spent: dict[str, float]) -> RenderableType:
    return Columns(_parts(ask, spent), padding=(0, 2))  # on a narrow terminal, in rows: no part of it is torn apart


def _parts(ask: Ask, spent: dict[str, float]) -> list[Text]:
    parts = []
    for phase in PHASES:
        if phase == TOKENS and (speed := ask.tokens_per_second) is not None:
            parts.append(Text(f"{ask.tokens} tokens, {speed:.0f}/s", style=f"bold {COLOURS[phase]}"))
        elif phase in spent and (phase not in (QUEUE, DRAIN) or spent[phase] >= 0.01):
            parts.append(Text(f"{phase} {spent[phase]:.2f} s", style=COLOURS[phase]))
    return parts


# --- lines -------------------------------------------------------------------------------------------------------


class _Lines:
    """A line for each happening, with the seconds since the first."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._began = clock()

    def show(self, kind: str, subject: object) -> None:
        match subject:
            case Ask() if kind == "ask":
                self._line(f"{subject.number} {subject.model}: asked {subject.question!r}")
            case Ask() if kind == "answer":
                said = subject.error or subject.text.replace("\n", " ")
                self._line(f"{subject.number} {subject.model}: {said}")
                parts = ", ".join(part.plain for part in _parts(subject, subject.seconds(self._clock())))
                self._line(f"{subject.number} {subject.model}: {parts}")
            case SwitchStarted():
                self._line(f"switch {subject.from_model or 'idle'} -> {subject.to_model} begins")
            case SwitchEnded():
                self._line(
                    f"switch {subject.from_model or 'idle'} -> {subject.to_model}: {subject.result} "
                    f"after {subject.duration:.2f} s"
                )
            case HookRun() if subject.hook is not Hook.ALIVE:
                ended = "" if subject.outcome is Outcome.OK else f", {subject.outcome.value}"
                self._line(f"{subject.model}: {subject.hook.value} hook, {subject.duration:.2f} s{ended}")

    def _line(self, text: str) -> None:
        self._console.print(
            f"{self._clock() - self._began:7.2f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )


# --- before and after ---------------------------------------------------------------------------------------------


def introduction(config: Path, *, simulated: bool) -> RenderableType:
    """The configuration, as the user would write it."""
    what = "two simulated models" if simulated else "two real models on this machine's CPU"
    head = Text.assemble(("llmux demo", "bold"), f": {what}, one at a time, behind one endpoint.")
    code = Syntax(config.read_text(), "yaml", background_color="default", word_wrap=True)
    where = Text.assemble("Hooks: ", (str(config.with_name("server.sh")), "bold"))
    return Group(head, Text(), Text(str(config), style="bold"), Padding(code, (0, 0, 0, 2)), where, Text())


def switch_costs(story: Story, cost_of: Callable[[str | None, str], float | None]) -> RenderableType:
    """What was measured: hooks, and switches by ordered pair."""
    hooks = Table(box=box.SIMPLE_HEAD)
    for name in ("model", "hook", "runs", "median", "slowest"):
        hooks.add_column(name, justify="left" if name in ("model", "hook") else "right")
    for model in story.states:
        for hook in Hook:
            took = [run.duration for run in story.hooks if (run.model, run.hook) == (model, hook)]
            if took:
                hooks.add_row(
                    model, hook.value, str(len(took)), f"{statistics.median(took):.3f} s", f"{max(took):.3f} s"
                )
    costs = Table(box=box.SIMPLE_HEAD)
    costs.add_column("from")
    costs.add_column("to")
    costs.add_column("seconds", justify="right")
    for source in (None, *story.states):
        for target in story.states:
            if source != target and (cost := cost_of(source, target)) is not None:
                costs.add_row(source or "idle", target, f"{cost:.3f}")
    parts: list[RenderableType] = [Text("Hooks", style="bold"), hooks]
    if costs.row_count:
        parts += [Text("Switches (sleep + wake, moving average)", style="bold"), costs]
    return Group(*parts)


def licences() -> RenderableType:
    """Whose weights these are."""
    lines = [
        Text.assemble((model.title, "bold"), f": {model.licence} ({model.notice})", overflow="fold")
        for model in MODELS.values()
    ]
    return Group(Text("Weights", style="bold"), *lines)


def curl_lines(address: tuple[str, int]) -> RenderableType:
    """What to type now. Short lines, so that no terminal breaks them where a shell would not."""
    lines = [Text("llmux is up. In another terminal (Ctrl-C here ends it):\n", style="bold")]
    for model in MODELS.values():
        command = (
            f"curl -N http://{address[0]}:{address[1]}/v1/chat/completions \\\n"
            "  -H 'Content-Type: application/json' \\\n"
            f'  -d \'{{"model": "{model.name}", "stream": true,\n'
            f'       "messages": [{{"role": "user", "content": "{model.questions[0]}"}}]}}\'\n'
        )
        lines.append(Text(command, style=MODEL_COLOURS[model.name]))
    return Group(*lines)
