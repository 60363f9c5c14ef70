"""What the decision core hears and says: events in, effects out, and the words both use.

Pure data. May import nothing of llmux, touches no clock and no I/O. All of it is frozen and can be written to a log
and read back bit for bit (`EVENT_DECODER`, `EFFECT_DECODER`): a recorded log replayed through the core gives the same
effects.

These are `msgspec.Struct`s rather than dataclasses: making one takes 0.08 µs where a frozen slotted dataclass takes
0.7 µs (3.11, measured), three of them are made for every request, and encoding them is part of the type.

Times are float seconds on one monotonic clock, chosen by the driver. Memory is in bytes. Request ids, switch ids, hook
run ids and operator ids are integers that never repeat within a run.
"""

from __future__ import annotations

import enum

import msgspec


class ModelState(enum.StrEnum):
    """Where a model is. `llmux.core.lifecycle` has the table of legal steps.

    UNCONFIRMED means: not serving, but it may hold its memory (it answered its alive hook when llmux started, or it
    was found dead while awake). Its own wake is allowed; anyone else who needs that memory must see its sleep hook
    succeed first. LOST means: its sleep failed and its alive hook does not vouch for it either.
    """

    ASLEEP = "asleep"
    WAKING = "waking"
    AWAKE = "awake"
    DRAINING = "draining"
    SLEEPING = "sleeping"
    UNCONFIRMED = "unconfirmed"
    LOST = "lost"


class Hook(enum.StrEnum):
    """What llmux runs to change a model or to learn about it.

    CANARY is the one that is no script of the operator's: a small request that the model's backend must answer. It has
    a deadline, can be cancelled and ends like the others.
    """

    WAKE = "wake"
    SLEEP = "sleep"
    ALIVE = "alive"
    VERIFY = "verify"
    CANARY = "canary"


#: The hooks that are scripts.
SCRIPTS = (Hook.WAKE, Hook.SLEEP, Hook.ALIVE, Hook.VERIFY)


class Outcome(enum.StrEnum):
    """How a hook run ended: OK is exit 0; CANCELLED is llmux's own doing; ERROR is that it could not be started."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ERROR = "error"


class Failure(enum.StrEnum):
    """How a backend failed a request: REFUSED is that nobody listens where it should be; LOST that the connection could
    not be made otherwise, or ended too early; ANSWER that it answered with a server's error, or not in time."""

    REFUSED = "refused"
    LOST = "lost"
    ANSWER = "answer"


class OnExit(enum.StrEnum):
    """What becomes of awake models when llmux stops."""

    LEAVE = "leave"
    SLEEP = "sleep"


class Message(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag=True):
    """Base of events and effects."""


#: A shell's exit codes for "cannot be executed" and "not found" (POSIX sh, 2.8.2): such a hook said nothing at all.
NOT_EXECUTED = frozenset({126, 127})


# --- events: what happened --------------------------------------------------------------------------------------


class Start(Message, frozen=True, gc=False, tag=True, omit_defaults=True):
    """The server listens. Asks every model's alive hook who is awake already. `past` has what was known, when an
    earlier llmux ended, of the models that may hold memory since: of those, a no is no proof."""

    past: dict[str, ModelState] = {}


class Arrived(Message, frozen=True, gc=False, tag=True):
    """A whole request for `model` (a configured name, never an alias) wants to be forwarded. `level` is 1 where it asks
    to go before others, and -1 where it lets them."""

    request_id: int
    model: str
    level: int = 0


class Left(Message, frozen=True, gc=False, tag=True):
    """The client of a request that was not yet granted is gone, or gave up. Ignored when the request has ended."""

    request_id: int


class Finished(Message, frozen=True, gc=False, tag=True):
    """A granted request is over: its last byte left, it failed, or its client went away."""

    request_id: int


class HookEnded(Message, frozen=True, gc=False, tag=True):
    """A hook run that `RunHook` asked for is over, `duration` seconds after it began."""

    run_id: int
    outcome: Outcome
    duration: float
    exit_code: int | None = None
    detail: str = ""


class TimerFired(Message, frozen=True, gc=False, tag=True):
    """The time that `SetTimer` named has come."""

    key: str


