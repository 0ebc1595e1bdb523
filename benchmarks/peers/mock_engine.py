"""A remote engine that answers at once: Open Inference Protocol for Salon, OpenAI's API for everybody else. 50,000 bytes of base64.

python benchmarks/peers/mock_engine.py PORT
"""

import asyncio
import json
import os
import sys

import numpy as np
import uvloop

from serving.protocol.wire import InferResponse, Tensor, encode_response

# what a PNG begins with, and noise: 50,000 characters of base64
PICTURE = b"\x89PNG\r\n\x1a\n" + os.urandom(37_492)


def answers() -> dict[str, bytes]:
    """Whole HTTP answers by the word in the path that asks for them."""
    import base64

    base64_picture = base64.b64encode(PICTURE).decode()
    loaded = {"name": "v", "digest": "sha256:" + "0" * 64, "width": 512, "height": 512, "model": "mock-512x512"}
    completion = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "mock",
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": base64_picture}}],
    }  # fmt: skip
    tensors = {
        "ENCODED": Tensor("ENCODED", "BYTES", (1,), [PICTURE]),
        **{name: Tensor(name, "FP32", (1,), np.array([1.0], np.float32)) for name in ("QUEUE_MS", "SERVICE_MS", "BATCH_ROWS")},
        **{name: Tensor(name, "INT32", (1,), np.array([2], np.int32)) for name in ("STEPS", "ROWS")},
    }
    body, length = encode_response(
        InferResponse(model_name="mock-512x512", outputs=tensors, parameters={"predicted_queue_ms": 0.0}), list(tensors)
    )
    return {
        "/load": http(json.dumps(loaded).encode()),
        "/infer": http(body, f"Inference-Header-Content-Length: {length}\r\n", "application/octet-stream"),
        "/images/generations": http(json.dumps({"created": 1, "data": [{"b64_json": base64_picture}]}).encode()),
        "/chat/completions": http(json.dumps(completion).encode()),
        "/v2": http(b"{}"),
    }


def http(body: bytes, more: str = "", media_type: str = "application/json") -> bytes:
    """A 200 with `body`."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(port: int) -> None:
    """Until it is killed."""
    known = answers()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                sizes = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")]
                if sizes and sizes[0]:
                    await reader.readexactly(sizes[0])
                path = lines[0].split(" ")[1]
                writer.write(next(answer for word, answer in known.items() if word in path))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", port, limit=1 << 20)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(int(sys.argv[1])))
