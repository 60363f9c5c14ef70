"""Stand-ins for model servers, with the routes that the recipes use and the bad habits that the real ones have.

A program of its own, started as ``python backends.py KIND PORT FOLDER NAME``. While it holds "memory" there is a file
FOLDER/NAME.gpu with its pid. Needs the standard library only, so that it starts soon.

plain   /health says 503 while it loads.
vllm    /health says 200 while it sleeps, and listens only once it has loaded. Going to sleep breaks off what is under
        way, unless mode=wait; the prompt `long` takes until then. At level 2 it answers "!!!!" until its weights are
        read again, and "????" from its cache until that is reset. Being asked while it sleeps ends its engine. By its
        name: `deadly`, going to sleep ends its engine and is answered with 200; `undead`, the same, and it goes on
        saying that it sleeps; `leaky`, it keeps its memory while it sleeps; `sleepless`, it does not wake up.
sglang  Releasing answers before the memory is free, /model_info goes on saying 200, /health does not; releasing or
        resuming twice is an error that ends the engine.
        The name `broken` ends any of these at once, and `flood` prints far too much.
ollama  Unloading answers before the memory is free.
tabby   Loading answers 200 and then says in its stream what went wrong. Without a model, /v1/model is an error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LOAD_SECS = 0.3
FREE_SECS = 0.5
TABBY_KEY = "tabby-admin-key"


class Memory:
    """Who holds memory, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._freeing: dict[str, threading.Timer] = {}

    def take(self, name: str) -> None:
        if name in self._freeing:
            self._freeing.pop(name).cancel()
        made = self._folder / f"{name}.making"
        made.write_text(str(os.getpid()))
        made.rename(self._file(name))  # whole at once: others read it at any time

    def free(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def free_later(self, name: str) -> None:
        self._freeing[name] = threading.Timer(FREE_SECS, self.free, [name])
        self._freeing[name].start()

    def holds(self, name: str) -> bool:
        return self._file(name).exists()

    def names(self) -> list[str]:
        return sorted(file.stem for file in self._folder.glob("*.gpu"))

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.gpu"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    memory: Memory
    name: str
    began: float

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, value: object = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> dict[str, object]:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        value = json.loads(data) if data else {}
        assert isinstance(value, dict)
        return value

    @property
    def loading(self) -> bool:
        return time.monotonic() < self.began + LOAD_SECS


class Plain(Handler):
    def do_GET(self) -> None:
        self.answer(503 if self.loading else 200 if self.path == "/health" else 404)


class VLLM(Handler):
    engine_lives = True
    level = 0  # at which it sleeps
    weights_are_there = True  # in memory, whatever they are
    cache_is_there = True
    weights_are_right = True
    cache_is_right = True
    going_to_sleep = threading.Event()
    breaks_off = threading.Event()
    under_way = 0

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200 if VLLM.engine_lives else 503)
        elif self.path == "/load":
            self.answer(200, {"server_load": VLLM.under_way})
        elif self.path != "/is_sleeping":
            self.answer(404)
        elif VLLM.engine_lives or self.name.startswith("undead"):
            self.answer(200, {"is_sleeping": VLLM.level > 0})
        else:
            self.answer(500)

    def do_POST(self) -> None:
        path, _, query = self.path.partition("?")
        asked = dict(pair.split("=") for pair in query.split("&") if pair)
        body = self.body()
        if not VLLM.engine_lives:
            self.answer(500)
        elif path == "/v1/completions":
            self.complete(long=body["prompt"] == "long")
        elif path == "/sleep":
            self.fall_asleep(int(asked.get("level", 1)), asked.get("mode", "abort"))
        elif path == "/wake_up":
            self.wake_up(asked.get("tags"))
        elif path == "/collective_rpc" and body == {"method": "reload_weights"}:
            VLLM.weights_are_right = VLLM.weights_are_there
            self.answer(200 if VLLM.weights_are_there else 500)
        elif path == "/reset_prefix_cache":
            VLLM.cache_is_right = VLLM.cache_is_there
            self.answer(200)
        else:
            self.answer(404)

    def complete(self, *, long: bool) -> None:
        if VLLM.level:
            VLLM.engine_lives = False
            self.answer(500)
            return
        VLLM.under_way += 1
        if long:
            VLLM.going_to_sleep.wait(100)
        broken_off = VLLM.breaks_off.wait(LOAD_SECS)
        VLLM.under_way -= 1
        text = "" if broken_off else "Hi" if VLLM.cache_is_right else "????"
        self.answer(200, {"choices": [{"text": text if VLLM.weights_are_right else "!!!!"}]})

    def fall_asleep(self, level: int, mode: str) -> None:
        if mode != "wait":
            VLLM.breaks_off.set()
        VLLM.going_to_sleep.set()
        while VLLM.under_way:
            time.sleep(0.01)
        VLLM.engine_lives = not self.name.startswith(("deadly", "undead"))
        if not self.name.startswith("deadly"):
            VLLM.level = level
            VLLM.weights_are_there = VLLM.cache_is_there = False
            if level == 2:
                VLLM.weights_are_right = VLLM.cache_is_right = False
            if not self.name.startswith(("leaky", "undead")):
                self.memory.free(self.name)
        self.answer(200)

    def wake_up(self, tag: str | None) -> None:
        if self.name.startswith("sleepless"):
            self.answer(500)
            return
        self.memory.take(self.name)
        VLLM.weights_are_there = VLLM.weights_are_there or tag in (None, "weights")
        VLLM.cache_is_there = VLLM.cache_is_there or tag in (None, "kv_cache")
        if VLLM.weights_are_there and VLLM.cache_is_there:
            VLLM.level = 0
        self.answer(200)