class BackendFailed(Message, frozen=True, gc=False, tag=True):
    """The backend of `model` failed a request, the last of `in_a_row`: none between them was answered well."""

    model: str
    failure: Failure = Failure.LOST
    in_a_row: int = 1


class OperatorSwitch(Message, frozen=True, gc=False, tag=True):
    """An operator wants `model` awake, whether or not anybody waits for it. Answered by `OperatorReply`."""

    operator_id: int
    model: str


class OperatorSleep(Message, frozen=True, gc=False, tag=True):
    """An operator wants `model` asleep. Answered by `OperatorReply`."""

    operator_id: int
    model: str


class OperatorFree(Message, frozen=True, gc=False, tag=True):
    """An operator vouches that `model` (lost or unconfirmed) holds no memory. Answered by `OperatorReply`."""

    operator_id: int
    model: str


class OperatorCheck(Message, frozen=True, gc=False, tag=True):
    """An operator wants a lost `model` looked at now. `OperatorReply` tells whether it is still lost after that."""

    operator_id: int
    model: str


class OperatorRelease(Message, frozen=True, gc=False, tag=True):
    """An operator wants the devices for something else: everything is put to sleep, and nothing is woken until
    `OperatorResume`. Until then requests are held, or, with `refuse`, refused. Answered by `OperatorReply`, about no
    model, once everything sleeps or could not be put to sleep."""

    operator_id: int
    refuse: bool = False


class OperatorResume(Message, frozen=True, gc=False, tag=True):
    """An operator gives the devices back. Answered by `OperatorReply`, about no model."""

    operator_id: int


class OperatorDrain(Message, frozen=True, gc=False, tag=True):
    """An operator wants `model` to finish what it has in flight and sleep, and not be woken until `OperatorUndrain`;
    requests for it are held. Answered by `OperatorReply` once it sleeps, or could not be put to sleep."""

    operator_id: int
    model: str


class OperatorUndrain(Message, frozen=True, gc=False, tag=True):
    """An operator lets `model` be given requests again. Answered by `OperatorReply`."""

    operator_id: int
    model: str


class OperatorPin(Message, frozen=True, gc=False, tag=True):
    """An operator wants `model` never to be put to sleep for another. Answered by `OperatorReply`."""

    operator_id: int
    model: str


class OperatorUnpin(Message, frozen=True, gc=False, tag=True):
    """An operator lets `model` be put to sleep for others again. Answered by `OperatorReply`."""

    operator_id: int
    model: str


class Stop(Message, frozen=True, gc=False, tag=True):
    """Take nothing new on, let what is in flight end within `grace` seconds, then `Stopped`. Sleep hooks that are to
    run after that have `sleep_within` seconds, all of them together; None: their own deadlines."""

    grace: float
    on_exit: OnExit
    sleep_within: float | None = None


Event = (
    Start
    | Arrived
    | Left
    | Finished
    | HookEnded
    | TimerFired
    | BackendFailed
    | OperatorSwitch
    | OperatorSleep
    | OperatorFree
    | OperatorCheck
    | OperatorRelease
    | OperatorResume
    | OperatorDrain
    | OperatorUndrain
    | OperatorPin
    | OperatorUnpin
    | Stop
)


# --- effects: what must be done ---------------------------------------------------------------------------------


class Refusal(enum.StrEnum):
    """Why a request or a command is refused; each is the `code` of an error in `llmux.errors`."""

    MODEL_NOT_FOUND = "model_not_found"
    NOT_READY = "model_not_ready"
    WAIT_TIMEOUT = "queue_timeout"
    HOOK_FAILED = "hook_failed"
    BACKOFF = "model_backoff"
    DEVICE_LOST = "device_lost"
    QUEUE_FULL = "queue_full"
    RELEASED = "released"
    DRAINED = "model_drained"
    SHUTTING_DOWN = "shutting_down"


class Grant(Message, frozen=True, gc=False, tag=True):
    """Forward the request now. It counts as in flight until `Finished`. `waited` seconds passed since it arrived;
    `switched` says whether its model was asleep when it came; else it waited, if at all, for a place in it."""

    request_id: int
    model: str
    waited: float
    switched: bool


class Reject(Message, frozen=True, gc=False, tag=True):
    """The request is over without having been forwarded. `retry_after` in seconds, where trying again helps.
    `switched` says whether it has waited for a switch to its model, which failed or is still under way."""

    request_id: int
    model: str
    reason: Refusal
    detail: str
    waited: float
    retry_after: float | None = None
    switched: bool = False


