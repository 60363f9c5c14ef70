"""Models that are woken when llmux starts, without a request: in their order, as far as there is room.

Pure; part of the core. Nobody is put to sleep for them, and requests come first: while somebody waits for a model that
is not awake, they wait too. On each device one is woken after the other, since many a backend looks how much memory is
free when it starts. One that cannot be woken is reported, and the others go on.
"""

from __future__ import annotations

from llmux.core.ledger import Ledger, Model
from llmux.core.planning import Planner
from llmux.core.settings import CoreSettings
from llmux.core.switching import Switching
from llmux.messages import ModelState, PreloadSkipped
from llmux.policy.base import Blocked

_UNDER_WAY = frozenset({ModelState.WAKING, ModelState.DRAINING, ModelState.SLEEPING})


class Preload:
    """Has the names of those that are still to be woken."""

    def __init__(self, ledger: Ledger, planner: Planner, switching: Switching) -> None:
        self._ledger = ledger
        self._planner = planner
        self._switching = switching
        self.left = list(ledger.settings.preload)

    def reconfigured(self, old: CoreSettings, new: CoreSettings) -> None:
        """The settings are others now: those that joined the list are to be woken too."""
        self.left = [name for name in new.preload if name in self.left or name not in old.preload]

    def carry_on(self, now: float) -> None:
        """Begin what can begin now; it is known who is awake. O(those left, and what plans take)."""
        if self._planner.waiting():
            return
        busy: set[str] = set()
        for switch in self._ledger.switches.values():
            busy.update(switch.placement)
        for model in self._ledger.holding.values():
            if model.state in _UNDER_WAY:
                busy.update(model.placement or ())
        for name in self.left.copy():
            one = self._ledger.models.get(name)
            if one is None or one.leaving or _is_up(one):
                self.left.remove(name)
                continue
            if one.closed:
                continue  # it is woken when operators want it to be used again
            places = set(one.spec.everywhere)
            plan = self._planner.plan(name, avoid=busy)
            in_the_way = () if isinstance(plan, Blocked) else [victim for victim in plan.victims if victim != name]
            if isinstance(plan, Blocked) or in_the_way:
                if not places.isdisjoint(busy) or one.switch is not None or not one.asked:
                    busy |= places  # it is tried again when what is under way there is over
                    continue
                why = f"there is no room without putting {', '.join(in_the_way)} to sleep" if in_the_way else "no room"
                if isinstance(plan, Blocked) and plan.until is not None and one.wake_error:
                    why = one.wake_error
                self._ledger.out.append(PreloadSkipped(name, why))
            else:
                one.preloading = True
                self._switching.begin(plan, now, preload=True)
                busy |= {*plan.devices, *places}
            self.left.remove(name)


def _is_up(model: Model) -> bool:
    return model.state in (ModelState.AWAKE, ModelState.WAKING) or (
        model.switch is not None and model.switch.target is model
    )
