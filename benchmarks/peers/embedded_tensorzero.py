"""TensorZero's embedded client in this process, asked for chat answers as long as a picture; it makes no images. Runs in its own venv.

python benchmarks/peers/embedded_tensorzero.py UPSTREAM_PORT SECONDS CLIENTS
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from tensorzero import AsyncTensorZeroGateway

CONFIG = """
[gateway]
observability.enabled = false
[models.mock]
routing = ["mock"]
[models.mock.providers.mock]
type = "openai"
model_name = "mock"
api_base = "http://127.0.0.1:{port}/v1/"
api_key_location = "none"
[functions.hero]
type = "chat"
[functions.hero.variants.base]
type = "chat_completion"
model = "mock"
weight = 0.5
[functions.hero.variants.vivid]
type = "chat_completion"
model = "mock"
weight = 0.5
"""


async def main(port: int, seconds: float, clients: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "tensorzero.toml"
        config.write_text(CONFIG.format(port=port))
        gateway = await AsyncTensorZeroGateway.build_embedded(config_file=str(config))
        waits: list[float] = []

        async def one(until: float) -> None:
            while time.perf_counter() < until:
                sent = time.perf_counter()
                answer = await gateway.inference(function_name="hero", input={"messages": [{"role": "user", "content": "a red heart"}]})
                assert len(answer.content[0].text) == 50_000
                waits.append(time.perf_counter() - sent)

        await one(time.perf_counter() + 0.5)
        waits.clear()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(began + seconds) for _ in range(clients)))
        cpu = time.process_time() - cpu
        waits.sort()
        print(
            json.dumps(
                {
                    "requests": len(waits),
                    "cpu_seconds": cpu,
                    "p50_ms": waits[len(waits) // 2] * 1000,
                    "seconds": time.perf_counter() - began,
                }
            )
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
