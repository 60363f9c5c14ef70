"""``python -m llmux``: the same as ``llmux``."""

from __future__ import annotations

from llmux.cli import main

if __name__ == "__main__":
    main()