class RunHook(Message, frozen=True, gc=False, tag=True):
    """Start a hook of `model` (or send its canary). `timeout` seconds, then it is ended by force (None: never).
    `devices` are the names of the devices the model was given. `from_model` and `to_model` name the switch that it is
    part of."""

    run_id: int
    model: str
    hook: Hook
    timeout: float | None
    devices: tuple[str, ...] = ()
    from_model: str | None = None
    to_model: str | None = None


class CancelHook(Message, frozen=True, gc=False, tag=True):
    """End a hook run by force; `HookEnded` still follows."""

    run_id: int


class CloseBackend(Message, frozen=True, gc=False, tag=True):
    """Close the idle pooled connections to the backend of `model`, and pool none until its next grant."""

    model: str


class AbortRequests(Message, frozen=True, gc=False, tag=True):
    """End these granted requests now, with an error where the client can still be told. `Finished` follows for each."""

    model: str
    request_ids: tuple[int, ...]
    reason: str


class SetTimer(Message, frozen=True, gc=False, tag=True):
    """Deliver `TimerFired(key)` at time `at`. Replaces an earlier timer of the same key."""

    key: str
    at: float


class CancelTimer(Message, frozen=True, gc=False, tag=True):
    key: str


class OperatorReply(Message, frozen=True, gc=False, tag=True):
    """An operator's command is done (`reason` None) or cannot be. `model` is empty where it was about none."""

    operator_id: int
    model: str
    reason: Refusal | None
    detail: str = ""
    retry_after: float | None = None


class Stopped(Message, frozen=True, gc=False, tag=True):
    """Nothing is in flight, no hook runs: the process may end."""


# Facts: things that happened inside the core and that telemetry tells about. They ask for nothing to be done.


class StateChanged(Message, frozen=True, gc=False, tag=True):
    """A model went from one state to another; `cause` says why in a few words."""

    model: str
    old: ModelState
    new: ModelState
    cause: str


class SwitchStarted(Message, frozen=True, gc=False, tag=True):
    """`from_model` is None for a cold start. `victims` are all models put to sleep for it. `cause` says who wanted it:
    ``demand`` (requests that wait), ``operator``, or ``preload`` (the configuration, at the start)."""

    switch_id: int
    from_model: str | None
    to_model: str
    victims: tuple[str, ...]
    devices: tuple[str, ...]
    cause: str = "demand"


class SwitchDrained(Message, frozen=True, gc=False, tag=True):
    """The victims' in-flight requests are done (or were cut: `aborted` of them), after `duration` seconds."""

    switch_id: int
    from_model: str
    to_model: str
    duration: float
    aborted: int


class SwitchEnded(Message, frozen=True, gc=False, tag=True):
    """A switch is over. `duration` is the wall time of drain + sleep + wake; `sleep` and `wake` are the hooks' own,
    in seconds; `cost` is the moving average for this ordered pair, None unless it succeeded. `result` is
    ``success``, ``failure`` or ``cancelled`` (nobody wanted it any more before anything was put to sleep)."""

    switch_id: int
    from_model: str | None
    to_model: str
    result: str
    duration: float
    sleep: float
    wake: float
    cost: float | None = None
    detail: str = ""


class ModelLeftAwake(Message, frozen=True, gc=False, tag=True):
    """A model stopped being awake after `duration` seconds of it."""

    model: str
    duration: float


class ModelIdle(Message, frozen=True, gc=False, tag=True):
    """A model is put to sleep because it has had nothing in flight for `duration` seconds and nobody waits for it."""

    model: str
    duration: float


class PreloadSkipped(Message, frozen=True, gc=False, tag=True):
    """A model that should be awake from the start is not woken, and why."""

    model: str
    detail: str


class SleepFailed(Message, frozen=True, gc=False, tag=True):
    """A model could not be put to sleep, or its memory did not come free, all retries included. `lost`: nobody knows
    who holds the memory now."""

    model: str
    to_model: str | None
    detail: str
    lost: bool


class ModelDied(Message, frozen=True, gc=False, tag=True):
    """An awake model gets no more requests: it is dead, or its backend fails them."""

    model: str
    detail: str


