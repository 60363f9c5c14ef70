"""Keys and certificates that change while llmux runs: looked at, read whole, and exchanged or left alone."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from llmux.access import Access
from llmux.certificates import Certificate, CertificateError, not_after
from llmux.config import Config, KeyConfig, ModelConfig, Secrets, TlsConfig
from llmux.errors import ConfigError
from llmux.exposure import Exposure, Keeper, expose

pytestmark = pytest.mark.anyio


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cert, self.key, self.secret = folder / "cert.pem", folder / "key.pem", folder / "secret"
        self.issue()
        self.secret.write_text("first-key-0123456789")
        self.config = Config(
            models={"m": ModelConfig(port=1, wake="w", sleep="s", alive="a")},
            api_keys={"a": KeyConfig(file=str(self.secret))},
            tls=TlsConfig(cert=str(self.cert), key=str(self.key)),
        )
        self.exposure: Exposure = expose(self.config)
        assert self.exposure.certificate is not None
        self.certificate = Certificate(self.exposure.certificate)
        self.applied: list[Access] = []
        self.keeper = Keeper(self.config, self.exposure, self.certificate, self.applied.append)

    def issue(self) -> None:
        issued = trustme.CA().issue_cert("localhost")
        self.cert.write_bytes(issued.cert_chain_pems[0].bytes())
        self.key.write_bytes(issued.private_key_pem.bytes())

    @property
    def shown(self) -> ssl.SSLContext:
        return self.certificate._current

    async def change(self, change: Callable[[], object]) -> None:
        await asyncio.to_thread(change)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def opened_by(access: Access, key: bytes) -> bool:
    return access.keys.find([key]) is not None


async def test_nothing_changes_nothing(world: World) -> None:
    for _ in range(4):
        await world.keeper.look()
    assert world.applied == []
    assert world.shown is world.exposure.certificate


async def test_a_new_key_takes_the_place_of_the_old_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="llmux")
    await world.keeper.look()
    await world.change(lambda: world.secret.write_text("second-key-0123456789"))
    await world.keeper.look()
    assert world.applied == [], "it may still be being written"
    await world.keeper.look()
    (access,) = world.applied
    assert opened_by(access, b"second-key-0123456789")
    assert not opened_by(access, b"first-key-0123456789")
    await world.keeper.look()
    assert len(world.applied) == 1
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "keys_reloaded" in logged
    assert "key-0123456789" not in logged


async def test_a_key_file_that_is_gone_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.keeper.look()
    await world.change(world.secret.unlink)
    for _ in range(3):
        await world.keeper.look()
    assert world.applied == []
    assert "keys_not_reloaded" in caplog.text
    assert "api_keys.a.file" in caplog.text
    await world.change(lambda: world.secret.write_text("third-key-0123456789"))
    for _ in range(2):
        await world.keeper.look()
    assert opened_by(world.applied[0], b"third-key-0123456789")


async def test_what_could_not_be_read_for_a_moment_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a key that was to be revoked would count until its file changes again, which it has no reason to."""
    caplog.set_level("INFO", logger="llmux")

    def failing(*_: object) -> Secrets:
        return Secrets((), (), ((("api_keys", "a", "file"), "cannot be read: Stale file handle"),), ())

    def no_certificate(*_: object) -> ssl.SSLContext:
        raise CertificateError("cert", "cannot be read: Too many open files")

    await world.keeper.look()
    await world.change(lambda: world.secret.write_text("second-key-0123456789"))
    await world.change(world.issue)
    with monkeypatch.context() as broken:
        broken.setattr("llmux.exposure.read_secrets", failing)
        broken.setattr("llmux.exposure.load_certificate", no_certificate)
        for _ in range(4):
            await world.keeper.look()
    assert world.applied == []
    assert caplog.text.count("not_reloaded") == 2
    for _ in range(3):
        await world.keeper.look()
    assert world.keeper.good
    (access,) = world.applied
    assert opened_by(access, b"second-key-0123456789")
    assert world.shown is not world.exposure.certificate


