"""Clients and operators: they come, wait, lose patience, and give orders at bad moments."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from llmux.driver import Driver
from llmux.errors import LlmuxError, SwitchError
from llmux.messages import Failure
from tests.simulation.machine import Machine

TAKEN_BACK = {"release": "resume", "drain": "undrain", "pin": "unpin"}
"""Orders that stand until they are taken back, and by what."""


class Client:
    """One request, from its arrival to whatever becomes of it; implements `llmux.ports.Requester`."""

    def __init__(self, people: People, model: str) -> None:
        self.people = people
        self.model = model
        self.request_id: int | None = None
        self.state = "waiting"
        self.end: asyncio.TimerHandle | None = None

    # --- what the driver says --------------------------------------------------------------------------------------

    def granted(self, waited: float, switched: bool) -> None:
        self._told("granted")
        self.state = "served"
        self.people.served(self)

    def refused(self, error: LlmuxError, switched: bool = False) -> None:
        self._told("refused")
        self.people.over(self)

    def aborted(self, error: LlmuxError) -> None:
        if self.state != "served":
            self.people.broken(f"{self} is aborted while it is {self.state}")
            return
        self.state = "aborted"
        # The gateway may have to tell the client first; until then the backend is still busy with it.
        self.people.loop.call_soon(self.finish)

    def _told(self, what: str) -> None:
        if self.state != "waiting":
            self.people.broken(f"{self} is {what} while it is {self.state}")

    # --- what it does ------------------------------------------------------------------------------------------------

    def arrive(self) -> None:
        self.request_id = self.people.driver.arrived(self.model, self)

    def finish(self) -> None:
        """Its last byte was sent, or it went away while it was served."""
        if self.state in ("served", "aborted") and self.request_id is not None:
            self.people.over(self)
            self.people.driver.finished(self.request_id)

    def leave(self) -> None:
        """It went away, in whatever state."""
        if self.state != "over":
            self.people.machine.faults["client leaves"] += 1
        if self.state == "waiting" and self.request_id is not None:
            self.people.over(self)
            self.people.driver.left(self.request_id)
        else:
            self.finish()

    def break_off(self) -> None:
        """Its backend refused it, or died under it."""
        if self.state in ("served", "aborted"):
            early = self.people.random.random() < 0.5
            if early:
                self.finish()
            self.people.driver.backend_failed(self.model, Failure.LOST, 1)
            if not early:
                self.finish()

    def __repr__(self) -> str:
        return f"request {self.request_id} for {self.model}"


class People:
    """Everybody. `rates` are requests per second by model; `endless` is the share of streams that end only by force."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        driver: Driver,
        machine: Machine,
        *,
        rates: Sequence[tuple[str, float]],
        service: float,
        endless: float,
        note: Callable[[str], None],
        broken: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.random = rng
        self.driver = driver
        self.machine = machine
        self.note = note
        self.broken = broken
        self.present: dict[Client, None] = {}
        self.asked = 0
        self.orders: set[asyncio.Task[None]] = set()
        self._rates = rates
        self._service = service
        self._endless = endless
        machine.on_crash = self._crashed
        machine.on_sleep = self._sleep_begins

    # --- clients -----------------------------------------------------------------------------------------------------

    def come(self, model: str) -> None:
        """A request arrives; one in five will not wait for ever, or not stay to the end."""
        self.asked += 1
        client = Client(self, model)
        self.present[client] = None
        client.arrive()
        if client.state in ("waiting", "served") and self.random.random() < 0.2:
            self.loop.call_later(self.random.choice([0.0, self.random.uniform(0.0, 40.0)]), client.leave)

    async def keep_coming(self) -> None:
        """Until cancelled: one by one, and now and then a crowd."""
        models, rates = zip(*self._rates, strict=True)
        while True:
            await asyncio.sleep(self.random.expovariate(sum(rates)))
            model = self.random.choices(models, rates)[0]
            for _ in range(self.random.choice([1] * 20 + [30])):
                self.come(model)

    def served(self, client: Client) -> None:
        if client.model in self.machine.up:
            if self.random.random() >= self._endless:
                client.end = self.loop.call_later(self.random.expovariate(1 / self._service), client.finish)
            return
        if client.model not in self.machine.crashed and not self.machine.natures[client.model].always_alive:
            self.broken(f"{client} is forwarded to a model that is not awake")
        client.end = self.loop.call_later(self.random.uniform(0.0, 0.05), client.break_off)

    def over(self, client: Client) -> None:
        client.state = "over"
        if client.end is not None:
            client.end.cancel()
        self.present.pop(client, None)

    def _crashed(self, model: str) -> None:
        for client in list(self.present):
            if client.model == model and client.state == "served":
                if client.end is not None:
                    client.end.cancel()
                client.end = self.loop.call_later(self.random.uniform(0.0, 0.1), client.break_off)

    def _sleep_begins(self, model: str) -> None:
        served = [client for client in self.present if client.model == model and client.state == "served"]
        if served and model in self.machine.up and self.machine.settings.drain_before_switch:
            self.broken(f"the sleep hook of {model} runs while it serves {served[:3]}")

    @property
    def left(self) -> int:
        """How many requests and orders are not answered yet."""
        return len(self.present) + len(self.orders)

    def go_home(self) -> None:
        """Those whose streams would never end go away."""
        for client in list(self.present):
            if client.state == "served" and client.end is None:
                client.leave()

    # --- operators ---------------------------------------------------------------------------------------------

    async def keep_ordering(self, every: float) -> None:
        """Until cancelled: orders, some of them taken back while they are carried out."""
        while True:
            await asyncio.sleep(self.random.expovariate(1 / every))
            model = self.random.choice(self._rates)[0]
            kind = self.random.choice(["switch", "switch", "sleep", "free", "drain", "pin", "release"])
            if kind == "free" and model in self.machine.held:
                continue  # operators do not lie
            task = self._give(kind, model)
            if kind in TAKEN_BACK and self.random.random() < 0.8:  # the others stand to the end of the trouble
                self.loop.call_later(self.random.uniform(0.0, 60.0), self._give, TAKEN_BACK[kind], model)
            if self.random.random() < 0.2:
                self.loop.call_later(self.random.uniform(0.0, 10.0), task.cancel)

    def _give(self, kind: str, model: str) -> asyncio.Task[None]:
        self.note(f"an operator orders: {kind} {model}")
        self.machine.faults["operator's order"] += 1
        task = self.loop.create_task(self._order(kind, model))
        self.orders.add(task)
        task.add_done_callback(self.orders.discard)
        return task

    def take_all_back(self) -> None:
        """No order stands any more: nobody waits because an operator wants it so."""
        standing = self.driver.standing()
        if standing.released is not None:
            self._give("resume", "")
        for model in standing.drained:
            self._give("undrain", model)
        for model, pin in standing.pins.items():
            self._give("unpin" if pin.pinned else "pin", model)

    async def _order(self, kind: str, model: str) -> None:
        try:
            if kind == "release":
                await self.driver.release(refuse=self.random.random() < 0.3)
            elif kind == "resume":
                await self.driver.resume()
            else:
                await getattr(self.driver, kind)(model)
        except SwitchError as error:
            self.note(f"the operator is told: {error}")
