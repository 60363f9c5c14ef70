"""Hooks of mkdocs: the pages of the site that are not in docs/, and links between the two places.

README.md is the first page. Pages are plain Markdown that GitHub shows as well, so links are those of the repository
there, and are turned into the site's here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "THREAT_MODEL.md": "threat-model.md",
}

_LINK = re.compile(r"\]\(([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the repository's root."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Have the links of one page lead to the site's pages."""
    at_root = page.file.src_uri in PAGES.values()

    def of_site(match: re.Match[str]) -> str:
        target = match[1]
        if at_root and target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}"
        name = target if at_root else target.removeprefix("../")
        return f"]({PAGES.get(name, target)}" if at_root or target.startswith("../") else match[0]

    return _LINK.sub(of_site, markdown)
