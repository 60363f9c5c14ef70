"""Makes the troubles of a plan, one after the other, and writes down what was really done, to whom, and when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter

import httpx

from .box import Box
from .judge import Deed
from .plan import FAULTS, HOOK_PLANS, Trouble

PATIENCE = 90.0
"""How long an order may take that waits for a drain, a sleep and a wake, all troubled, in seconds."""


class Chaos:
    """Carries out a plan."""

    def __init__(self, box: Box, began: float) -> None:
        self.box = box
        self.began = began
        self.deeds: list[Deed] = []
        self.done: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        """Troubles that could be made to nobody: no backend was up."""
        self.wrong: list[str] = []
        self.orders: Counter[str] = Counter()

    async def run(self, troubles: list[Trouble]) -> None:
        """All of them at their times; returns once whatever lasts has been taken back."""
        async with asyncio.TaskGroup() as group, httpx.AsyncClient(base_url=self.box.url, timeout=PATIENCE) as client:
            under_way = []
            for trouble in troubles:
                await asyncio.sleep(max(0.0, self.began + trouble.at - time.monotonic()))
                under_way.append(group.create_task(self._make(trouble, client)))
            if under_way:
                await asyncio.wait(under_way)

    async def _make(self, trouble: Trouble, client: httpx.AsyncClient) -> None:
        name = f"{trouble.kind} {trouble.detail}".strip()
        match trouble.kind:
            case "kill llmux":
                deed = self._deed(trouble.kind, "", "")
                await self.box.kill_llmux()
                deed.ended = time.monotonic()
                done = True
            case "kill":
                done = self._kill(trouble)
            case "fault":
                done = await self._fault(trouble, client)
            case "hook":
                hook, what = trouble.detail.split()
                for one in HOOK_PLANS[what]:
                    (self.box.folder / f"{trouble.models[0]}.{hook}.{one}").touch()
                done = True  # its time begins when a run takes it
            case "reload":
                said = await self.box.reload(trouble.detail, trouble.models[0])
                done = said != "only written down"
                if said in ("failed", "no answer"):
                    self.wrong.append(f"reload ({trouble.detail}): {said}")
            case "cancel":
                done = await self._cancel(client)
            case _:
                done = await self._order(trouble, client)
        (self.done if done else self.skipped)[name] += 1

    def _deed(self, kind: str, model: str, detail: str) -> Deed:
        deed = Deed(kind, model, detail, time.monotonic())
        self.deeds.append(deed)
        return deed

    def _kill(self, trouble: Trouble) -> bool:
        for model in trouble.models:
            pid = self.box.pid_of(model)
            if pid is not None:
                self._deed("kill", model, "")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return True
        return False

    async def _fault(self, trouble: Trouble, client: httpx.AsyncClient) -> bool:
        for model in trouble.models:
            if self.box.pid_of(model) is None:
                continue
            deed = self._deed("fault", model, trouble.detail)
            try:
                await client.post(
                    f"http://127.0.0.1:{self.box.ports[model]}/_script", json=FAULTS[trouble.detail], timeout=5.0
                )
            except httpx.ConnectError:
                self.deeds.remove(deed)  # it is not up after all
                continue
            except httpx.HTTPError:
                pass  # whether it has heard of it is not known
            return True
        return False

    # --- orders ----------------------------------------------------------------------------------------------------

    async def _order(self, trouble: Trouble, client: httpx.AsyncClient) -> bool:
        """An order; one that lasts is taken back, whatever has become of llmux meanwhile."""
        model = trouble.models[0]
        kind = trouble.kind
        if kind == "release":
            path, back = f"/release?refuse={'true' if trouble.detail == 'refuse' else 'false'}", "/resume"
        else:
            path, back = f"/models/{model}/{kind}", f"/models/{model}/un{kind}" if kind in ("pin", "drain") else ""
        deed = self._deed(kind, "" if kind == "release" else model, trouble.detail)
        ordering = asyncio.create_task(self._post(client, path))
        if back:
            await asyncio.sleep(trouble.lasts)
            while not (taken_back := await self._post(client, back)):  # llmux was killed, or is not up
                await self.box.listening.wait()
                await asyncio.sleep(0.1)
            self.orders[f"{back.rsplit('/', 1)[-1]}: {taken_back}"] += 1
            deed.ended = time.monotonic()
        status = await ordering
        self.orders[f"{kind}: {status or 'broken off'}"] += 1
        deed.ended = min(deed.ended, time.monotonic())
        return True

    async def _cancel(self, client: httpx.AsyncClient) -> bool:
        try:
            requests = (await client.get("/admin/v1/requests?limit=1")).json()["requests"]
        except (httpx.HTTPError, ValueError, LookupError):
            return False
        if not requests:
            return False
        deed = self._deed("cancel", requests[0]["model"], "")
        status = await self._post(client, f"/requests/{requests[0]['id']}/cancel")
        deed.ended = time.monotonic()
        self.orders[f"cancel: {status or 'broken off'}"] += 1
        return status == 200

    async def _post(self, client: httpx.AsyncClient, path: str) -> int:
        """The status of an order's answer; 0 if there was none."""
        try:
            response = await client.post(f"/admin/v1{path}")
        except httpx.TimeoutException:
            self.wrong.append(f"POST {path}: no answer within {PATIENCE:.0f} s")
            return 0
        except httpx.HTTPError:
            return 0
        if response.status_code not in (200, 404, 503):
            self.wrong.append(f"POST {path}: {response.status_code} {response.text[:200]}")
        return response.status_code
