"""A real llmux with a real backend, as processes, for a real browser. All is synchronous: so is the browser's API,
and it keeps a loop of its own, which no async test may meet."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.ports import free_port

DEADLINE = 30.0

TOKENS = 48
"""What the backend says takes six seconds: enough to look more than once, on a busy machine, too."""

MARKUP = '<img src=x onerror="globalThis.pwned=1">'
"""A model's name, and more: if it ever becomes markup, the page has the global."""

ELSEWHERE = "llmux.test"
"""A public name, which the browser takes to this machine."""

SCRIPT = "<script>globalThis.pwned=1</script>"


def until_listening(process: subprocess.Popen[str], lines: list[str]) -> str:
    """The address that llmux logs. Goes on reading what it logs, so that it never waits for that."""
    found = threading.Event()
    urls: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            with contextlib.suppress(ValueError):
                logged = json.loads(line)
                if logged["event"] == "listening":
                    urls.append(logged["url"])
                    found.set()
        found.set()

    threading.Thread(target=read, daemon=True).start()
    assert found.wait(DEADLINE), "llmux does not listen"
    assert urls, "".join(lines)
    return urls[0]


@dataclass
class Llmux:
    """An llmux that can be killed and started again in the same place."""

    folder: Path
    url: str = ""
    lines: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2]) if self.url else 0

    def start(self) -> None:
        arguments = ["-c", "config.yaml", "--port", str(self.port), "--log-format", "json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmux", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = until_listening(self.process, self.lines)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.process = None


@pytest.fixture(scope="module")
def backend_port() -> Iterator[int]:
    """One simulated backend, slow enough to be seen streaming, which answers for every model."""
    port = free_port()
    arguments = ["backend", "--model", "any", "--port", str(port), "--tokens-per-second", "8", "--tokens", str(TOKENS)]
    process = subprocess.Popen([sys.executable, "-m", "llmux.testing", *arguments])
    try:
        until(lambda: connects(port), "the backend does not listen")
        yield port
    finally:
        process.kill()
        process.wait()


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def until(condition: Callable[[], bool], complaint: str) -> None:
    """Wait for what a process of ours must bring about."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(backend_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llmux]:
    """Models of all sorts: one that wakes when the file `go` is there, one that cannot wake, one that cannot sleep, one
    whose name and output are markup. One server for a module: starting it takes as long as most tests."""
    folder = tmp_path_factory.mktemp("llmux")
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "allowed_hosts": [ELSEWHERE],
                "devices": {"gpu0": "24GiB", "gpu1": "24GiB"},
                "models": {
                    name: {"port": backend_port, "sleep": "true", "alive": "false", **model}
                    for name, model in {
                        "good": {"needs": {"gpu0": "20GiB"}, "wake": "echo up; echo really", "aliases": ["gpt"]},
                        "slow": {"needs": {"gpu0": "20GiB"}, "wake": "until [ -e go ]; do sleep 0.05; done"},
                        "bad": {"needs": {"gpu1": "1GiB"}, "wake": "echo no memory >&2; exit 3"},
                        "stuck": {"needs": {"gpu1": "20GiB"}, "wake": "true", "sleep": "exit 1"},
                        MARKUP: {"needs": {"gpu0": "1GiB"}, "wake": f"echo '{SCRIPT}'; echo '{MARKUP}'; exit 3"},
                    }.items()
                },
            },
            sort_keys=False,
        )
    )
    made = Llmux(folder)
    made.start()
    try:
        yield made
    finally:
        (folder / "go").touch()
        made.kill()


@pytest.fixture
def llmux(server: Llmux) -> Llmux:
    """The server, with every model asleep and nobody waiting."""
    go = server.folder / "go"
    with httpx.Client(base_url=f"{server.url}/admin/v1", timeout=DEADLINE) as admin:
        go.touch()

        def settled() -> bool:
            for request in admin.get("/requests").json()["requests"]:
                admin.post(f"/requests/{request['id']}/cancel")
            models = admin.get("/models").json()["models"]
            for model in models:
                if model["state"] in ("awake", "lost"):
                    admin.post(f"/models/{model['name']}/{'sleep' if model['state'] == 'awake' else 'free'}")
            return all(model["state"] == "asleep" and not model["waiting"] for model in models)

        until(settled, "the models of the test before do not go to sleep")
    go.unlink()
    return server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, or whatever is called so."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        if os.environ.get("LLMUX_TEST_BROWSER") == "required":
            pytest.fail("there is no chromium, and LLMUX_TEST_BROWSER says that there must be")
        pytest.skip("needs a chromium in the path")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # it refuses to run as root with one
    options = [*sandbox, "--disable-dev-shm-usage", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=options)


@dataclass
class Complaints:
    """What the browser's console said that nobody has expected."""

    expected: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.heard.append(message.text)

    @property
    def unexpected(self) -> list[str]:
        return [one for one in self.heard if not any(known in one for known in self.expected)]


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def page(browser: Browser, llmux: Llmux, complaints: Complaints) -> Iterator[Page]:
    """The dashboard, open, connected, and silent on the console to the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(DEADLINE * 1000)
    page = context.new_page()
    page.on("console", complaints.console)
    page.on("pageerror", lambda error: complaints.heard.append(str(error)))
    page.goto(f"{llmux.url}/ui/")
    page.locator("#connection[data-kind=live]").wait_for()
    page.locator("button[data-order=reload]").wait_for()
    try:
        yield page
        assert complaints.unexpected == []
    finally:
        context.close()
