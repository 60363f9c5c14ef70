"""Runs hooks: one ``sh -c`` each, with a deadline, judged by the exit of that shell alone.

Works on the running event loop and never blocks it. Builds the environment that a hook gets, and shows it to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from llmux.hooks.orphans import LEADER_VARIABLE, RUN_ID_VARIABLE, Orphan, end_orphans, mark
from llmux.hooks.output import OutputObserver, printable
from llmux.hooks.process import seal_descriptors, shell_command, spawn
from llmux.hooks.proxies import exempt
from llmux.hooks.reported import BACKEND_VARIABLE, BackendFile, BackendFolder
from llmux.hooks.run import HookResult, Limits, Run
from llmux.hooks.starting import RETRY_SECONDS, Reserve, scarce
from llmux.messages import Hook, Outcome

OnEnd = Callable[[int, HookResult], None]


def switch_variables(
    port: int | None, from_model: str | None, to_model: str | None, devices: Sequence[str]
) -> dict[str, str]:
    """What a hook is told of its backend's port, the switch that it is part of and the devices that its model has."""
    return {
        "LLMUX_PORT": "" if port is None else str(port),
        "LLMUX_FROM": from_model or "",
        "LLMUX_TO": to_model or "",
        "LLMUX_DEVICES": ",".join(devices),
    }


@dataclass(frozen=True, slots=True)
class HookSpec:
    """One script of one model. `cwd` is the directory it runs in (llmux's own if None); `env` is added to llmux's
    environment, and is never shown."""

    script: str
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Waiting:
    """A hook for which there was no room in the system; `over` takes its result if it is never to start."""

    def __init__(self, timer: asyncio.TimerHandle, over: Callable[[HookResult], None]) -> None:
        self._timer: asyncio.TimerHandle | None = timer
        self._over = over

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            result = HookResult(Outcome.CANCELLED, 0.0, detail="cancelled before it could be started")
            asyncio.get_running_loop().call_soon(self._over, result)

    kill = cancel


