"""What survives a restart, by the configuration: what switches cost, the orders of operators that stand, and which
models may hold memory. Nothing does without a ``state_dir``.

Reads it at the start, and says when it is written. The files are `llmux.state`'s, and are waited for in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from llmux.config import Config
from llmux.costs import Learned
from llmux.snapshot import Standing
from llmux.state import CostStore, FolderLock, OrderStore, OwnerStore

if TYPE_CHECKING:
    from llmux.driver import Driver

#: How often what was learned is saved, in seconds; and at the end.
SAVE_SECS = 30.0

#: How much later it is saved who may hold memory, in seconds: what changes in a switch comes together, and the disk
#: does not delay the hook that was just started.
OWNERS_LATER_SECS = 0.02

#: How long the disk may take at the end, in seconds, before llmux ends all the same.
SAVE_PATIENCE_SECS = 5.0


class Remembering:
    """What a configuration wants remembered. Making it reads files.

    Attributes:
        learned: what switches have cost.
    """

    def __init__(self, config: Config) -> None:
        folder = config.state_path
        self.learned = Learned()
        self._models = frozenset(config.models)
        self._standing = Standing()
        self._kept: tuple[FolderLock, CostStore, OrderStore, OwnerStore] | None = None
        self._standing_changed = asyncio.Event()
        self._owners_changed = asyncio.Event()
        self._begun = False
        if folder is not None:
            costs, orders = CostStore(folder), OrderStore(folder)
            self._kept = FolderLock(folder), costs, orders, OwnerStore(folder, config.path)
            self.learned = costs.load(self._models)
            self._standing = orders.load()

    @property
    def lasting(self) -> bool:
        """Whether the next llmux will know anything."""
        return self._kept is not None

    def standing_changed(self) -> None:
        """An operator's order stands, or does not any more."""
        self._standing_changed.set()

    def owners_changed(self) -> None:
        """Other models may hold memory, or more is known of them."""
        self._owners_changed.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep the folder for this llmux.

        Raises:
            OSError: another one has it, or it cannot be used.
        """
        if self._kept is None:
            yield
            return
        lock = self._kept[0]
        await asyncio.to_thread(lock.acquire)
        try:
            yield
        finally:
            await asyncio.to_thread(lock.release)

    async def recall(self, driver: Driver) -> None:
        """Tell `driver` what it must know before anybody can ask for a model. To be called while `alone`: an earlier
        llmux may have written to its end."""
        if self._kept is None:
            return
        owners = self._kept[3]
        driver.restore(self._standing)
        driver.recall(await asyncio.to_thread(owners.load, self._models))
        self._begun = True

    @contextlib.asynccontextmanager
    async def saving(self, driver: Driver) -> AsyncIterator[None]:
        """Save what `driver` learns and is told, now and then or when it changes, and at the end."""
        if self._kept is None:
            yield
            return
        _, costs, orders, owners = self._kept

        async def now_and_then() -> None:
            while True:
                await asyncio.sleep(SAVE_SECS)
                await asyncio.to_thread(costs.save, driver.core.costs.learned())
                if self._begun:
                    await asyncio.to_thread(owners.save, driver.owners())  # again, if the disk was full
                if orders.failing:
                    await asyncio.to_thread(orders.save, driver.standing())

        tasks = [
            asyncio.create_task(one)
            for one in (
                now_and_then(),
                _at_each(self._standing_changed, lambda: asyncio.to_thread(orders.save, driver.standing())),
                _at_each(
                    self._owners_changed,
                    lambda: asyncio.to_thread(owners.save, driver.owners()),
                    later=OWNERS_LATER_SECS,
                ),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):  # a disk that hangs does not keep llmux from ending
                async with asyncio.timeout(SAVE_PATIENCE_SECS):
                    if self._begun:  # not otherwise, as with the orders: a start that failed knows nothing yet
                        await asyncio.to_thread(owners.save, driver.owners())
                    await asyncio.to_thread(costs.save, driver.core.costs.learned())
                    if orders.failing or self._standing_changed.is_set():
                        await asyncio.to_thread(orders.save, driver.standing())


async def _at_each(changed: asyncio.Event, save: Callable[[], Coroutine[Any, Any, None]], later: float = 0.0) -> None:
    while True:
        await changed.wait()
        await asyncio.sleep(later)
        changed.clear()
        await save()