async def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes exchanges mounted secrets."""

    def made() -> World:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        os.symlink("one", tmp_path / "data")
        world = World(tmp_path / "data")
        (tmp_path / "two" / "secret").write_text("second-key-0123456789")
        for name in ("cert.pem", "key.pem"):
            (tmp_path / "two" / name).write_bytes((tmp_path / "one" / name).read_bytes())
        return world

    def swap() -> None:
        os.symlink("two", tmp_path / "new")
        os.replace(tmp_path / "new", tmp_path / "data")

    world = await asyncio.to_thread(made)
    await world.keeper.look()
    await world.change(swap)
    for _ in range(2):
        await world.keeper.look()
    assert opened_by(world.applied[0], b"second-key-0123456789")


async def test_a_new_certificate_is_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="llmux")
    await world.keeper.look()
    await world.change(world.issue)
    for _ in range(2):
        await world.keeper.look()
    assert world.shown is not world.exposure.certificate
    assert "certificate_reloaded" in caplog.text


async def test_a_broken_certificate_keeps_the_old_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.keeper.look()
    await world.change(lambda: world.cert.write_text("nonsense"))
    for _ in range(3):
        await world.keeper.look()
    assert world.shown is world.exposure.certificate
    assert "certificate_not_reloaded" in caplog.text
    await world.change(world.issue)
    for _ in range(2):
        await world.keeper.look()
    assert world.shown is not world.exposure.certificate


async def test_half_of_a_pair_is_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate that was written before its key is no reason to complain."""
    before = await asyncio.to_thread(world.key.read_bytes)
    await world.keeper.look()
    await world.change(world.issue)
    after = await asyncio.to_thread(world.key.read_bytes)
    await world.change(lambda: world.key.write_bytes(before))
    await world.keeper.look()
    await world.change(lambda: world.key.write_bytes(after))
    for _ in range(2):
        await world.keeper.look()
    assert world.shown is not world.exposure.certificate
    assert "not_reloaded" not in caplog.text


async def test_another_configuration_is_adopted_whole(world: World) -> None:
    await world.keeper.look()
    config = world.config.model_copy(update={"api_keys": {}})
    exposure = await asyncio.to_thread(expose, config)
    world.keeper.adopt(config, exposure)
    assert [len(access.keys) for access in world.applied] == [0]
    assert world.shown is exposure.certificate
    await world.change(lambda: world.secret.write_text("second-key-0123456789"))
    for _ in range(3):
        await world.keeper.look()
    assert len(world.applied) == 1, "that file is nothing to it any more"


@pytest.mark.fault(65)
async def test_a_key_that_changes_right_after_a_reload_is_not_taken_for_the_one_that_was_read(world: World) -> None:
    """Nobody has looked since: the files are compared with what they were before they were read."""
    exposure = await asyncio.to_thread(expose, world.config)
    await world.change(lambda: world.secret.write_text("second-key-0123456789"))
    world.keeper.adopt(world.config, exposure)
    await world.change(world.issue)
    for _ in range(2):
        await world.keeper.look()
    assert not opened_by(world.applied[-1], b"first-key-0123456789")
    assert opened_by(world.applied[-1], b"second-key-0123456789")
    assert world.shown is not exposure.certificate


@pytest.mark.fault(65)
async def test_nor_is_one_that_changes_right_after_the_start(world: World) -> None:
    await world.change(lambda: world.secret.write_text("second-key-0123456789"))
    for _ in range(2):
        await world.keeper.look()
    assert not opened_by(world.applied[-1], b"first-key-0123456789")


async def test_a_certificate_that_the_new_configuration_does_not_have_is_still_looked_after(world: World) -> None:
    """Without `tls`, the listeners keep it until a restart; `config` is what is in use."""
    exposure = await asyncio.to_thread(expose, world.config.model_copy(update={"tls": None}))
    world.keeper.adopt(world.config, exposure)
    for _ in range(3):
        await world.keeper.look()
    assert len(world.applied) == 1, "nothing has changed"
    await world.change(world.issue)
    for _ in range(2):
        await world.keeper.look()
    assert world.shown is not world.exposure.certificate


async def test_what_the_metrics_are_told(world: World) -> None:
    keeper = world.keeper
    assert (keeper.not_after or 0.0) - time.time() > 86400
    told = [keeper.good]
    for change in (
        lambda: world.secret.write_text(""),
        world.issue,  # that can be used, but the key still cannot
        lambda: world.secret.write_text("second-key-0123456789"),
    ):
        await world.change(change)
        for _ in range(2):
            await keeper.look()
        told.append(keeper.good)
    assert told == [True, False, False, True]


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2077])
def test_until_when_a_certificate_is_valid(tmp_path: Path, year: int) -> None:
    """Up to 2049 certificates have two digits of the year, from 2050 on four."""
    when = datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)
    issued = trustme.CA().issue_cert("localhost", not_after=when)
    path = tmp_path / "cert.pem"
    path.write_bytes(b"Of the mail server:\n" + b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    assert not_after(path) == when.timestamp()
    path.write_text("nonsense")
    assert not_after(path) is None


async def test_all_that_is_missing_is_told_at_once(world: World) -> None:
    await world.change(world.secret.unlink)
    await world.change(world.key.unlink)
    with pytest.raises(ConfigError) as raised:
        await asyncio.to_thread(expose, world.config)
    assert {path for path, _, _ in raised.value.problems} == {"api_keys.a.file", "tls.key"}