class HookRunner:
    """Starts and ends hooks. All methods must be called on the event loop's thread.

    Making one also makes the descriptors of this process close-on-exec, its standard streams apart.

    Args:
        grace: seconds between SIGTERM and SIGKILL for a hook that is ended by force.
        tail_bytes: how much of a hook's output its result keeps, in bytes.
        on_output: gets what hooks print, line by line, also from daemons that they leave behind. It should not raise;
            what it raises goes to the loop's exception handler.
        lines_per_second: at most so many lines of one stream of one run reach `on_output`; how many were left out is
            told in a line of its own.
        on_held: told the model and the hook where a hook has succeeded, and somebody whom it left behind still holds
            its output `held_after` seconds later: they get SIGPIPE once llmux is no longer there to read.
        on_scarce: told the model, the hook and why where a hook could not be started for want of descriptors, processes
            or memory: once for each run, which is tried again until it can be, or is cancelled.
        retry_after: so many seconds later.
        withheld: variables of llmux's own environment that hooks do not get.
        owner: whose hooks these are, without a full stop: what an earlier process of the same owner has left running,
            `end_orphans` ends. Empty: nobody's.
    """

    def __init__(
        self,
        *,
        grace: float = 5.0,
        tail_bytes: int = 64 * 1024,
        on_output: OutputObserver | None = None,
        lines_per_second: int = 100,
        on_held: Callable[[str, Hook], None] | None = None,
        held_after: float = 2.0,
        on_scarce: Callable[[str, Hook, str], None] | None = None,
        retry_after: float = RETRY_SECONDS,
        withheld: Set[str] = frozenset(),
        owner: str = "",
    ) -> None:
        self._grace = grace
        self._tail_bytes = tail_bytes
        self._on_output = on_output
        self._lines_per_second = lines_per_second
        self._on_held = on_held
        self._held_after = held_after
        self._on_scarce = on_scarce
        self._retry_after = retry_after
        self._withheld = withheld
        self._owner = owner
        self._token = secrets.token_hex(8)
        self._doubted: dict[str, str] = {}  # models whose alive hook is not asked the next time, and why
        self._running: dict[int, Run | _Waiting | None] = {}  # None: its end is about to be reported
        self._background: set[Run] = set()
        self._backend_folder = BackendFolder()
        self._backend_files: dict[int, BackendFile | OSError] = {}  # by run of a wake hook; or why there can be none
        self._killed = False
        self._reserve = Reserve()
        self._idle = asyncio.Event()
        self._idle.set()
        seal_descriptors()

    async def end_orphans(self) -> tuple[Orphan, ...]:
        """End the wake and sleep hooks that an earlier process of this owner has left running. Nobody knows what they
        have done, so the next run of the alive hook of each of their models ends with `Outcome.ERROR`, unasked. To be
        called before any hook is started."""
        if not self._owner:
            return ()
        self._token = await asyncio.to_thread(mark, self._owner) + self._token
        orphans = await asyncio.to_thread(end_orphans, self._owner, self._grace)
        for orphan in orphans:
            self._doubted[orphan.model] = f"not asked: a {orphan.hook} hook of an earlier llmux was still running"
        return orphans

    def withhold(self, withheld: Set[str]) -> None:
        """Keep these variables, and no others, from the hooks that are started from now on."""
        self._withheld = withheld

    @property
    def running(self) -> int:
        """Number of hooks whose end was not reported yet."""
        return len(self._running)

    @property
    def background(self) -> int:
        """Number of hooks that are over, but left somebody behind who still holds their output."""
        return len(self._background)

    def start(
        self,
        run_id: int,
        model: str,
        hook: Hook,
        spec: HookSpec,
        *,
        timeout: float | None,
        variables: Mapping[str, str],
        on_end: OnEnd,
    ) -> None:
        """Start a hook; `on_end(run_id, result)` is called once, from the loop, after this has returned.

        Its environment is llmux's own, then `spec.env`, then `variables`, then ``LLMUX_MODEL``, ``LLMUX_HOOK`` and
        `RUN_ID_VARIABLE`, and for a wake hook `BACKEND_VARIABLE`; where a proxy is set, this machine is exempt from it
        (`llmux.hooks.proxies`). After `timeout` seconds (None: never) it is ended by force. Does not raise: a hook that
        cannot be started ends with `Outcome.ERROR`; one for which there is no room in the system now begins later, and
        only then does its time. A wake hook that has succeeded and tells no good address of its backend has failed.
        """
        self._start(run_id, model, hook, spec, timeout, variables, on_end)

    def _start(
        self,
        run_id: int,
        model: str,
        hook: Hook,
        spec: HookSpec,
        timeout: float | None,
        variables: Mapping[str, str],
        on_end: OnEnd,
        *,
        again: bool = False,
    ) -> None:
        began = time.monotonic()
        marker = f"{self._token}-{run_id}"
        self._running[run_id] = None
        self._idle.clear()
        if self._killed:
            result = HookResult(Outcome.CANCELLED, 0.0, detail="llmux is ending")
            asyncio.get_running_loop().call_soon(self._over, run_id, on_end, model, hook, result)
            return
        if hook is Hook.ALIVE and model in self._doubted:
            result = HookResult(Outcome.ERROR, 0.0, detail=self._doubted.pop(model))
            asyncio.get_running_loop().call_soon(self._over, run_id, on_end, model, hook, result)
            return
        try:
            inherited = {name: value for name, value in os.environ.items() if name not in self._withheld}
            environment = {**inherited, **spec.env, **variables}
            environment |= exempt(environment)
            environment |= {"LLMUX_MODEL": model, "LLMUX_HOOK": hook.value, RUN_ID_VARIABLE: marker}
            environment[LEADER_VARIABLE] = "0"
            environment.pop(BACKEND_VARIABLE, None)  # of a llmux that was started by a hook
            if hook is Hook.WAKE:
                environment[BACKEND_VARIABLE] = self._backend_file(run_id)
            pid, stdout, stderr = self._spawn(shell_command(spec.script, spec.cwd), environment)
        except Exception as error:  # whatever it was, the hook did not run, and its model's waiters must hear of it
            if scarce(error):
                retry = partial(self._start, run_id, model, hook, spec, timeout, variables, on_end, again=True)
                timer = asyncio.get_running_loop().call_later(self._retry_after, retry)
                self._running[run_id] = _Waiting(timer, partial(self._over, run_id, on_end, model, hook))
                if not again and self._on_scarce is not None:
                    self._on_scarce(model, hook, str(error))
                return
            result = HookResult(Outcome.ERROR, time.monotonic() - began, detail=f"could not be started: {error}")
            asyncio.get_running_loop().call_soon(self._over, run_id, on_end, model, hook, result)
            return
        run = self._running[run_id] = Run(
            pid,
            stdout,
            stderr,
            marker=f"{RUN_ID_VARIABLE}={marker}",
            began=began,
            limits=Limits(timeout, self._grace, self._tail_bytes, self._lines_per_second),
            on_line=partial(self._show, self._on_output, model, hook) if self._on_output is not None else None,
            on_over=partial(self._over, run_id, on_end, model, hook),
            on_free=lambda: self._free(run),
        )
        self._reserve.fill()

    def _spawn(self, command: str, environment: Mapping[str, str]) -> tuple[int, int, int]:
        try:
            return spawn(command, environment)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._reserve.give():
                raise
        try:
            return spawn(command, environment)
        except OSError:
            self._reserve.fill()
            raise

    def cancel(self, run_id: int) -> None:
        """End a hook by force: SIGTERM to its group, SIGKILL after the grace. It ends with `Outcome.CANCELLED`, or as
        it did if it has exited already. Nothing happens to a run that is over or already being ended."""
        if run := self._running.get(run_id):
            run.cancel()

    def kill_all(self) -> None:
        """SIGKILL the groups of all running hooks, before this returns. Their ends follow as after `cancel`; no hook is
        started any more, whoever asks for it: it ends with `Outcome.CANCELLED`, too."""
        self._killed = True
        for run in self._running.values():
            if run is not None:
                run.kill()

    async def wait_closed(self) -> None:
        """Wait until no hook runs, then stop reading what daemons of earlier hooks print. One that still writes to a
        hook's output gets SIGPIPE from now on, as it would when llmux exits."""
        await self._idle.wait()
        for run in self._background:
            run.close()
        self._background.clear()
        with contextlib.suppress(RuntimeError):  # no threads to be had: it stays
            await asyncio.to_thread(self._backend_folder.remove)
        self._reserve.give()

    def _backend_file(self, run_id: int) -> str:
        """The path of a file for the backend's address; empty if there can be none, which most hooks will not mind."""
        try:
            file = self._backend_files[run_id] = self._backend_folder.file(str(run_id))
        except OSError as error:
            self._backend_files[run_id] = error
            return ""
        return file.path

    def _judge(self, file: BackendFile | OSError, model: str, hook: Hook, result: HookResult) -> HookResult:
        """What becomes of a result when the hook may have said where its backend is."""
        if isinstance(file, OSError):
            if result.outcome is not Outcome.FAILED:
                return result
            # Maybe for that reason: a shell only says that it cannot create a file without a name.
            why = f"{BACKEND_VARIABLE} was empty, as nothing can be made in TMPDIR: {file.strerror}"
            return replace(result, detail=f"{result.detail}; {why}")
        if not file.exists():
            return result
        try:
            return replace(result, backend=file.read()) if result.outcome is Outcome.OK else result
        except ValueError as error:
            why = printable(f"{BACKEND_VARIABLE}: {error}")
            if self._on_output is not None:
                self._show(self._on_output, model, hook, why)
            return replace(
                result,
                outcome=Outcome.FAILED,
                detail=f"it has put something into {BACKEND_VARIABLE} that is no url of a backend",
                output=f"{result.output}{why}\n",
                stderr=f"{result.stderr}{why}\n",
            )
        finally:
            with contextlib.suppress(RuntimeError):  # no threads to be had: it stays until the folder goes
                asyncio.get_running_loop().run_in_executor(None, file.remove)

    def _over(self, run_id: int, on_end: OnEnd, model: str, hook: Hook, result: HookResult) -> None:
        file = self._backend_files.pop(run_id, None)
        if file is not None:
            result = self._judge(file, model, hook, result)
        run = self._running.pop(run_id)
        if not self._running:
            self._idle.set()
        self._reserve.fill()
        if isinstance(run, Run) and run.busy:
            self._background.add(run)
            if result.outcome is Outcome.OK:
                asyncio.get_running_loop().call_later(self._held_after, self._tell_held, run, model, hook)
        on_end(run_id, result)

    def _tell_held(self, run: Run, model: str, hook: Hook) -> None:
        if run in self._background and self._on_held is not None:
            self._on_held(model, hook)

    def _free(self, run: Run) -> None:
        if not run.busy:
            self._background.discard(run)

    @staticmethod
    def _show(observer: OutputObserver, model: str, hook: Hook, line: str) -> None:
        try:
            observer(model, hook, line)
        except Exception as error:  # an observer's fault must not stop the reading
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the observer of hook output failed", "exception": error}
            )
