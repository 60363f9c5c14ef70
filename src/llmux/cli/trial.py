"""Runs hooks just as the server would: same shell, folder, environment, deadline and process group.

For the commands that try hooks out. Knows no core: nobody decides anything here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

from llmux.app import scripts
from llmux.config import Config, secret_variables
from llmux.hooks import HookResult, HookRunner, OutputObserver, switch_variables
from llmux.messages import Hook

LINES_PER_SECOND = 10_000
"""At most so many lines of a hook's stream are shown within a second; whoever tries a hook wants to see all of it."""

HELD_SECS = 2.0
"""How long after the end of a hook somebody may still have its output, in seconds, before that is worth a word."""


def devices_of(config: Config, model: str) -> list[str]:
    """The devices that the model would be given if all of them were free; none where none are declared."""
    placements = config.placements(model)
    return list(placements[0]) if placements else []


class Trial:
    """Runs hooks of a configuration on the running loop. `on_output` gets what they print."""

    def __init__(self, config: Config, on_output: OutputObserver | None = None) -> None:
        self._config = config
        self._scripts = scripts(config)
        self._runner = HookRunner(
            on_output=on_output, lines_per_second=LINES_PER_SECOND, withheld=secret_variables(config)
        )
        self._started = 0

    async def run(self, model: str, hook: Hook, devices: Sequence[str] = ()) -> HookResult:
        """Run a hook to its end."""
        self._started += 1
        number = self._started
        ended: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()
        self._runner.start(
            number,
            model,
            hook,
            self._scripts[model, hook],
            timeout=self._config.hook_timeout(model, hook),
            variables=switch_variables(
                self._config.models[model].port,
                model if hook in (Hook.SLEEP, Hook.VERIFY) else None,
                model if hook is Hook.WAKE else None,
                devices,
            ),
            on_end=lambda _, result: ended.set_result(result),
        )
        return await ended

    async def close(self) -> bool:
        """Stop reading what hooks left behind. Whether somebody still holds their output, and will get SIGPIPE."""
        patience = asyncio.get_running_loop().time() + HELD_SECS
        # Asked again and again, since the runner tells nobody when the last of them is gone.
        while self._runner.background and asyncio.get_running_loop().time() < patience:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        held = self._runner.background > 0
        await self._runner.wait_closed()
        return held

    def cancel(self) -> None:
        """End all hooks by force, as at their deadline: their runs end with that."""
        for number in range(1, self._started + 1):
            self._runner.cancel(number)

    def kill(self) -> None:
        """End all hooks at once."""
        self._runner.kill_all()


def on_interrupt(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Have the first Ctrl-C (or SIGTERM) call `first`, and every further one `second`, on the running loop."""
    loop = asyncio.get_running_loop()
    times = 0

    def interrupted() -> None:
        nonlocal times
        times += 1
        (first if times == 1 else second)()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)


def found_by_shell(word: str, cwd: str | os.PathLike[str] | None) -> bool:
    """Whether the shell that runs hooks knows a command of that name. Runs nothing."""
    import subprocess

    from llmux.hooks.process import SHELL

    command = [SHELL, "-c", 'command -v -- "$1" >/dev/null', "sh", word]
    return subprocess.run(command, cwd=cwd, check=False, stdin=subprocess.DEVNULL).returncode == 0


def syntax_fault(script: str) -> str:
    """What the shell that runs hooks finds wrong with the syntax of a script; empty if nothing. Runs nothing."""
    import subprocess

    from llmux.hooks.process import SHELL

    command = [SHELL, "-n", "-c", script]
    run = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or ["it cannot be parsed"])[0]
