"""A small server of the Open Inference Protocol with faults, built on the codec of `serving.protocol`."""

import asyncio
import hashlib
import io

import msgspec
import numpy as np
from aiohttp import web
from PIL import Image

from serving.protocol.wire import InferResponse, Tensor, decode_request, encode_response
from serving.variant import Variant

LENGTH = "Inference-Header-Content-Length"


def solid(seed: int) -> np.ndarray:
    """What the double draws: one colour, told by the seed."""
    return np.full((8, 8, 3), seed % 251, np.uint8)


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(solid(seed), "RGB").save(out, "PNG")
    return out.getvalue()


class Double:
    """One worker on a port of its own. `fault`: how it answers an infer, one of "", "503", "429", "500", "504", "400", "dies", "garbled",
    "malformed", "silent"; `once` of them only. `weights` go into the digest. `metadata`: it is a server of others."""

    def __init__(self, weights: str = "w", metadata: dict | None = None, token: str | None = None, ssl_context=None) -> None:
        self.weights, self.metadata, self.token, self.ssl_context = weights, metadata, token, ssl_context
        self.fault, self.once = "", False
        self.retry_after, self.backlog_ms, self.seconds = 1.0, 0.0, 0.0
        self.loads: list[str] = []
        self.requests: list = []
        self.cancelled = 0
        self.variants: dict[str, Variant] = {}
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.ssl_context else 'http'}://127.0.0.1:{self.port}"

    async def start(self) -> "Double":
        app = web.Application(client_max_size=1 << 24, middlewares=[self._guard])
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/health/ready", self._live)
        app.router.add_post("/v2/repository/models/{name}/load", self._load)
        app.router.add_get("/v2/models/{model}", self._describe)
        app.router.add_post("/v2/models/{model}/infer", self._infer)
        app.router.add_post("/v2/models/{model}/versions/{version}/infer", self._infer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=max(0.1, 2 * self.seconds))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.ssl_context, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        await self._runner.cleanup()
        self.variants.clear()

    @web.middleware
    async def _guard(self, request: web.Request, handler):
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "no"}, status=401)
        return await handler(request)

    async def _live(self, request: web.Request) -> web.Response:
        if self.fault == "silent":
            await asyncio.sleep(60)
        return web.json_response({})

    async def _load(self, request: web.Request) -> web.Response:
        variant = msgspec.json.decode((await request.json())["parameters"]["variant"], type=Variant)
        self.loads.append(request.match_info["name"])
        if variant.model == "broken":
            return web.json_response({"error": "model 'broken': there is no such directory"}, status=400)
        digest = "sha256:" + hashlib.sha256(msgspec.json.encode([variant, self.weights])).hexdigest()
        self.variants[digest] = variant
        return web.json_response({"name": request.match_info["name"], "digest": digest, "width": 8, "height": 8, "model": "m-8x8"})

    async def _describe(self, request: web.Request) -> web.Response:
        if self.metadata is None or request.match_info["model"] != self.metadata["name"]:
            return web.json_response({"error": "unknown model"}, status=404)
        return web.json_response(self.metadata)

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        length = request.headers.get(LENGTH)
        asked = decode_request(await request.read(), int(length) if length else None)
        self.requests.append((request.path, asked))
        fault, self.fault = self.fault, "" if self.once else self.fault
        if fault == "dies":
            await asyncio.sleep(self.seconds)
            request.transport.abort()
            return web.Response()
        if fault == "malformed":
            return web.Response(body=b'{"model_name": 7')
        if fault.isdigit():
            headers = {"Retry-After": str(self.retry_after)} if fault == "429" else {}
            return web.json_response({"error": f"fault {fault}"}, status=int(fault), headers=headers)
        try:
            await asyncio.sleep(60 if fault == "silent" else self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.metadata is None and asked.inputs["VARIANT"].data[0].decode() not in self.variants:
            return web.json_response({"error": "unknown variant"}, status=400)
        return self._answer(asked, garbled=fault == "garbled")

    def _answer(self, asked, garbled: bool) -> web.Response:
        seeds = [int(seed) for seed in asked.inputs["SEED"].data.reshape(-1)]
        n = len(seeds)
        made = {
            "ENCODED": Tensor("ENCODED", "BYTES", (n,), [b"GIF" if garbled else png(seed) for seed in seeds]),
            "IMAGE": Tensor("IMAGE", "UINT8", (n, 8, 8, 3), np.stack([solid(seed) for seed in seeds])),
            "QUEUE_MS": Tensor("QUEUE_MS", "FP32", (n,), np.full(n, 5, np.float32)),
            "SERVICE_MS": Tensor("SERVICE_MS", "FP32", (n,), np.full(n, 40, np.float32)),
            "STEPS": Tensor("STEPS", "INT32", (n,), np.full(n, 2, np.int32)),
            "ROWS": Tensor("ROWS", "INT32", (n,), np.full(n, 2, np.int32)),
            "BATCH_ROWS": Tensor("BATCH_ROWS", "FP32", (n,), np.full(n, 4, np.float32)),
        }
        names = [each.name for each in asked.outputs]
        response = InferResponse(
            model_name="m", outputs={name: made[name] for name in names}, parameters={"predicted_queue_ms": self.backlog_ms}
        )
        body, length = encode_response(response, names)
        return web.Response(body=body, headers={LENGTH: str(length)})
