"""``python -m llmux.testing backend …`` is ``llmux backend …`` without the rest of llmux, so it starts sooner."""

from __future__ import annotations

import argparse
import math

from llmux.testing.backend import SimulatedBackend, run_backend


def main(arguments: list[str] | None = None) -> int:
    """Parse `arguments` (default: the process's own) and serve until a signal; returns the exit status."""
    parser = argparse.ArgumentParser(prog="llmux")
    backend = parser.add_subparsers(required=True).add_parser("backend", help="a simulated OpenAI-like backend")
    backend.add_argument("--model", action="append", help="a name it answers to; may be repeated")
    backend.add_argument("--host", default="127.0.0.1")
    backend.add_argument("--port", type=int, required=True)
    backend.add_argument("--tokens-per-second", type=float, default=50.0, help="of one stream")
    backend.add_argument("--batch-tokens-per-second", type=float, default=math.inf, help="of all streams together")
    backend.add_argument("--batch", type=int, help="most answers at a time; further ones wait")
    backend.add_argument("--full-batch-tokens-per-second", type=float, help="of one stream in a full batch")
    backend.add_argument("--prompt-tokens-per-second", type=float, default=math.inf)
    backend.add_argument("--first-token-secs", type=float, default=0.0)
    backend.add_argument("--load-secs", type=float, default=0.0)
    backend.add_argument("--tokens", type=int, default=16, help="length of an answer")
    backend.add_argument("--sleep-mode", action="store_true", help="serve vLLM-like /sleep, /wake_up, /is_sleeping")
    options = vars(parser.parse_args(arguments))
    host, port, model = options.pop("host"), options.pop("port"), options.pop("model")
    run_backend(SimulatedBackend(model or "simulated", **options), host=host, port=port)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
