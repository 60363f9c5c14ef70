"""Builds of llmux, by hatchling: what is plain Python unless ``LLMUX_MYPYC=1`` asks for the request path as C.

    LLMUX_MYPYC=1 pip install .

Then mypyc compiles the modules below, whose sources stay as they are and are installed beside what was made of them; it
takes a C compiler and a minute or two. Without the variable nothing of this happens, and nothing more is needed to
build. Nothing is written to the checkout: there, a compiled module would hide the source that is being worked on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ASKED_BY = "LLMUX_MYPYC"

# What a request for an awake model passes through; of the core, what is told of every request.
COMPILED = (
    "access/hosts.py",
    "access/keys.py",
    "core/core.py",
    "core/demand.py",
    "core/ledger.py",
    "core/planning.py",
    "driver.py",
    "gateway/access.py",
    "gateway/client.py",
    "gateway/exchange.py",
    "gateway/keepalive.py",
    "gateway/priority.py",
    "gateway/routing.py",
    "gateway/shared.py",
    "gateway/tunnel.py",
    "gateway/turns.py",
    "gateway/usage.py",
    "telemetry/series.py",
    "telemetry/telemetry.py",
    "upstream/connection.py",
    "upstream/pool.py",
    "wire/framing.py",
    "wire/headers.py",
    "wire/heads.py",
    "wire/known.py",
    "wire/peek.py",
    "wire/request.py",
    "wire/response.py",
    "wire/websocket.py",
)

# A library without types, or one whose types are newer than these lines, is no reason not to build.
_MYPY = ("--ignore-missing-imports", "--follow-imports=silent", "--config-file=")


class CompiledBuild(BuildHookInterface):  # type: ignore[type-arg]  # its type argument says nothing about a hook
    """Adds the compiled modules to a wheel, if that is asked for."""

    def dependencies(self) -> list[str]:
        """What it takes to build; what llmux runs with is among it, as mypyc looks at its types."""
        if not _asked():
            return []
        return ["mypy>=1.13", "setuptools>=65", *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See `BuildHookInterface`. An editable install is for working on the sources, so it stays plain."""
        if not _asked() or self.target_name != "wheel" or version != "standard":
            return
        self._work = tempfile.TemporaryDirectory()
        for made in compile_in(Path(self._work.name), Path(self.root)):
            build_data["force_include"][str(made)] = str(made.relative_to(self._work.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """See `BuildHookInterface`."""
        if hasattr(self, "_work"):
            self._work.cleanup()


def compile_in(work: Path, root: Path) -> list[Path]:
    """Compile the modules of the checkout `root` in the folder `work`; returns what was made, below `work`."""
    shutil.copytree(root / "src" / "llmux", work / "llmux", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    modules = [f"llmux/{name}" for name in COMPILED]
    script = (
        "from setuptools import setup; from mypyc.build import mypycify; "
        f"setup(name='llmux', packages=[], ext_modules=mypycify({[*_MYPY, *modules]!r}, debug_level='0'))"
    )
    command = [sys.executable, "-c", script, "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=work, check=True, stdout=sys.stderr)
    return sorted(path for path in work.rglob("*") if path.suffix in (".so", ".pyd") and "build" not in path.parts)


def _asked() -> bool:
    return os.environ.get(ASKED_BY, "") not in ("", "0")
