"""A variant: one way to make an image, immutable, named by its digest."""

import hashlib
from typing import Annotated, Literal

import msgspec

Scheduler = Literal["ddim", "euler", "dpm++"]
Backend = Literal["onnx", "torch", "tensorrt"]


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides the pixels, besides prompt, negative prompt and seed.

    `model` is a packaged model (`salon/emoji-64`) or a directory in diffusers layout; `adapter` names a LoRA
    (`registry:NAME@sha256:HEX`, or a directory). `guidance` 1 means no guidance.
    """

    model: str
    engine: str = "local"
    backend: Backend = "onnx"
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    guidance: Annotated[float, msgspec.Meta(ge=0.0, le=50.0)] = 2.0
    scheduler: Scheduler = "ddim"
    adapter: str | None = None
    adapter_scale: Annotated[float, msgspec.Meta(ge=-4.0, le=4.0)] = 1.0

    def digest(self, model_digest: str, adapter_digest: str | None = None) -> str:
        """`sha256:` + 64 hex digits over what decides the pixels: `model_digest` (of the model's files), adapter, sampler.

        `adapter_digest` (of the adapter's file) stands for an adapter named by a path, which says nothing of its content.
        """
        facts = [
            model_digest,
            adapter_digest or self.adapter,
            self.adapter_scale if self.adapter else None,
            self.steps,
            self.guidance,
            self.scheduler,
        ]
        return "sha256:" + hashlib.sha256(msgspec.json.encode(facts)).hexdigest()
