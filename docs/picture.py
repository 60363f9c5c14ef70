"""The README's picture of the demo: a terminal's screen, with its colours, as SVG.

tmux new-session -d -s demo -x 112 -y 50 '.venv/bin/llmux demo'
sleep 12; tmux capture-pane -e -p -t demo | .venv/bin/python docs/picture.py > docs/demo.svg
"""

from __future__ import annotations

import io
import re
import sys

from rich.console import Console
from rich.text import Text


def main() -> None:
    lines = sys.stdin.read().rstrip().split("\n")
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    # From the first question on; what is above depends on where the demo was run.
    begin = next(number for number, line in enumerate(plain) if line.startswith("1 "))
    console = Console(record=True, width=112, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("\n".join(lines[begin:])))
    svg = console.export_svg(title="llmux demo")
    # A page that shows the picture should not have to fetch fonts from elsewhere for it.
    sys.stdout.write(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