class ProbesEnded(Message, frozen=True, gc=False, tag=True):
    """Every model, or every one that was added, was asked whether it is awake; `found` are those that did not say
    no."""

    found: tuple[str, ...]


class ModelRemoved(Message, frozen=True, gc=False, tag=True):
    """A model that the configuration no longer has is asleep, and nothing of it is under way: it is forgotten."""

    model: str


class Released(Message, frozen=True, gc=False, tag=True):
    """From now on nothing is woken, and everything is put to sleep; `refuse` says what becomes of requests."""

    refuse: bool


class Resumed(Message, frozen=True, gc=False, tag=True):
    """Models are woken again for those who ask for them."""


class DrainChanged(Message, frozen=True, gc=False, tag=True):
    """An operator has `model` drained (it gets no requests and is not woken), or not any more."""

    model: str
    drained: bool


class PinChanged(Message, frozen=True, gc=False, tag=True):
    """An operator has pinned `model`, or unpinned it."""

    model: str
    pinned: bool


class LastSleeps(Message, frozen=True, gc=False, tag=True):
    """llmux stops, and puts these models to sleep before; they have `within` seconds for that."""

    models: tuple[str, ...]
    within: float


class PolicyFault(Message, frozen=True, gc=False, tag=True):
    """The policy raised, or asked for something impossible; FIFO decided in its place."""

    policy: str
    detail: str


class ModelStarved(Message, frozen=True, gc=False, tag=True):
    """`policy` keeps those who wait for `model` waiting, for `waited` seconds now, far beyond its limit on waiting,
    though nothing stands in the way of a switch. Told once; the policy goes on to decide."""

    policy: str
    model: str
    waited: float


Fact = (
    StateChanged
    | SwitchStarted
    | SwitchDrained
    | SwitchEnded
    | ModelLeftAwake
    | ModelIdle
    | PreloadSkipped
    | SleepFailed
    | ModelDied
    | ProbesEnded
    | ModelRemoved
    | Released
    | Resumed
    | DrainChanged
    | PinChanged
    | LastSleeps
    | PolicyFault
    | ModelStarved
)

Effect = (
    Grant
    | Reject
    | RunHook
    | CancelHook
    | CloseBackend
    | AbortRequests
    | SetTimer
    | CancelTimer
    | OperatorReply
    | Stopped
    | Fact
)

EVENT_DECODER = msgspec.json.Decoder(Event)
EFFECT_DECODER = msgspec.json.Decoder(Effect)
ENCODER = msgspec.json.Encoder()


# --- what a caller may ask ---------------------------------------------------------------------------------------


class Prospects(msgspec.Struct, frozen=True):
    """Where those who wait for a model stand.

    Attributes:
        places: how many requests come before each, by its id.
        seconds: until the model is likely to take requests; 0 if that time has come, or nobody can tell.
        at_once: how many of them it takes then; None for all.
        each: seconds that each further one is likely to take.
        held: why none of them gets on until an operator says so, in a few words; empty where that is not so.
        at_most: it may well be sooner: `seconds` is by when the policy lets them wait no longer.
        begun: the switch to the model is under way, so that no policy has a say in it any more.
        why: what they wait for, in a few words.
    """

    places: dict[int, int]
    seconds: float
    at_once: int | None = None
    each: float = 0.0
    held: str = ""
    at_most: bool = False
    begun: bool = False
    why: str = ""

    def of(self, request_id: int) -> tuple[int, float]:
        """How many come before that request, and the seconds until it is likely to get on."""
        ahead = self.places.get(request_id, 0)
        behind = 0 if self.at_once is None else max(0, ahead + 1 - self.at_once)
        return ahead, self.seconds + behind * self.each


class SwitcherState(msgspec.Struct, frozen=True, tag_field="state", tag=True):
    """2.4.0's view of the whole: `Idle`, `Active(model)` or `Switching(from_model, to_model)`."""


class Idle(SwitcherState, frozen=True, tag="idle"):
    """No model is awake and none is on its way."""


class Active(SwitcherState, frozen=True, tag="active"):
    """`model` is awake (the one last used, where several are) and no switch is under way."""

    model: str


class Switching(SwitcherState, frozen=True, tag="switching"):
    """A switch is under way (the oldest, where several are)."""

    from_model: str | None
    to_model: str