class SGLang(Handler):
    asleep = False

    def do_GET(self) -> None:
        if self.path == "/model_info":
            self.answer(503 if self.loading else 200, {"model_path": self.name})
        else:
            self.answer(503)

    def do_POST(self) -> None:
        assert self.body() == {}
        if self.path == "/release_memory_occupation":
            self.turn(asleep=True)
        elif self.path == "/resume_memory_occupation":
            self.turn(asleep=False)
        else:
            self.answer(404)

    def turn(self, *, asleep: bool) -> None:
        if SGLang.asleep is asleep or self.name.startswith("stuck"):
            self.answer(500)
            return
        SGLang.asleep = asleep
        if asleep:
            self.memory.free_later(self.name)
        else:
            self.memory.take(self.name)
        self.answer(200)


class Ollama(Handler):
    known = ("llama3:latest", "qwen:7b", "stuck:latest")

    def do_GET(self) -> None:
        if self.path != "/api/ps":
            self.answer(404)
            return
        self.answer(200, {"models": [{"name": name, "model": name} for name in self.memory.names()]})

    def do_POST(self) -> None:
        asked = self.body()
        model = str(asked["model"])
        model = model if ":" in model else f"{model}:latest"
        if model not in self.known:
            self.answer(404, {"error": f"model '{model}' not found"})
        elif asked["keep_alive"] == 0:
            if model != "stuck:latest":
                self.memory.free_later(model)
            self.answer(200, {"model": model, "done": True, "done_reason": "unload"})
        else:
            time.sleep(LOAD_SECS)
            self.memory.take(model)
            self.answer(200, {"model": model, "done": True, "done_reason": "load"})


class Tabby(Handler):
    def allowed(self) -> bool:
        if self.headers.get("x-admin-key") == TABBY_KEY:
            return True
        self.answer(401, {"detail": "Invalid admin key"})
        return False

    def do_GET(self) -> None:
        if self.allowed():
            names = self.memory.names()
            if names:
                self.answer(200, {"id": names[0], "object": "model"})
            else:
                self.answer(400, {"detail": "No models are currently loaded."})

    def do_POST(self) -> None:
        asked = self.body()
        if not self.allowed():
            return
        if self.path == "/v1/model/unload":
            for name in self.memory.names():
                self.memory.free(name)
            self.answer(200)
            return
        model = str(asked["model_name"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b'data: {"model_type": "model", "module": 1, "modules": 2, "status": "processing"}\n\n')
        self.wfile.flush()
        time.sleep(LOAD_SECS)
        if model == "broken":
            self.wfile.write(b'data: {"error": {"message": "Insufficient VRAM"}}\n\n')
        else:
            self.memory.take(model)
            self.wfile.write(b'data: {"model_type": "model", "module": 2, "modules": 2, "status": "finished"}\n\n')
        self.close_connection = True


KINDS: dict[str, type[Handler]] = {"plain": Plain, "vllm": VLLM, "sglang": SGLang, "ollama": Ollama, "tabby": Tabby}


def say(text: str) -> None:
    """A line of the server's log, with its second."""
    sys.stdout.write(f"{int(time.time())} {text}\n")
    sys.stdout.flush()


def main(kind: str, port: str, folder: str, name: str) -> None:
    memory = Memory(Path(folder))
    say("loading the weights")
    if name == "flood":
        say("\n".join(f"line {number}" for number in range(5000)))
    if name == "broken":
        time.sleep(0.1)
        sys.exit("CUDA out of memory\nthe engine could not be started")
    handler = KINDS[kind]
    handler.memory, handler.name, handler.began = memory, name, time.monotonic()
    if kind == "vllm":
        time.sleep(LOAD_SECS)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    if kind in ("plain", "vllm", "sglang"):
        memory.take(name)

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or each further one would begin the wait anew
        time.sleep(0.2)  # nobody goes at once
        memory.free(name)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
