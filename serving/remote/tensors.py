"""Jobs as tensors of a request, and pictures from those of an answer."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from serving.job import Job, Picture
from serving.protocol.wire import InferRequest, InferResponse, RequestedOutput, Tensor
from serving.remote.failures import Lost
from serving.remote.served import Declared, Served

OUTPUTS = ("ENCODED", "IMAGE", "QUEUE_MS", "SERVICE_MS", "STEPS", "ROWS", "BATCH_ROWS")
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS: dict[str, type[np.generic]] = {
    "INT32": np.int32, "INT64": np.int64, "UINT32": np.uint32, "UINT64": np.uint64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_VALUES: dict[str, Callable[[Job, Served], str | int | float]] = {
    "PROMPT": lambda job, served: job.prompt,
    "NEGATIVE_PROMPT": lambda job, served: job.negative_prompt,
    "VARIANT": lambda job, served: served.label,
    "SEED": lambda job, served: job.seed,
    "STEPS": lambda job, served: steps_of(job),
    "GUIDANCE": lambda job, served: guidance_of(job),
}
_TOLD: dict[str, Callable[[Job], bool]] = {
    "NEGATIVE_PROMPT": lambda job: bool(job.negative_prompt),
    "STEPS": lambda job: job.steps is not None,
    "GUIDANCE": lambda job: job.guidance is not None,
}


def steps_of(job: Job) -> int:
    """Of the job, or its variant's."""
    return job.variant.steps if job.steps is None else job.steps


def guidance_of(job: Job) -> float:
    """Of the job, or its variant's."""
    return job.variant.guidance if job.guidance is None else job.guidance


def infer_request(jobs: Sequence[Job], served: Served, deadline_seconds: float | None) -> InferRequest:
    """One request for the pictures of all `jobs`. The deadline goes out as `timeout`, in microseconds.

    A Salon worker is not told what its variant says already; another server is told all that it declares.
    """
    inputs = {}
    for name, declared in served.inputs.items():
        if served.ours and name in _TOLD and not any(_TOLD[name](job) for job in jobs):
            continue
        values = [_VALUES[name](job, served) for job in jobs]
        if served.ours and name != "SEED" and len(set(values)) == 1:
            values = values[:1]
        inputs[name] = _tensor(declared, values)
    parameters: dict[str, str | int | float | bool] = {}
    if served.ours:
        # as an engine in the gateway's own process does
        parameters |= {"output_format": "png", "truncate_prompt": True}
    if deadline_seconds is not None:
        parameters["timeout"] = max(1, round(deadline_seconds * 1e6))
    return InferRequest(inputs=inputs, outputs=[RequestedOutput(name, True) for name in served.outputs], parameters=parameters)


def pictures_of(response: InferResponse, n: int, size: tuple[int, int], wall_ms: float) -> list[Picture]:
    """The `n` pictures of an answer, each of `size` (width, height). `wall_ms`: what counts as service where none is told.

    Raises Lost when the answer does not have what was asked for.
    """
    outputs = response.outputs
    encoded, rgb = _files(outputs.get("ENCODED"), n), None
    if encoded is None:
        rgb = _pixels(outputs.get("IMAGE"), n, size)
    told = {name: _numbers(outputs.get(name), n) for name in ("QUEUE_MS", "SERVICE_MS", "STEPS", "ROWS", "BATCH_ROWS")}
    service = told["SERVICE_MS"] if "SERVICE_MS" in outputs else [wall_ms] * n
    return [
        Picture(
            rgb=rgb[i] if rgb is not None else np.empty((0, 0, 3), np.uint8),
            encoded=encoded[i] if encoded is not None else b"",
            queue_ms=told["QUEUE_MS"][i],
            service_ms=service[i],
            steps=int(told["STEPS"][i]),
            rows=int(told["ROWS"][i]),
            batch_rows=told["BATCH_ROWS"][i],
        )
        for i in range(n)
    ]


def backlog_ms(response: InferResponse) -> float | None:
    """`predicted_queue_ms` of the answer; None where the server tells none."""
    value = response.parameters.get("predicted_queue_ms")
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


def _tensor(declared: Declared, values: Sequence[str | int | float]) -> Tensor:
    """`[n]`, or `[n, 1]` for a server that batches along a first dimension of its own."""
    shape = (len(values), *([1] * (len(declared.shape) - 1)))
    if declared.datatype == "BYTES":
        return Tensor(declared.name, "BYTES", shape, [str(value).encode("utf-8", "replace") for value in values])
    kind = np.dtype(_NUMBERS[declared.datatype])
    if kind.kind in "iu":
        wide = np.array([int(value) & 0xFFFF_FFFF_FFFF_FFFF for value in values], np.uint64)
        return Tensor(declared.name, declared.datatype, shape, wide.astype(kind).reshape(shape))
    return Tensor(declared.name, declared.datatype, shape, np.array(values, kind).reshape(shape))


def _files(tensor: Tensor | None, n: int) -> list[bytes] | None:
    if tensor is None:
        return None
    files = tensor.data
    if not isinstance(files, list) or len(files) != n or not all(file.startswith(_PNG) for file in files):
        raise Lost(f"ENCODED is not {n} PNG files")
    return files


def _pixels(tensor: Tensor | None, n: int, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    width, height = size
    if tensor is None or isinstance(tensor.data, list):
        raise Lost("the answer has neither ENCODED nor IMAGE")
    if tensor.data.dtype != np.uint8 or tensor.data.size != n * height * width * 3 or tensor.shape[-3:] != (height, width, 3):
        raise Lost(f"IMAGE is {tensor.datatype} {list(tensor.shape)}; UINT8 [{n}, {height}, {width}, 3] was expected")
    return tensor.data.reshape(n, height, width, 3)


def _numbers(tensor: Tensor | None, n: int) -> list[float]:
    if tensor is None:
        return [0.0] * n
    if isinstance(tensor.data, list) or tensor.data.size not in (1, n):
        raise Lost(f"{tensor.name} is {tensor.datatype} {list(tensor.shape)}; one number per picture was expected")
    values = [float(value) for value in tensor.data.reshape(-1).tolist()]
    if not all(0 <= value < math.inf for value in values):
        raise Lost(f"{tensor.name} holds what is no duration or count")
    return values * n if len(values) < n else values


def undeclared(inputs: Mapping[str, Declared]) -> list[str]:
    """Inputs that a model must not have, because nobody here could fill them."""
    return [name for name, each in inputs.items() if name not in _VALUES or not (each.datatype in _NUMBERS or each.datatype == "BYTES")]
