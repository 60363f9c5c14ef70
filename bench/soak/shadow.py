"""Who really holds memory: written down by the hooks themselves, whatever llmux believes.

Text for the shell, and the reading of what it wrote; starts nothing. A wake hook claims its devices before it does
anything else, and a sleep hook gives them up once the server is gone. A claim counts for as long as there is somebody
to hold the memory: the wake hook's own shell, or the server that it has started. Whoever claims a device on which the
claim of another model counts has been woken too early: the line says `overlap`, and the soak has failed. Under one
lock, so that of two who come together one sees the other.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .plan import HOOK_TROUBLE

MARK = "soak_shadow"
"""A word that only our hooks have in their command line."""

_BODY = """\
# @MARK@
note() { echo "$(date +%s.%N) $LLMUX_MODEL $LLMUX_HOOK $*" >>"$box/shadow.log"; }
counts() {  # is there still somebody behind this claim?
    read -r claim_hook claim_pid_file <"$1" || return 1
    grep -qs @MARK@ "/proc/$claim_hook/cmdline" || grep -qs llmux.testing "/proc/$(cat "$claim_pid_file")/cmdline"
} 2>/dev/null
mine() { for claim in "$box"/held/*/"$LLMUX_MODEL"; do if [ -e "$claim" ] && counts "$claim"; then return 0; fi; done
    return 1; }
claim() (
    flock 9
    if mine; then wanted=$(cd "$box/held" && for one in */"$LLMUX_MODEL"; do dirname "$one"; done)
    else
        rm -f "$box"/held/*/"$LLMUX_MODEL"
        wanted=$(echo "${LLMUX_DEVICES:-$possible}" | tr , ' ')
    fi
    for device in $wanted; do
        for other in "$box/held/$device"/*; do
            [ -e "$other" ] || continue
            [ "$(basename "$other")" = "$LLMUX_MODEL" ] && continue
            if counts "$other"; then note overlap "$device" "$(basename "$other")"; fi
        done
        echo "$$ $pid_file" >"$box/held/$device/$LLMUX_MODEL"
    done
    note claim $wanted
) 9>"$box/shadow.lock"
unclaim() (
    flock 9
    rm -f "$box"/held/*/"$LLMUX_MODEL"
    note free
) 9>"$box/shadow.lock"
""".replace("@MARK@", MARK)


@dataclass(frozen=True, slots=True)
class Note:
    """What a hook wrote down: `what` is `claim`, `free`, `trouble` or `overlap`. `at` is Unix time in seconds."""

    at: float
    model: str
    hook: str
    what: str
    detail: str


def shadowed(
    script: str, hook: str, *, box: Path, model: str, devices: Sequence[str], pid_file: Path, trouble: bool = True
) -> str:
    """A hook's script that keeps the shadow, and gets into trouble where a file says so. `devices` are all on which
    `model` may ever be."""
    head = f"box={shlex.quote(str(box))} pid_file={shlex.quote(str(pid_file))} possible={','.join(devices)}\n{_BODY}"
    if hook == "wake":
        head += "claim\n"
    if trouble:
        for name, text in HOOK_TROUBLE.items():
            head += f'if rm "$box/{model}.{hook}.{name}" 2>/dev/null; then\nnote trouble {name}\n{text}\nfi\n'
    return head + script + ("\nunclaim\n" if hook == "sleep" else "")


def read_notes(path: Path) -> list[Note]:
    """All that was written down, oldest first."""
    if not path.exists():
        return []
    notes = []
    for line in path.read_text().splitlines():
        at, model, hook, what, *rest = line.split()
        notes.append(Note(float(at), model, hook, what, " ".join(rest)))
    return notes
