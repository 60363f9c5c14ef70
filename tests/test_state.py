"""What survives a restart: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
from pathlib import Path

import pytest

from llmux import Config, build_app
from llmux.costs import Learned, SwitchCostTracker
from llmux.errors import ReleasedError
from llmux.messages import ModelState
from llmux.snapshot import Pin, Standing
from llmux.state import (
    ASIDE,
    FILE,
    LOCK_FILE,
    MAX_BYTES,
    ORDERS_FILE,
    OWNERS_FILE,
    CostStore,
    FolderLock,
    InUseError,
    OrderStore,
    OwnerStore,
)
from tests.hooks.conftest import until

MODELS = frozenset("ab")


def learned() -> Learned:
    costs = SwitchCostTracker()
    costs.record(None, "a", 4.0)
    costs.record("a", "b", 6.0)
    costs.record_sleep("a", 1.0)
    costs.record_wake("b", 5.0)
    costs.record_drain("a", 0.5)
    return costs.learned()


def test_what_was_saved_is_learned_again(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    CostStore(folder).save(learned())
    assert CostStore(folder).load(MODELS) == learned()
    again = SwitchCostTracker(learned=learned())
    assert (again.estimate(None, "a"), again.estimate("a", "b")) == (4.0, 6.0)
    assert again.expected("b", "a") == SwitchCostTracker(learned=learned()).expected("b", "a")
    assert again.record("a", "b", 16.0) == pytest.approx(0.3 * 16 + 0.7 * 6)
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_models_that_are_no_more_are_left_out(tmp_path: Path) -> None:
    CostStore(tmp_path).save(learned())
    known = CostStore(tmp_path).load(frozenset("a"))
    assert known == Learned([(None, "a", 4.0)], {"a": 1.0}, {}, {"a": 0.5})


def test_nothing_is_there_the_first_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert CostStore(tmp_path).load(MODELS) == Learned()
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"llmux_state": 2, "version": "9", "saved": 0, "costs": {}}',
        b'{"llmux_state": 1, "version": "3", "saved": 0, "costs": {"sleeps": {"a": "soon"}}}',
        b'{"llmux_state": 1, "version": "3", "saved": 0, "costs": {"pairs": [["a", "b"]]}}',
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_file_that_cannot_be_used_is_put_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / FILE).write_bytes(content)
    store = CostStore(tmp_path)
    assert store.load(MODELS) == Learned()
    assert (tmp_path / (FILE + ASIDE)).read_bytes() == content
    assert len(caplog.records) == 1
    store.save(learned())
    assert CostStore(tmp_path).load(MODELS) == learned()


def test_times_that_nothing_can_have_taken_are_left_out(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        json.dumps(
            {
                "llmux_state": 1,
                "version": "3",
                "saved": 0.0,
                "costs": {"pairs": [["a", "b", -1.0], ["b", "a", 1.0]], "sleeps": {"a": -2.0, "b": 3.0}},
            }
        )
    )
    assert CostStore(tmp_path).load(MODELS) == Learned([("b", "a", 1.0)], {"b": 3.0})


def test_nothing_is_written_where_nothing_is_new(tmp_path: Path) -> None:
    store = CostStore(tmp_path)
    store.save(learned())
    before = (tmp_path / FILE).stat().st_ino
    store.save(learned())
    assert (tmp_path / FILE).stat().st_ino == before


def test_a_folder_that_cannot_be_written_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    blocked = tmp_path / "file"
    blocked.touch()
    store = CostStore(blocked)
    store.save(learned())
    store.save(learned())
    assert len(caplog.records) == 1
    blocked.unlink()
    store.save(learned())
    assert CostStore(blocked).load(MODELS) == learned()


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "file").touch()
    store = CostStore(tmp_path / "file" / "state")
    assert store.load(MODELS) == Learned()
    told = [record.getMessage() for record in caplog.records if "state_not_saved" in record.getMessage()]
    assert len(told) == 1
    assert "Not a directory" in told[0]
    known = len(caplog.records)
    store.save(learned())
    assert len(caplog.records) == known


def test_the_start_leaves_nothing_in_a_folder_that_can_be_written(tmp_path: Path) -> None:
    CostStore(tmp_path / "new").load(MODELS)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CostStore(tmp_path)
    store.save(learned())
    before = (tmp_path / FILE).read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store.save(Learned())
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# --- one llmux a folder -----------------------------------------------------------------------------------------------


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    one, other = FolderLock(folder), FolderLock(folder)
    one.acquire()
    with pytest.raises(InUseError) as refused:
        other.acquire()
    assert str(refused.value) == (
        f"{folder} is in use by another llmux (process {os.getpid()}): "
        "stop that one, or give this one a `state_dir` of its own"
    )
    other.release()  # it has none, and takes none away
    with pytest.raises(InUseError):
        other.acquire()
    one.release()
    other.acquire()
    other.release()
    assert (folder / LOCK_FILE).stat().st_mode & 0o777 == 0o600


def test_what_can_never_be_such_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "file", "it is not a folder"), (tmp_path / "file" / "state", "Not a directory")):
        with pytest.raises(OSError, match=f"`state_dir` {folder} cannot be used: {why}"):
            FolderLock(folder).acquire()
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        FolderLock(tmp_path).acquire()


@pytest.mark.fault(55)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_is_full_or_broken_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def fails(*args: object, **options: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        FolderLock(tmp_path).acquire()
    (record,) = caplog.records
    assert "state_not_locked" in record.getMessage()
    assert os.strerror(number) in record.getMessage()


def test_where_nothing_can_be_locked_llmux_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def unsupported(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    FolderLock(tmp_path / "nfs").acquire()
    told = [record.getMessage() for record in caplog.records]
    assert ["state_not_locked" in line for line in told] == [True]
    assert "No locks available" in told[0]


@pytest.mark.anyio
async def test_an_llmux_has_its_folder_for_as_long_as_it_serves(tmp_path: Path) -> None:
    def config(name: str) -> Config:
        model = {"port": 1, "wake": "true", "sleep": "true", "alive": f"touch {tmp_path / name}; false"}
        return Config.model_validate({"models": {"a": model}, "state_dir": str(tmp_path / "state")})

    first, _ = await build_app(config("first"))
    second, _ = await build_app(config("second"))
    async with first.serving(port=0):
        with pytest.raises(InUseError):
            async with second.serving(port=0):
                pytest.fail("two serve")
    assert not (tmp_path / "second").exists()
    third, _ = await build_app(config("third"))
    async with third.serving(port=0):
        pass


# --- who may hold memory ----------------------------------------------------------------------------------------------

OWNERS = {"a": ModelState.LOST, "b": ModelState.AWAKE}


@pytest.mark.fault(62)
def test_who_may_hold_memory_is_known_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert OwnerStore(tmp_path).load(MODELS) == {}  # the first time
    store = OwnerStore(tmp_path, tmp_path / "config.yaml")
    store.save(OWNERS)
    assert OwnerStore(tmp_path).load(MODELS) == OWNERS
    assert (tmp_path / OWNERS_FILE).stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / OWNERS_FILE).read_bytes())["config"] == str(tmp_path / "config.yaml")
    store.save({})
    assert OwnerStore(tmp_path).load(MODELS) == {}
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.fault(62)
def test_a_model_that_is_no_more_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    OwnerStore(tmp_path, tmp_path / "old.yaml").save(OWNERS)
    assert OwnerStore(tmp_path).load(frozenset("b")) == {"b": ModelState.AWAKE}
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "owners_gone" in record.getMessage()
    assert "a (lost)" in record.getMessage()
    assert "old.yaml" in record.getMessage()


@pytest.mark.fault(62)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"llmux_owners": 2, "version": "9", "saved": 0, "config": "", "models": {}}',
        b'{"llmux_owners": 1, "version": "9", "saved": 0, "config": "", "models": {"a": "elsewhere"}}',
    ],
)
def test_where_it_cannot_be_read_any_model_may_hold_memory(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / OWNERS_FILE).write_bytes(content)
    assert OwnerStore(tmp_path).load(MODELS) == dict.fromkeys("ab", ModelState.UNCONFIRMED)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert (tmp_path / (OWNERS_FILE + ASIDE)).read_bytes() == content


def test_what_could_not_be_written_is_said_once_and_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = OwnerStore(tmp_path / "file")
    store.save(OWNERS)
    store.save({})
    store.save(OWNERS)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    (tmp_path / "file").unlink()
    store.save(OWNERS)
    assert OwnerStore(tmp_path / "file").load(MODELS) == OWNERS


# --- orders -----------------------------------------------------------------------------------------------------------

ORDERS = Standing(released=True, drained=("a",), pins={"b": Pin(True, False)})


def test_orders_stand_again(tmp_path: Path) -> None:
    OrderStore(tmp_path).save(ORDERS)
    assert OrderStore(tmp_path).load() == ORDERS
    assert (tmp_path / ORDERS_FILE).stat().st_mode & 0o777 == 0o600
    OrderStore(tmp_path).save(Standing())
    assert OrderStore(tmp_path).load() == Standing()


def test_no_orders_need_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    OrderStore(tmp_path).save(Standing())
    assert not list(tmp_path.iterdir())
    assert OrderStore(tmp_path).load() == Standing()
    assert not caplog.records


@pytest.mark.parametrize("content", [b"", b"{", b'{"llmux_orders": 2, "version": "9", "saved": 0, "orders": {}}'])
def test_orders_that_cannot_be_read_are_an_error(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ORDERS_FILE).write_bytes(content)
    assert OrderStore(tmp_path).load() == Standing()
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert (tmp_path / (ORDERS_FILE + ASIDE)).read_bytes() == content


def test_orders_that_could_not_be_written_are_said_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    store = OrderStore(tmp_path / "file")
    store.save(Standing())
    store.save(ORDERS)
    store.save(ORDERS)
    store.save(Standing(released=True))
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    (tmp_path / "file").unlink()
    assert store.failing
    store.save(ORDERS)
    assert OrderStore(tmp_path / "file").load() == ORDERS


@pytest.mark.anyio
@pytest.mark.parametrize("every", [0.01, 3600.0])
async def test_a_release_that_could_not_be_written_is_written_later(
    tmp_path: Path, every: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As soon as the disk has room again, and at the end at the latest."""
    monkeypatch.setattr("llmux.remembering.SAVE_SECS", every)
    folder = tmp_path / "state"
    path = folder / ORDERS_FILE
    config = Config.model_validate(
        {"state_dir": str(folder), "models": {"a": {"port": 1, "wake": "true", "sleep": "true", "alive": "false"}}}
    )
    app, switcher = await build_app(config)
    async with app.serving(port=0):
        path.mkdir()  # nothing can be put in its place
        await switcher.release()
        await until(lambda: "orders_not_saved" in caplog.text)
        path.rmdir()
        if every < 1:
            await until(path.exists)
    assert await asyncio.to_thread(OrderStore(folder).load) == Standing(released=False)


