"""In which folder a hook runs.

A relative path in a hook means the folder of the configuration file. 2.4.0 ran hooks in the folder in which it was
started; so that its files keep working, that folder is used for a hook which names a file that exists only there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmux.config.config import Config
from llmux.config.tree import dotted
from llmux.messages import SCRIPTS, Hook

_BETWEEN_WORDS = re.compile(r"[\s;|&()<>\"'`=]+")


def hook_folders(config: Config, base: Path, started_in: Path | None) -> tuple[dict[tuple[str, Hook], Path], list[str]]:
    """The hooks that do not run in `base` but in `started_in`, and a warning about each. `started_in` is None if that
    folder is gone; into one that llmux may not look, it does not look."""
    folders: dict[tuple[str, Hook], Path] = {}
    warnings: list[str] = []
    if started_in is None or base.resolve() == started_in.resolve():
        return folders, warnings
    for name, model in config.models.items():
        for hook in SCRIPTS:
            paths = relative_paths(model.script(hook) or "")
            found = [path for path in paths if os.path.isfile(started_in / path)]
            if found and not any(os.path.exists(base / path) for path in paths):
                folders[name, hook] = started_in
                warnings.append(
                    f"{dotted(('models', name, hook.value))} runs in {started_in}, where {found[0]} is; relative paths "
                    f"should be relative to the configuration's folder, {base}"
                )
    return folders, warnings


def relative_paths(script: str) -> list[str]:
    """The words of a shell script that look like relative paths: they have a slash, but no variable, ~ or scheme."""
    words = (word for line in script.splitlines() if not line.lstrip().startswith("#") for word in _split(line))
    return [word for word in words if "/" in word and word[0] not in "/~-" and "$" not in word and "://" not in word]


def _split(line: str) -> list[str]:
    return [word for word in _BETWEEN_WORDS.split(line) if word]
