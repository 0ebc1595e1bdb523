"""One call on a CUDA machine: build a model's graphs, check torch on the GPU against the CPU engine, time the UNet's step.

python benchmarks/gpu.py [MODEL] [--rows 1,2,4,8,16]

The check draws the same pictures (prompt, seed, sampler) twice: by the embedded ONNX engine on the CPU, and by diffusers'
modules in torch on the GPU in fp32 without TF32. It fails past TOLERANCE_LEVELS of 255 in any pixel. Then the UNet's
step is timed in fp16, launched from Python ("eager") and replayed as one CUDA graph. Exits with 1 without CUDA, or when the check fails.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray

TOLERANCE_LEVELS = 4
PROMPTS, STEPS, GUIDANCE = ("a red heart", "pizza"), 10, 2.0
WARM_UPS, REPEATS = 5, 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="salon/emoji-64", help="a packaged model, or a directory in diffusers layout")
    parser.add_argument("--rows", default="1,2,4,8,16")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no CUDA device here, or torch was built without CUDA: nothing was measured", file=sys.stderr)
        return 1
    device = torch.device("cuda")
    print(machine("torch", "diffusers", "onnxruntime"))
    print(f"{torch.cuda.get_device_name()} · CUDA {torch.version.cuda} · model {arguments.model}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    modules = Modules(arguments.model, device, torch.float32)
    largest, mean = compare(by_engine(arguments.model), modules.pictures())
    print(f"fp32 against the CPU engine: at most {largest} of 255 levels apart, {mean:.3f} on average (allowed: {TOLERANCE_LEVELS})")
    if largest > TOLERANCE_LEVELS:
        print("FAILED")
        return 1
    modules = Modules(arguments.model, device, torch.float16)
    for rows in map(int, arguments.rows.split(",")):
        eager, graphed = modules.step_ms(rows)
        print(f"UNet step, fp16, {rows:3} rows: eager {eager:8.3f} ms, CUDA graph {graphed:8.3f} ms, {rows / graphed * 1000:10,.0f} rows/s")
    print(f"highest GPU memory: {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB")
    return 0


def by_engine(model: str) -> NDArray[np.uint8]:
    """PROMPTS with seeds 0, 1, … from the embedded engine; uint8 [n, h, w, 3]. Exports the graphs when there are none."""
    from serving.engine import Job, LocalEngine
    from serving.registry import Registry
    from serving.variant import Variant

    variant = Variant(model=model, steps=STEPS, guidance=GUIDANCE)
    with tempfile.TemporaryDirectory() as folder:
        engine = LocalEngine(Registry(folder), cache=Path(folder))
        try:
            engine.load(variant)
            futures = [engine.submit(Job(variant=variant, prompt=prompt, seed=i)) for i, prompt in enumerate(PROMPTS)]
            return np.stack([future.result().rgb for future in futures])
        finally:
            engine.close()


class Modules:
    """diffusers' and transformers' own modules of a model directory, in torch on `device`."""

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        from serving.model import open_model
        from serving.tokenizer import ClipTokenizer

        with tempfile.TemporaryDirectory() as cache:
            self.model = open_model(model, Path(cache))
        folder = self.model.folder
        self.device, self.dtype = device, dtype
        self.tokenizer = ClipTokenizer(folder / "tokenizer", self.model.text.max_position_embeddings)

        def load(kind: Any, part: str) -> Any:
            return kind.from_pretrained(folder / part, torch_dtype=dtype).to(device).eval().requires_grad_(False)

        self.text, self.unet = load(CLIPTextModel, "text_encoder"), load(UNet2DConditionModel, "unet")
        self.vae = load(AutoencoderKL, "vae")

    @torch.inference_mode()
    def pictures(self) -> NDArray[np.uint8]:
        """The same as `by_engine`, by the same table of sampler coefficients and the same noise."""
        from serving.noise import initial_noise
        from serving.samplers import table
        from serving.variant import Variant

        columns = table(self.model.scheduler, Variant(model="").scheduler, STEPS)
        shape = (self.model.vae.latent_channels, self.model.latent_height, self.model.latent_width)
        noise = np.stack([initial_noise(seed, shape) for seed in range(len(PROMPTS))]) * np.float32(columns.start)
        x, before = self._tensor(noise), torch.zeros_like(self._tensor(noise))
        embedded = self._embed([*PROMPTS, *[""] * len(PROMPTS)])
        for t, p, q, a, b, c in zip(columns.timesteps, columns.p, columns.q, columns.a, columns.b, columns.c, strict=True):
            timesteps = torch.full((2 * len(x),), float(t), device=self.device)
            with_prompt, without = self.unet(torch.cat([x, x]), timesteps, embedded, return_dict=False)[0].chunk(2)
            estimate = float(p) * x + float(q) * (without + GUIDANCE * (with_prompt - without))
            x, before = float(a) * x + float(b) * estimate + float(c) * before, estimate
        decoded = self.vae.decode(x / self.model.vae.scaling_factor + (self.model.vae.shift_factor or 0.0), return_dict=False)[0]
        pixels: NDArray[np.uint8] = (decoded.float() * 0.5 + 0.5).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    @torch.inference_mode()
    def step_ms(self, rows: int) -> tuple[float, float]:
        """Median milliseconds of one UNet call on `rows` rows: eager, and as a CUDA graph."""
        height, width = self.model.latent_height, self.model.latent_width
        sample = torch.randn(rows, self.model.vae.latent_channels, height, width, device=self.device, dtype=self.dtype)
        timesteps = torch.full((rows,), 500.0, device=self.device)
        embedded = self._embed(["a red heart"]).expand(rows, -1, -1).contiguous()

        def step() -> None:
            self.unet(sample, timesteps, embedded, return_dict=False)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return _median_ms(step), _median_ms(graph.replay)

    def _tensor(self, array: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)

    def _embed(self, texts: list[str]) -> torch.Tensor:
        ids = torch.from_numpy(np.stack([self.tokenizer(text) for text in texts])).to(self.device)
        embedded: torch.Tensor = self.text(input_ids=ids, return_dict=False)[0]
        return embedded


def compare(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> tuple[int, float]:
    """The largest and the mean distance of two batches of pictures, in levels of 255."""
    apart = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return int(apart.max()), float(apart.mean())


def _median_ms(work: Callable[[], object]) -> float:
    times: list[float] = []
    for i in range(WARM_UPS + REPEATS):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        if i >= WARM_UPS:
            times.append(begun.elapsed_time(ended))
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
