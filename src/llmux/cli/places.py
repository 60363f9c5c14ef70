"""Whether llmux will be able to write where a configuration has it write: what it learns, its event and access logs.

Looks only: makes nothing and opens nothing, so it can be wrong about a disk that is full, or where rights are more than
those of users and groups.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmux.config import Config


def place_problems(config: Config) -> list[tuple[str, str]]:
    """What llmux would not start for: keys of the configuration, and what is wrong there."""
    logs = {"event_log": config.event_log_path, "access_log": config.access_log_path}
    found = [(key, fault) for key, path in logs.items() if path is not None and (fault := _file_fault(path))]
    folder = config.state_path
    if folder is not None and (fault := _folder_fault(folder)):
        found.append(("state_dir", fault))
    return found


def _folder_fault(folder: Path) -> str:
    """Why no file can be made in `folder`, which may still have to be made; empty if nothing speaks against it."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not os.path.isdir(there):
        return f"{there} is not a folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written by {_whoami()}"
    return ""


def _file_fault(path: Path) -> str:
    """Why `path` cannot be appended to, or made; its folder must be there."""
    if os.path.isdir(path):
        return f"{path} is a folder"
    if not os.path.isdir(path.parent):
        return f"there is no folder {path.parent}"
    if os.path.exists(path):
        return "" if os.access(path, os.R_OK | os.W_OK) else f"{path} cannot be written by {_whoami()}"
    return _folder_fault(path.parent)


def _whoami() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
