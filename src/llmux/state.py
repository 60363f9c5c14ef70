"""What llmux has learned and been told, kept in a folder so that it survives a restart: what switches cost, the orders
of operators that stand until they are taken back, and which models may hold memory.

Touches that folder only. Blocks, so call it in a thread while the loop runs. Only another llmux in the same folder, or
a folder that can never be one, may keep llmux from starting: a file that cannot be read is put aside, one that cannot
be written is tried again the next time, and both are said in the log.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from llmux import logs
from llmux.costs import Learned
from llmux.messages import ModelState
from llmux.snapshot import Standing
from llmux.version import version

FILE = "costs.json"
ORDERS_FILE = "orders.json"
OWNERS_FILE = "owners.json"
LOCK_FILE = "lock"
FORMAT = 1
"""The version of the file's format that this llmux writes, and the only one that it reads."""

ASIDE = ".unreadable"
"""What is put behind the name of a file that cannot be used. There is one at most: the last one."""

MAX_BYTES = 16 * 2**20

#: What may befall a disk that was good: no reason not to start, at the worst time.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

log = logs.get_logger("llmux.state")


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """`saved` is in seconds since 1970."""

    format: int = msgspec.field(name="llmux_state", default=FORMAT)
    version: str
    saved: float
    costs: Learned


class InUseError(OSError):
    """Another llmux has the folder."""


class FolderLock:
    """Keeps a folder for one llmux: of two, the last to write would win, and orders of the other would be forgotten.

    The kernel holds the lock (flock) for as long as the process lives, so that a crash leaves none behind. The file
    stays, since whoever removed it could take it away from under somebody else; what is in it, the process's number,
    is there to be read by people.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. Where no file can be locked, or the disk is full or broken, there is none; the log says so.

        Raises:
            InUseError: another llmux, of this process or another one, has it.
            OSError: it is no folder, or not one that llmux may write.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _PASSING:
                why = "it is not a folder" if isinstance(error, FileExistsError) else _why(error)
                raise OSError(f"`state_dir` {self.path.parent} cannot be used: {why}") from error
            self._not_locked(error)
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):  # a full disk, say: it is locked all the same
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = _decimal(os.pread(fd, 20, 0))
            os.close(fd)
            raise InUseError(
                f"{self.path.parent} is in use by another llmux{f' (process {holder})' if holder else ''}: "
                "stop that one, or give this one a `state_dir` of its own"
            ) from None
        except OSError as error:  # as on some network file systems
            os.close(fd)
            self._not_locked(error)
            return
        self._fd = fd

    def release(self) -> None:
        """Let go of it. Does nothing without a lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _not_locked(self, error: OSError) -> None:
        log.warning("state_not_locked", path=str(self.path), error=error.strerror or str(error))


def read_costs(folder: Path) -> Learned | None:
    """What the llmux of that folder has learned of costs, for somebody else to look at; None if nothing can be read.
    Changes nothing, takes no lock and logs nothing."""
    try:
        return _read(folder / FILE)
    except (OSError, ValueError, RecursionError):
        return None


def _read(path: Path) -> Learned:
    found = msgspec.json.decode(_content(path), type=_File)
    _check_format(found.format)
    return found.costs