def test_the_start_does_not_wait_for_somebody_to_write_to_a_pipe(tmp_path: Path) -> None:
    for name in (FILE, ORDERS_FILE, OWNERS_FILE):
        os.mkfifo(tmp_path / name)
    assert CostStore(tmp_path).load(MODELS) == Learned()
    assert OrderStore(tmp_path).load() == Standing()
    assert OwnerStore(tmp_path).load(MODELS) == dict.fromkeys("ab", ModelState.UNCONFIRMED)


@pytest.mark.anyio
async def test_a_release_survives_a_restart(tmp_path: Path) -> None:
    """Somebody else may be using the devices: the new llmux wakes nothing either, and puts to sleep what it finds."""
    flag = tmp_path / "awake"

    def config(**changes: object) -> Config:
        hooks = {"wake": f"touch {flag}", "sleep": f"rm -f {flag}", "alive": f"test -e {flag}"}
        model = {"port": 1, **hooks} | changes
        return Config.model_validate(
            {"devices": {"gpu0": 2}, "state_dir": str(tmp_path / "state"), "models": {
                "a": {"needs": {"gpu0": 1}, **model}, "b": {"needs": {"gpu0": 1}, **model}}}
        )  # fmt: skip

    app, switcher = await build_app(config())
    async with app.serving(port=0):
        await switcher.pin("b")
        await switcher.release(refuse=True)
    flag.touch()  # somebody woke it by hand
    app, switcher = await build_app(config())
    async with app.serving(port=0):
        released = switcher.snapshot().released
        assert released is not None
        assert released.refuse
        with pytest.raises(ReleasedError):
            await switcher.force_switch("a")
        await switcher.release(refuse=True)
        assert not flag.exists()
        assert [model.pinned for model in switcher.snapshot().models] == [False, True]
        await switcher.resume()
    app, switcher = await build_app(config(pinned=True))  # the file has changed, and says how it begins
    async with app.serving(port=0):
        assert switcher.snapshot().released is None
        await switcher.unpin("b")
    app, switcher = await build_app(config())
    async with app.serving(port=0):
        assert not any(model.pinned for model in switcher.snapshot().models)
        await switcher.drain("a")
    app, switcher = await build_app(config())
    async with app.serving(port=0):
        assert [model.drained for model in switcher.snapshot().models] == [True, False]
