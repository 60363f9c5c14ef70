"""Clients that ask one question after another, look at every byte of the answers, and now and then leave."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from llmux.testing.backend import answer_text

from .box import TOKENS, Box
from .judge import End

DEADLINE = 120.0
"""Longer than any request may take here, in seconds."""


@dataclass
class Tally:
    """What became of the requests."""

    ends: Counter[str] = field(default_factory=Counter)
    judged: list[End] = field(default_factory=list)
    """Refused and cut: these need a cause."""
    lost: list[str] = field(default_factory=list)
    minutes: Counter[int] = field(default_factory=Counter)
    """Right answers in each minute."""


class CutError(Exception):
    """The answer was broken off, and said so."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Client:
    """One of them. It does what it is told: comes again after Retry-After, or a few seconds at most."""

    def __init__(self, number: int, box: Box, tally: Tally, seed: int, began: float) -> None:
        self.number = number
        self.box = box
        self.tally = tally
        self.began = began
        self.random = random.Random(f"{seed}/{number}")  # noqa: S311  # a load, not a secret
        self.asked = 0
        self.pause = 0.0
        self.names = list(box.ports)
        self.weights = [1 / (rank + 1) for rank in range(len(self.names))]

    async def run(self, until: float) -> None:
        async with httpx.AsyncClient(base_url=self.box.url, timeout=DEADLINE) as client:
            while time.monotonic() < until:
                await asyncio.sleep(self.random.expovariate(2.0) + self.pause)
                self.pause = 0.0
                await self.ask(client)

    async def ask(self, client: httpx.AsyncClient) -> None:
        self.asked += 1
        model = self.random.choices(self.names, self.weights)[0]
        asked_for = self.box.aliases.get(model, model) if self.random.random() < 0.3 else model
        prompt = f"client {self.number} question {self.asked}"
        streamed = self.random.random() < 0.7
        patience = self.random.uniform(0.01, 3.0) if self.random.random() < 0.1 else DEADLINE
        body = {"model": asked_for, "messages": [{"role": "user", "content": prompt}], "stream": streamed}
        began, what = time.monotonic(), f"{asked_for}, {prompt!r}"
        status, code = 0, ""
        try:
            async with asyncio.timeout(patience):
                status, text, complete = await (self.stream if streamed else self.whole)(client, body)
        except TimeoutError:
            if patience < DEADLINE:
                self.tally.ends["left"] += 1
            else:
                self.lose(f"{what}: no answer within {DEADLINE:.0f} s")
            return
        except CutError as error:
            code = error.code
        except httpx.ConnectError:
            code, self.pause = "connect", 1.0
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            code = "broken"
        except (httpx.HTTPError, ValueError, LookupError) as error:
            self.lose(f"{what}: {type(error).__name__} {error}")
            return
        else:
            if status == 200:
                self.look(what, text, complete, answer_text(model, prompt, TOKENS))
                return
            code = self.code(text)
        kind = "refused" if status else "cut"
        self.tally.ends[kind] += 1
        self.tally.judged.append(End(model, what, began, time.monotonic(), kind, status, code))

    def lose(self, what: str) -> None:
        self.tally.ends["lost"] += 1
        self.tally.lost.append(what)

    def look(self, what: str, text: str, complete: bool, expected: str) -> None:
        if not complete:
            self.lose(f"{what}: half an answer that ended cleanly, {text!r}")
        elif text != expected:
            self.lose(f"{what}: answered {text!r}")
        else:
            self.tally.ends["right"] += 1
            self.tally.minutes[int((time.monotonic() - self.began) // 60)] += 1

    @staticmethod
    def code(text: str) -> str:
        """llmux's code of an error; what was said, where there is none."""
        try:
            error = json.loads(text)["error"]
            return "as scripted" if error["message"] == "as scripted" else str(error["code"])
        except (ValueError, LookupError, TypeError):
            return repr(text[:100])

    async def whole(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, str, bool]:
        response = await client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            self.heed(response)
            return response.status_code, response.text, False
        return 200, response.json()["choices"][0]["message"]["content"], True

    async def stream(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, str, bool]:
        pieces: list[str] = []
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                self.heed(response)
                return response.status_code, (await response.aread()).decode(), False
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return 200, "".join(pieces), True
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    if "error" in event:  # its head came while it waited, or some of its answer
                        raise CutError(self.code(line[6:]))
                    pieces.append(event["choices"][0]["delta"].get("content", ""))
        return 200, "".join(pieces), False

    def heed(self, response: httpx.Response) -> None:
        self.pause = min(3.0, float(response.headers.get("retry-after", 0)))