class CostStore:
    """The costs of one llmux, which must have the folder for itself (`FolderLock`).

    Args:
        folder: made at the start, if it is not there; others than its owner cannot look into it then.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._saved: Learned | None = None
        self._failing = False
        self._one_at_a_time = threading.Lock()

    def load(self, models: frozenset[str]) -> Learned:
        """What was learned about `models`; nothing if there is no file, or none that can be used. If none can be
        written either, the log says so now, and not only when there is something to lose."""
        try:
            _check_writable(self.path.parent)
        except OSError as error:
            self._not_saved(error)
        try:
            found = _read(self.path)
        except FileNotFoundError:
            log.info("state_loaded", path=str(self.path), pairs=0)
            return Learned()
        except OSError as error:
            log.warning("state_unreadable", path=str(self.path), error=error.strerror or str(error), aside="")
            return Learned()
        except (ValueError, RecursionError) as error:
            log.warning("state_unreadable", path=str(self.path), error=str(error), aside=_put_aside(self.path))
            return Learned()
        learned = found.only(models)
        log.info("state_loaded", path=str(self.path), pairs=len(learned.pairs))
        return learned

    def save(self, learned: Learned) -> None:
        """Write `learned`, all or nothing, unless it is what was written last. May be called from any thread."""
        with self._one_at_a_time:
            self._save(learned)

    def _save(self, learned: Learned) -> None:
        if learned == self._saved:
            return
        content = _File(version=version(), saved=time.time(), costs=learned)
        try:
            _write(self.path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        except OSError as error:
            self._not_saved(error)
            return
        self._failing = False
        self._saved = learned

    def _not_saved(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            log.warning("state_not_saved", path=str(self.path), error=error.strerror or str(error))


class _Orders(msgspec.Struct, frozen=True, kw_only=True):
    """`saved` is in seconds since 1970."""

    format: int = msgspec.field(name="llmux_orders", default=FORMAT)
    version: str
    saved: float
    orders: Standing


class OrderStore:
    """The standing orders of one llmux, in the folder of its costs.

    Attributes:
        failing: whether the last orders that were to be written could not be.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ORDERS_FILE
        self.failing = False
        self._saved: Standing | None = None
        self._not_saved: Standing | None = None
        self._one_at_a_time = threading.Lock()

    def load(self) -> Standing:
        """The orders that stood when llmux last ran; none if there is no file, or none that can be used. Then the log
        says so, as an error: somebody else may be using the devices."""
        try:
            found = msgspec.json.decode(_content(self.path), type=_Orders)
            _check_format(found.format)
        except FileNotFoundError:
            return Standing()
        except OSError as error:
            log.error("orders_unreadable", path=str(self.path), error=error.strerror or str(error), aside="")
            return Standing()
        except (ValueError, RecursionError) as error:
            log.error("orders_unreadable", path=str(self.path), error=str(error), aside=_put_aside(self.path))
            return Standing()
        return found.orders

    def save(self, orders: Standing) -> None:
        """Write `orders`, all or nothing, unless they are what was written last; none need no file. May be called from
        any thread."""
        with self._one_at_a_time:
            if orders == self._saved or (orders == Standing() and not os.path.lexists(self.path)):
                self.failing = False
                return
            content = _Orders(version=version(), saved=time.time(), orders=orders)
            try:
                _write(self.path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
            except OSError as error:
                self._saved = None
                if not self.failing or orders != self._not_saved:  # once for each, however often it is tried
                    log.error("orders_not_saved", path=str(self.path), error=error.strerror or str(error))
                self.failing = True
                self._not_saved = orders
                return
            self.failing = False
            self._saved = orders


class _Owners(msgspec.Struct, frozen=True, kw_only=True):
    """`saved` is in seconds since 1970, `config` the path of the file that the models are of."""

    format: int = msgspec.field(name="llmux_owners", default=FORMAT)
    version: str
    saved: float
    config: str
    models: dict[str, ModelState]


class OwnerStore:
    """Which models may hold memory, in the folder of the costs: so that the next llmux takes no *no* of an alive hook
    for proof that they do not.

    Args:
        config: path of the configuration file; for people who read it.
    """

    def __init__(self, folder: Path, config: Path | None = None) -> None:
        self.path = folder / OWNERS_FILE
        self._config = "" if config is None else str(config)
        self._saved: dict[str, ModelState] | None = None
        self._failing = False
        self._one_at_a_time = threading.Lock()

    def load(self, models: frozenset[str]) -> dict[str, ModelState]:
        """What was known of those of `models` that were not asleep when llmux last ended. Where the file cannot be
        used, nobody knows: any of them may hold memory. The log says so; and so it does of models that are no more,
        whose memory nobody looks after."""
        try:
            found = msgspec.json.decode(_content(self.path), type=_Owners)
            _check_format(found.format)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            readable = not isinstance(error, OSError)
            aside = _put_aside(self.path) if readable else ""
            log.error("owners_unreadable", path=str(self.path), error=_why(error), aside=aside)
            return dict.fromkeys(models, ModelState.UNCONFIRMED)
        known = {name: state for name, state in found.models.items() if name in models}
        gone = {name: state for name, state in found.models.items() if name not in models}
        if known:
            log.info("owners_loaded", path=str(self.path), models=_listed(known))
        if gone:
            log.error(
                "owners_gone",
                models=_listed(gone),
                config=found.config,
                message="an earlier llmux has left these, which are not configured any more; nobody looks after what "
                "they may hold",
            )
        return known

    def save(self, models: Mapping[str, ModelState]) -> None:
        """Write `models`, all or nothing, unless they are what was written last. May be called from any thread."""
        with self._one_at_a_time:
            if models == self._saved:
                return
            content = _Owners(version=version(), saved=time.time(), config=self._config, models=dict(models))
            try:
                _write(self.path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
            except OSError as error:
                self._saved = None
                if not self._failing:
                    self._failing = True
                    log.error("owners_not_saved", path=str(self.path), error=_why(error))
                return
            self._failing = False
            self._saved = dict(models)


def _content(path: Path) -> bytes:
    """What the file has; raises a `ValueError` if that is more than any such file may have."""
    # Whatever is there: the start must not wait for somebody to write to a pipe.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return raw


def _check_format(found: int) -> None:
    if found != FORMAT:
        raise ValueError(f"its format is {found}, and this llmux knows {FORMAT}")


def _listed(models: Mapping[str, ModelState]) -> str:
    return ", ".join(f"{name} ({state})" for name, state in models.items())


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _decimal(text: bytes) -> str:
    number = text.strip()
    return number.decode("ascii") if number.isdigit() else ""


def _check_writable(folder: Path) -> None:
    """Raises an `OSError` if no file can be made in `folder`, or in a folder made there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(prefix=".writable.", dir=folder):
        pass


def _write(path: Path, content: bytes) -> None:
    """All or nothing, and once it returns, for good."""
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    directory = os.open(folder, os.O_RDONLY)  # else a loss of power may undo the renaming
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _put_aside(path: Path) -> str:
    """Where the file is now, empty if it could not be moved."""
    aside = path.with_name(path.name + ASIDE)
    try:
        os.replace(path, aside)
    except OSError:
        return ""
    return str(aside)
