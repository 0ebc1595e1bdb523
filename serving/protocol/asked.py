"""An infer request as jobs: which variant, prompts, seeds, steps and guidance, each image's own or one for all."""

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import msgspec

from serving.job import Job
from serving.picture_file import FileFormat
from serving.protocol.refusals import Unreadable
from serving.protocol.tensor import JSON_ELEMENTS, Tensor
from serving.protocol.wire import InferRequest, RequestedOutput
from serving.variant import Variant

IMAGES, PROMPT_CHARACTERS = 64, 32_000
INPUTS = {"PROMPT": "BYTES", "NEGATIVE_PROMPT": "BYTES", "VARIANT": "BYTES", "SEED": "INT64", "STEPS": "INT32", "GUIDANCE": "FP32"}
OUTPUTS = {
    "IMAGE": "UINT8", "QUEUE_MS": "FP32", "SERVICE_MS": "FP32", "ENCODED": "BYTES",
    "SEED": "INT64", "STEPS": "INT32", "ROWS": "INT32", "BATCH_ROWS": "FP32",
}  # fmt: skip
BY_DEFAULT = ("IMAGE", "QUEUE_MS", "SERVICE_MS")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request, understood. `variants` has the text of VARIANT per job, "" where there was none."""

    variants: list[str]
    prompts: list[str]
    negative_prompts: list[str]
    seeds: list[int]
    steps: list[int | None]
    guidances: list[float | None]
    outputs: list[RequestedOutput]
    output_format: FileFormat
    deadline_seconds: float | None
    truncate_prompt: bool = False

    def check_lengths(self, jobs: Sequence[Job], limit_passed: Callable[[Variant, str], int | None]) -> None:
        """Unless they may be cut, prompts must fit what the model reads. Raises Unreadable."""
        if self.truncate_prompt:
            return
        said = [("PROMPT", job.variant, job.prompt) for job in jobs] + [
            ("NEGATIVE_PROMPT", job.variant, job.negative_prompt) for job in jobs
        ]
        for name, variant, text in dict.fromkeys(said):
            if limit := limit_passed(variant, text):
                raise Unreadable(
                    f"input {name}: {text[:40]!r}… has more than the {limit} tokens that the model reads; shorten it, "
                    "or send the parameter truncate_prompt true to have it cut there"
                )

    def jobs(self, resolve: Callable[[str], Variant]) -> list[Job]:
        """`resolve` finds the variant that a text names."""
        found = {text: resolve(text) for text in dict.fromkeys(self.variants)}
        rows = zip(self.variants, self.prompts, self.negative_prompts, self.seeds, self.steps, self.guidances, strict=True)
        return [
            Job(variant=found[text], prompt=prompt, negative_prompt=negative, seed=seed, steps=steps, guidance=guidance)
            for text, prompt, negative, seed, steps, guidance in rows
        ]


def understand(request: InferRequest, height: int, width: int) -> Asked:
    """Check `request` for a model whose images have that size. Raises Unreadable with input, value and fix."""
    for name, tensor in request.inputs.items():
        if name not in INPUTS:
            raise Unreadable(f"input {name[:60]!r} is not one of {', '.join(INPUTS)}")
        if tensor.datatype != INPUTS[name]:
            raise Unreadable(f"input {name}: datatype is {tensor.datatype}; send {INPUTS[name]}")
        if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
            raise Unreadable(f"input {name}: shape is {list(tensor.shape)}; send [n], [n, 1], or [1] for all images")
    if "PROMPT" not in request.inputs:
        raise Unreadable("input PROMPT is missing; send BYTES of shape [n]")
    lengths = {name: tensor.shape[0] for name, tensor in request.inputs.items()}
    n = next((length for length in lengths.values() if length != 1), 1)
    for name, length in lengths.items():
        if length not in (1, n):
            raise Unreadable(f"input {name}: has {length} elements where another has {n}; send {n}, or 1 for all images")
    if not 1 <= n <= IMAGES:
        raise Unreadable(f"{n} images are asked for at once; ask for 1 to {IMAGES}")
    steps, guidances = _numbers(request, "STEPS", n), _numbers(request, "GUIDANCE", n)
    for guidance in guidances or ():
        if not math.isfinite(guidance):
            raise Unreadable(f"input GUIDANCE: {guidance} is no number between 0 and 50")
    return Asked(
        variants=_texts(request, "VARIANT", n, 256),
        prompts=_texts(request, "PROMPT", n, PROMPT_CHARACTERS),
        negative_prompts=_texts(request, "NEGATIVE_PROMPT", n, PROMPT_CHARACTERS),
        seeds=_numbers(request, "SEED", n) or [secrets.randbits(63) for _ in range(n)],
        steps=steps or [None] * n,
        guidances=guidances or [None] * n,
        outputs=_outputs(request, n * height * width * 3),
        output_format=_format(request.parameters.get("output_format", "png")),
        deadline_seconds=_deadline(request.parameters.get("timeout", 0)),
        truncate_prompt=_flag(request, "truncate_prompt"),
    )


def _texts(request: InferRequest, name: str, n: int, longest: int) -> list[str]:
    if name not in request.inputs:
        return [""] * n
    elements = request.inputs[name].data
    assert isinstance(elements, list)
    texts = []
    for i, element in enumerate(elements):
        try:
            text = element.decode()
        except UnicodeDecodeError as error:
            raise Unreadable(f"input {name}[{i}]: is not UTF-8 (byte {error.start}); send UTF-8 text") from None
        if len(text) > longest:
            raise Unreadable(f"input {name}[{i}]: has {len(text)} characters; send at most {longest}")
        texts.append(text)
    return texts * n if len(texts) < n else texts


def _numbers(request: InferRequest, name: str, n: int) -> list[Any]:
    tensor: Tensor | None = request.inputs.get(name)
    if tensor is None:
        return []
    assert not isinstance(tensor.data, list)
    numbers: list[Any] = tensor.data.reshape(-1).tolist()
    return numbers * n if len(numbers) < n else numbers


def _outputs(request: InferRequest, pixels: int) -> list[RequestedOutput]:
    outputs = request.outputs or [RequestedOutput(name, request.binary_by_default) for name in BY_DEFAULT]
    for output in outputs:
        if output.name not in OUTPUTS:
            raise Unreadable(f"output {output.name[:60]!r} is not one of {', '.join(OUTPUTS)}")
        if output.name == "ENCODED" and not output.binary:
            raise Unreadable("output ENCODED is a file, which JSON cannot hold; ask for it with the parameter binary_data true")
        if output.name == "IMAGE" and not output.binary and pixels > JSON_ELEMENTS:
            raise Unreadable(f"output IMAGE: {pixels} elements are too many for JSON; ask for it with the parameter binary_data true")
    return outputs


def _flag(request: InferRequest, name: str) -> bool:
    value = request.parameters.get(name, False)
    if not isinstance(value, bool):
        raise Unreadable(f"parameter {name}: is {str(value)[:40]!r}; send true or false")
    return value


def _format(value: object) -> FileFormat:
    for known in get_args(FileFormat):
        if value == known:
            return cast(FileFormat, known)
    raise Unreadable(f"parameter output_format: is {str(value)[:40]!r}; use png, jpeg or webp")


def _deadline(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        raise Unreadable(f"parameter timeout: is {str(value)[:40]!r}; send microseconds, or 0 for none")
    return value / 1e6 if value else None
