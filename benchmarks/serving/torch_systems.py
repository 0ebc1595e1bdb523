"""Two ways in torch: peft's mixed batch, and diffusers' own pipelines one image at a time. Both get the same noise as Salon."""

import os
from collections import deque
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft.tuners.lora import LoraLayer
from systems import Line, Order, Pixels, Task

from serving.model import locate
from serving.noise import initial_noise
from serving.tokenizer import ClipTokenizer


def _pipeline(task: Task) -> Any:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    pipeline = StableDiffusionPipeline.from_pretrained(locate(task.model), safety_checker=None, torch_dtype=torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _noise(pipeline: Any, seeds: list[int]) -> torch.Tensor:
    config = pipeline.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    return torch.from_numpy(np.stack([initial_noise(seed, shape) for seed in seeds]))


def _bytes(pixels: torch.Tensor) -> Pixels:
    rgb: Pixels = (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    return rgb


class Pipelines:
    def __init__(self, task: Task) -> None:
        self._task, first = task, _pipeline(task)
        self._pipelines = []
        for adapter in task.adapters or [None]:
            pipeline = StableDiffusionPipeline(**{**first.components, "unet": _pipeline(task).unet}, requires_safety_checker=False)
            pipeline.set_progress_bar_config(disable=True)
            if adapter is not None:
                pipeline.load_lora_weights(adapter)
                pipeline.fuse_lora()
                pipeline.unload_lora_weights()
            self._pipelines.append(pipeline)

    def line(self) -> Line:
        return Line(self._one, lambda: False, lambda: None)

    def _one(self, waiting: deque[Order]) -> list[tuple[Order, Pixels]]:
        order, task = waiting.popleft(), self._task
        pipeline = self._pipelines[order.arm]
        with torch.inference_mode():
            made = pipeline(
                order.prompt, num_inference_steps=task.steps, guidance_scale=task.guidance,
                latents=_noise(pipeline, [order.seed]), output_type="pt",
            )  # fmt: skip
        return [(order, _bytes(made.images * 2 - 1)[0])]


class PeftMixed:
    """Batches of whoever waits, arms mixed by `adapter_names`; a batch ends before the next begins. Texts are kept, as Salon keeps them."""

    def __init__(self, task: Task) -> None:
        self._task, self._pipeline = task, _pipeline(task)
        self._tokenizer = ClipTokenizer(locate(task.model) / "tokenizer", self._pipeline.text_encoder.config.max_position_embeddings)
        for arm, adapter in enumerate(task.adapters):
            self._pipeline.load_lora_weights(adapter, adapter_name=f"arm{arm}")
        self._names: list[str] = []
        if task.adapters:
            for module in self._pipeline.unet.modules():
                if isinstance(module, LoraLayer):
                    module.register_forward_pre_hook(self._name_rows, with_kwargs=True)
        self._texts: dict[str, torch.Tensor] = {}

    def line(self) -> Line:
        return Line(self._batch, lambda: False, lambda: None)

    def _name_rows(self, module: Any, inputs: Any, named: dict[str, Any]) -> Any:
        return inputs, {**named, "adapter_names": self._names}

    def _text(self, prompt: str) -> torch.Tensor:
        if prompt not in self._texts:
            ids = torch.from_numpy(np.stack([self._tokenizer(prompt)]))
            self._texts[prompt] = self._pipeline.text_encoder(input_ids=ids, return_dict=False)[0][0]
        return self._texts[prompt]

    @torch.inference_mode()
    def _batch(self, waiting: deque[Order]) -> list[tuple[Order, Pixels]]:
        task, pipeline = self._task, self._pipeline
        orders = [waiting.popleft() for _ in range(min(len(waiting), task.rows // task.rows_each))]
        x = _noise(pipeline, [order.seed for order in orders])
        guided = task.rows_each == 2
        embedded = torch.stack([self._text(order.prompt) for order in orders] + [self._text("")] * (len(orders) if guided else 0))
        self._names[:] = [f"arm{order.arm}" for order in orders] * task.rows_each
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        scheduler.set_timesteps(task.steps)
        for timestep in scheduler.timesteps:
            rows = torch.cat([x, x]) if guided else x
            output = pipeline.unet(rows, timestep, embedded, return_dict=False)[0]
            if guided:
                with_prompt, without = output.chunk(2)
                output = without + task.guidance * (with_prompt - without)
            x = scheduler.step(output, timestep, x).prev_sample
        pixels = _bytes(pipeline.vae.decode(x / pipeline.vae.config.scaling_factor, return_dict=False)[0])
        return list(zip(orders, pixels, strict=True))
