"""``python -m llmux``: the same as ``llmux``."""

from __future__ import annotations

import sys

from llmux.cli import main

if __name__ == "__main__":
    sys.exit(main())
