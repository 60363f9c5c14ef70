"""The command line: `python -m bench.gateways --help`, in the repository."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from pathlib import Path

from .bench import Bench
from .install import install
from .measures import MEASURES
from .peers import PEERS, which
from .report import Run, write

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gateways", description=__doc__)
    parser.add_argument("--install", action="store_true", help="get the peers that are not there yet")
    parser.add_argument("--peers-in", type=Path, default=ROOT / ".peers", metavar="FOLDER", help="where the peers are")
    keys = [peer.key for peer in PEERS]
    parser.add_argument("--peers", default=",".join(keys), help="of these (default: all): %(default)s")
    parser.add_argument("--measures", default=",".join(MEASURES), help="of these (default: all): %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each peer in each case (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a round of everything, short: to see that all works")
    parser.add_argument("--plain", action="store_true", help="without wrk, and without nginx as a backend")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write speed.md, speed.json and speed.svg there")
    options = parser.parse_args()
    wanted, measures = options.peers.split(","), options.measures.split(",")
    for given, known in ((wanted, keys), (measures, list(MEASURES))):
        unknown = set(given) - set(known)
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    folder = options.peers_in.absolute()
    skipped = install(folder, set(wanted)) if options.install else {}
    peers = [peer(folder) for peer in PEERS if peer.key in wanted]
    for peer in peers:
        if peer.program() is None:
            skipped.setdefault(peer.key, "it is not there (`--install` gets it)")
    peers = [peer for peer in peers if peer.program() is not None]
    nginx = None if options.plain else which("nginx", folder / "debian/usr/sbin/nginx")
    wrk = None if options.plain else which("wrk", folder / "debian/usr/bin/wrk")

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = " ".join(["python -m bench.gateways", *sys.argv[1:]])
    run = Run(command, {peer.key: (peer.title, peer.version(), peer.about) for peer in peers}, skipped)
    run.tools = {"nginx": nginx, "wrk": wrk}
    scale, rounds = (0.1, 1) if options.quick else (1.0, options.rounds)
    with Bench.ready(nginx=nginx, wrk=wrk, rounds=rounds, scale=scale) as bench:
        os.sched_setaffinity(0, bench.cores.others)  # this process is the load of streams
        run.cores = bench.cores
        for measure in measures:
            begun = time.monotonic()
            MEASURES[measure](bench, peers)
            print(f"{measure} took {time.monotonic() - begun:.0f} s", file=sys.stderr)
        write(run, bench.results, options.write)


if __name__ == "__main__":
    main()
