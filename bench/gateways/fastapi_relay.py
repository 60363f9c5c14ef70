"""A relay as a team would write it in an afternoon: FastAPI and httpx. One of the peers; run by uvicorn."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

BACKENDS: dict[str, str] = json.loads(os.environ["BACKENDS"])
HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/{path:path}")
async def relay(path: str, request: Request) -> StreamingResponse:
    body = await request.body()
    backend = BACKENDS.get(json.loads(body).get("model"))
    if backend is None:
        raise HTTPException(404)
    client: httpx.AsyncClient = request.app.state.client
    headers = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
    forwarded = client.build_request("POST", f"{backend}/{path}", content=body, headers=headers)
    response = await client.send(forwarded, stream=True)
    return StreamingResponse(
        response.aiter_raw(),
        status_code=response.status_code,
        headers={name: value for name, value in response.headers.items() if name not in HOP_BY_HOP},
        background=BackgroundTask(response.aclose),
    )
