"""Where a wake hook says that its backend is."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmux.addresses import BackendAddress
from llmux.hooks import BACKEND_VARIABLE
from llmux.messages import Hook, Outcome
from tests.hooks.conftest import Shop, until

pytestmark = pytest.mark.anyio

FILE = f'"${BACKEND_VARIABLE}"'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(BACKEND_VARIABLE, "of an outer llmux")
    return tmp_path


def left(folder: Path) -> list[Path]:
    """What hooks have put there and is there yet."""
    return [path for own in folder.iterdir() for path in own.iterdir()]


async def test_a_wake_hook_gets_a_path_of_its_own_where_nobody_else_can_look(shop: Shop, folder: Path) -> None:
    script = f"test ! -e {FILE} && echo {FILE} && stat -c %a $(dirname {FILE})"
    first, second = [(await shop.run(script)).output.splitlines() for _ in range(2)]
    assert first[1] == second[1] == "700"
    assert first[0] != second[0]
    assert Path(first[0]).parent.parent == folder
    assert (await shop.run(script)).backend is None
    await shop.runner.wait_closed()
    assert not list(folder.iterdir())
    for hook in (Hook.SLEEP, Hook.ALIVE, Hook.VERIFY):
        assert (await shop.run(f"echo ${BACKEND_VARIABLE}", hook=hook)).output == "\n"


@pytest.mark.parametrize(
    ("script", "address"),
    [
        ("echo http://gpu01:8000", BackendAddress("gpu01", 8000)),
        ("printf '\\n https://gpu01/llama/ \\n\\n'", BackendAddress("gpu01", 443, tls=True, base="/llama")),
        ("echo unix:/run/m.sock", BackendAddress(unix_path="/run/m.sock")),
        ("echo", None),
    ],
)
async def test_what_it_says(shop: Shop, script: str, address: BackendAddress | None) -> None:
    result = await shop.run(f"{script} > {FILE}")
    assert (result.outcome, result.backend) == (Outcome.OK, address)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (f"echo gpu01:8000 > {FILE}", "must begin with http://"),
        (f"printf 'http://a:1\\nhttp://b:1\\n' > {FILE}", "more than one line"),
        (f"printf 'http://a:1/\\033[31m' > {FILE}", "characters that no address has"),
        (f"printf 'http://\\377:1' > {FILE}; head -c 9000 /dev/zero >> {FILE}", "characters"),
        (f"mkfifo {FILE}", "is no file"),
        (f"ln -s /etc/passwd {FILE}", "cannot be read"),
    ],
)
async def test_what_is_no_address_is_a_failed_wake(shop: Shop, folder: Path, script: str, why: str) -> None:
    result = await shop.run(f"echo loading; {script}")
    assert (result.outcome, result.exit_code, result.backend) == (Outcome.FAILED, 0, None)
    assert result.detail == f"it has put something into {BACKEND_VARIABLE} that is no url of a backend"
    assert why in result.last_line, "for the operator"
    assert why in shop.lines[-1][2], "who may be watching"
    assert result.output.startswith("loading\n")
    await until(lambda: not left(folder))


async def test_a_hook_that_fails_says_nothing(shop: Shop, folder: Path) -> None:
    result = await shop.run(f"echo http://gpu01:8000 > {FILE}; exit 3")
    assert (result.outcome, result.exit_code, result.backend) == (Outcome.FAILED, 3, None)
    _, ending = shop.start("sleep 60", timeout=0.05)
    assert (await ending).outcome is Outcome.TIMEOUT
    _, ending = shop.start(f"echo http://gpu01:8000 > {FILE}; sleep 60", timeout=0.5)
    assert (await ending).outcome is Outcome.TIMEOUT
    await until(lambda: not left(folder))


async def test_without_a_place_for_files_hooks_run_all_the_same(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder / "gone"))
    shop.new_runner()
    assert (await shop.run(f"echo ${BACKEND_VARIABLE}")).output == "\n"
    result = await shop.run("true", cwd=folder / "gone")
    assert result.outcome is Outcome.FAILED


async def test_a_hook_that_fails_without_a_place_for_files_is_told_with_the_reason(
    shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder / "gone"))
    shop.new_runner()
    result = await shop.run(f"echo http://gpu01:8000 > {FILE}")
    assert result.outcome is Outcome.FAILED
    assert f"{BACKEND_VARIABLE} was empty" in result.detail
    assert result.detail.endswith("No such file or directory")
    assert str(folder) not in result.detail, "clients see it"
    assert BACKEND_VARIABLE not in (await shop.run("exit 3", hook=Hook.SLEEP)).detail


async def test_a_folder_that_was_cleared_away_is_made_again(shop: Shop, folder: Path) -> None:
    script = f"echo http://gpu01:8000 > {FILE}"
    assert (await shop.run(script)).backend == BackendAddress("gpu01", 8000)
    (own,) = folder.iterdir()
    await until(lambda: not left(folder))
    own.rmdir()
    assert (await shop.run(script)).backend == BackendAddress("gpu01", 8000)


@pytest.mark.parametrize("how", ["chmod 755 {0}", "rm -r {0}; touch {0}", "rm -r {0}; ln -s /etc {0}"])
async def test_a_folder_that_may_be_somebody_elses_is_given_up_for_another(shop: Shop, folder: Path, how: str) -> None:
    """A hook may have opened it, for a server that runs as another user."""
    await shop.run(how.format(f"$(dirname {FILE})"))
    (old,) = folder.iterdir()
    script = f"echo http://gpu01:8000 > {FILE}; echo {FILE}; stat -c %a $(dirname {FILE})"
    for _ in range(2):
        result = await shop.run(script)
        assert result.backend == BackendAddress("gpu01", 8000)
        path, mode = result.output.splitlines()
        assert Path(path).parent != old
        assert mode == "700"
    assert len(list(folder.iterdir())) == 2
    await shop.runner.wait_closed()
    assert not list(folder.iterdir())
    assert Path("/etc/passwd").exists()


async def test_a_relative_place_for_files_is_none(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks run elsewhere."""
    monkeypatch.setenv("TMPDIR", ".")
    runner = shop.new_runner()
    assert (await shop.run(f"dirname $(dirname ${BACKEND_VARIABLE})")).output == "/tmp\n"
    await runner.wait_closed()
