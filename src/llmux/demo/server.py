"""The server of one demo model: ``python -m llmux.demo.server --model smollm2 --port 8001``.

A llama.cpp server (through xllamacpp) with OpenAI's routes on 127.0.0.1, small enough for a laptop. Runs in the
foreground until it is killed, which loses nothing.
"""

from __future__ import annotations

import argparse
import os
import signal

from llmux.demo.models import MODELS, DemoModel


def serve(model: DemoModel, port: int, threads: int) -> None:
    """Load `model` and serve it, for ever.

    Raises:
        ModuleNotFoundError: the ``[demo]`` extra is not installed.
        RuntimeError: the port cannot be bound, or the weights cannot be loaded.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model.weights())
    params.model_alias = {model.name}
    params.port = port
    params.chat_template = model.chat_template
    params.antiprompt = list(model.stop)
    params.sampling.temp = 0.0  # the same answer each time; small models are at their best so
    params.sampling.penalty_repeat = 1.05
    params.n_predict = 96  # unless the request says otherwise: they do not always know when to stop
    params.n_ctx = 4096
    params.n_parallel = 2
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.fit_params = False  # no search for how much fits: it does
    params.warmup = False
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    print(f"{model.title} on {server.listening_address}", flush=True)  # noqa: T201  # into the server's log
    while True:
        signal.pause()


def _default_threads() -> int:
    """Half the cores: llama.cpp's threads wait for each other by spinning, which goes badly where all are taken."""
    return min(4, max(1, (os.cpu_count() or 1) // 2))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llmux.demo.server", description="Serve one of the demo's models.")
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=_default_threads())
    options = parser.parse_args()
    serve(MODELS[options.model], options.port, options.threads)


if __name__ == "__main__":
    main()
