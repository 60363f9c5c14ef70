"""Gets the peers, each by its own package manager, into one folder, without touching the system and without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .peers import which

ROOT = Path(__file__).parents[2]
MINUTES = 20
LLAMA_SWAP = "github.com/mostlygeek/llama-swap@latest"


class UnavailableError(Exception):
    """Why it cannot be had here."""


def install(folder: Path, keys: set[str]) -> dict[str, str]:
    """Get what is not there yet of the peers `keys`; returns the reasons for those that cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    reasons = {}
    for key, get in STEPS.items():
        if key in keys or key == "wrk":
            try:
                get(folder)
            except UnavailableError as why:
                reasons[key] = str(why)
                print(f"no {key}: {why}", file=sys.stderr)
    return reasons


def _run(*command: str, log: Path, environment: dict[str, str] | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"there is no {Path(command[0]).name}")
    print("+", *command, file=sys.stderr)
    with log.open("w") as output:
        try:
            subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=MINUTES * 60,
                env={**os.environ, **(environment or {})},
            )
        except subprocess.CalledProcessError as error:
            tail = log.read_text().strip().splitlines()[-1:] or [""]
            raise UnavailableError(f"{command[0]} failed with {error.returncode}: {tail[0]} ({log})") from error
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"{command[0]} took more than {MINUTES} minutes") from error


def _rust(folder: Path) -> None:
    root = folder / "llmux-2.4.0"
    if which(root / "bin/llmux") is None:
        install = ("cargo", "install", "llmux", "--version", "2.4.0", "--locked", "--root", str(root))
        _run(*install, log=folder / "llmux-2.4.0.log")


def _go(folder: Path) -> None:
    where = folder / "llama-swap/bin"
    if not os.environ.get("LLAMA_SWAP") and which(where / "llama-swap") is None:
        _run("go", "install", LLAMA_SWAP, log=folder / "llama-swap.log", environment={"GOBIN": str(where)})


def _debian(package: str) -> Callable[[Path], None]:
    """Unpacks a package, and what it needs and is not here, beside the system's."""

    def get(folder: Path) -> None:
        if which(package, folder / "debian/usr/sbin" / package, folder / "debian/usr/bin" / package) is not None:
            return
        debs = folder / f"{package}-debs"
        (debs / "partial").mkdir(parents=True, exist_ok=True)
        options = ("-y", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1")
        log = folder / f"{package}.log"
        _run("apt-get", *options, "-o", f"Dir::Cache::archives={debs}", "install", package, log=log)
        for deb in sorted(debs.glob("*.deb")):
            _run("dpkg", "-x", str(deb), str(folder / "debian"), log=log)

    return get


def _python(name: str, *requirements: str) -> Callable[[Path], None]:
    """Installs into a virtual environment of its own."""

    def get(folder: Path) -> None:
        venv = folder / name
        made = venv / ".made"
        if not made.exists():
            log = folder / f"{name}.log"
            _run(sys.executable, "-m", "venv", str(venv), log=log)
            _run(str(venv / "bin/python"), "-m", "pip", "install", "--quiet", *requirements, log=log)
            made.touch()

    return get


def _compiled(folder: Path) -> None:
    """This checkout, anew each time: it may have changed."""
    if os.environ.get("LLMUX_COMPILED"):
        return
    venv = folder / "llmux-compiled"
    log = folder / "llmux-compiled.log"
    python = os.environ.get("LLMUX_PYTHON", sys.executable)
    _run(python, "-m", "venv", str(venv), log=log)
    install = ("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(ROOT))
    _run(str(venv / "bin/python"), *install, log=log, environment={"LLMUX_MYPYC": "1"})


STEPS: dict[str, Callable[[Path], None]] = {
    "wrk": _debian("wrk"),
    "nginx": _debian("nginx"),
    "haproxy": _debian("haproxy"),
    "llmux-compiled": _compiled,
    "llmux-2.4.0": _rust,
    "llama-swap": _go,
    "fastapi": _python("fastapi", "fastapi", "httpx", "uvicorn[standard]"),
    "litellm": _python("litellm", "litellm[proxy]"),
}
