"""What a gateway would cost that does nothing: Litestar, and aiohttp behind it. It logs nothing and assigns nobody.

python benchmarks/peers/pass_through.py PORT UPSTREAM_PORT
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn
from litestar import Litestar, Request, Response, post
from litestar.datastructures import State

UPSTREAM = f"http://127.0.0.1:{sys.argv[2]}/v1/images/generations"


@asynccontextmanager
async def session(app: Litestar) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as client:
        app.state.client = client
        yield


@post("/v1/images/generations", status_code=200)
async def generate(request: Request[Any, Any, Any], state: State) -> Response[bytes]:
    async with state.client.post(UPSTREAM, data=await request.body(), headers={"content-type": "application/json"}) as answer:
        return Response(await answer.read(), media_type="application/json")


if __name__ == "__main__":
    app = Litestar([generate], lifespan=[session], logging_config=None, openapi_config=None)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
