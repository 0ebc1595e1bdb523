"""Requests and answers of the Open Inference Protocol v2 as bytes, with its binary tensor extension.

Source: KServe, "Open Inference Protocol", version 2 (HTTP/REST), and Triton Inference Server, "Binary Tensor Data Extension":
a body is JSON, and after it the bytes of the tensors that name a `binary_data_size`, in order; the header
Inference-Header-Content-Length tells how long the JSON is. Numbers are little endian; a BYTES element is its length in four
bytes and its content.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from serving.protocol.tensor import Tensor, WireError, from_bytes, from_json, to_bytes, to_json

__all__ = [
    "InferRequest", "InferResponse", "RequestedOutput", "Tensor", "WireError",
    "decode_request", "decode_response", "encode_request", "encode_response",
]  # fmt: skip
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
Parameters = dict[str, str | int | float | bool]
_TENSORS = 256
T = TypeVar("T")


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output that the client wants, and whether as bytes."""

    name: str
    binary: bool = False


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is asked. No `outputs`: those that the model gives by default."""

    inputs: dict[str, Tensor]
    outputs: list[RequestedOutput] = []
    parameters: Parameters = {}
    id: str = ""

    @property
    def binary_by_default(self) -> bool:
        """Outputs that say nothing else are wanted as bytes."""
        return self.parameters.get("binary_data_output") is True


class InferResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine answers."""

    model_name: str
    model_version: str = ""
    id: str = ""
    outputs: dict[str, Tensor]
    parameters: Parameters = {}


class _TensorFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    datatype: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=8)]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class _OutputFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    parameters: dict[str, Any] = {}


class _RequestFacts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: str = ""
    parameters: Parameters = {}
    inputs: Annotated[list[_TensorFacts], msgspec.Meta(max_length=_TENSORS)]
    outputs: Annotated[list[_OutputFacts], msgspec.Meta(max_length=_TENSORS)] = []


class _ResponseFacts(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    model_name: str
    model_version: str = ""
    id: str = ""
    parameters: Parameters = {}
    outputs: Annotated[list[_TensorFacts], msgspec.Meta(max_length=_TENSORS)]


def encode_request(request: InferRequest) -> tuple[bytes, int]:
    """The body, all tensors as bytes, and the length of its JSON. The outputs are asked for as each says."""
    facts, chunks = _written(request.inputs.values(), request.inputs)
    outputs = [_OutputFacts(each.name, {"binary_data": each.binary}) for each in request.outputs]
    head = msgspec.json.encode(_RequestFacts(id=request.id, parameters=request.parameters, inputs=facts, outputs=outputs))
    return b"".join([head, *chunks]), len(head)


def decode_request(body: bytes, json_length: int | None) -> InferRequest:
    """The request in `body`; `json_length` is None where the JSON is all of it.

    What is allocated is at most a small multiple of the body. Raises WireError with tensor, value and fix.
    """
    facts, rest = _split(body, json_length, _RequestFacts)
    by_default = facts.parameters.get("binary_data_output") is True
    outputs = [_requested(each, by_default) for each in facts.outputs]
    if len({each.name for each in outputs}) < len(outputs):
        raise WireError("outputs: a name stands there twice; ask for each output once")
    return InferRequest(inputs=_read(facts.inputs, rest), outputs=outputs, parameters=facts.parameters, id=facts.id)


def encode_response(response: InferResponse, binary: Collection[str]) -> tuple[bytes, int | None]:
    """The body with the outputs named in `binary` as bytes, and the length of its JSON; None where that is all.

    Raises WireError for an output that JSON cannot hold.
    """
    facts, chunks = _written(response.outputs.values(), binary)
    head = msgspec.json.encode(
        _ResponseFacts(
            model_name=response.model_name,
            model_version=response.model_version,
            id=response.id,
            parameters=response.parameters,
            outputs=facts,
        )
    )
    if not any("binary_data_size" in each.parameters for each in facts):
        return head, None
    return b"".join([head, *chunks]), len(head)


def decode_response(body: bytes, json_length: int | None) -> InferResponse:
    """The answer in `body`, like `decode_request`. Raises WireError."""
    facts, rest = _split(body, json_length, _ResponseFacts)
    return InferResponse(
        model_name=facts.model_name,
        model_version=facts.model_version,
        id=facts.id,
        outputs=_read(facts.outputs, rest),
        parameters=facts.parameters,
    )


def _split(body: bytes, json_length: int | None, into: type[T]) -> tuple[T, memoryview]:
    """The JSON, decoded, and the bytes behind it."""
    if json_length is not None and not 0 <= json_length <= len(body):
        raise WireError(f"{JSON_LENGTH_HEADER} is {json_length}, but the body has {len(body)} bytes; send the length of its JSON")
    view = memoryview(body)
    end = len(body) if json_length is None else json_length
    try:
        return msgspec.json.decode(view[:end], type=into), view[end:]
    except msgspec.ValidationError as error:
        raise WireError(f"the JSON is not a message of the Open Inference Protocol: {error}") from None
    except (ValueError, RecursionError) as error:
        hint = "" if json_length is not None else f"; binary tensors need the header {JSON_LENGTH_HEADER}"
        raise WireError(f"the body cannot be read as JSON: {error}{hint}") from None


def _requested(facts: _OutputFacts, by_default: bool) -> RequestedOutput:
    for key, value in facts.parameters.items():
        if key.startswith("shared_memory") or (key == "classification" and value != 0):
            raise WireError(f"output {facts.name!r}: parameter {key} is not offered; leave it out")
    binary = facts.parameters.get("binary_data", by_default)
    if not isinstance(binary, bool):
        raise WireError(f"output {facts.name!r}: binary_data is {binary!r}; use true or false")
    return RequestedOutput(facts.name, binary)


def _written(tensors: Collection[Tensor], binary: Collection[str]) -> tuple[list[_TensorFacts], list[bytes | memoryview]]:
    facts: list[_TensorFacts] = []
    chunks: list[bytes | memoryview] = []
    for tensor in tensors:
        if tensor.name in binary:
            chunks.append(to_bytes(tensor))
            parameters = {"binary_data_size": len(chunks[-1])}
            facts.append(_TensorFacts(tensor.name, tensor.datatype, list(tensor.shape), parameters))
        else:
            facts.append(_TensorFacts(tensor.name, tensor.datatype, list(tensor.shape), data=msgspec.Raw(to_json(tensor))))
    return facts, chunks


def _read(tensors: Sequence[_TensorFacts], rest: memoryview) -> dict[str, Tensor]:
    """The tensors, from their JSON or from `rest`, the bytes behind all JSON."""
    read: dict[str, Tensor] = {}
    for facts in tensors:
        if facts.name in read:
            raise WireError(f"tensor {facts.name!r} stands there twice; send it once")
        shape = tuple(facts.shape)
        size = _binary_size(facts.name, facts.parameters)
        if size is None:
            read[facts.name] = from_json(facts.name, facts.datatype, shape, bytes(facts.data))
            continue
        if bytes(facts.data):
            raise WireError(f"tensor {facts.name!r} has both data and binary_data_size; send one of them")
        if size > len(rest):
            raise WireError(f"tensor {facts.name!r}: binary_data_size is {size}, but {len(rest)} bytes are left behind the JSON")
        read[facts.name], rest = from_bytes(facts.name, facts.datatype, shape, rest[:size]), rest[size:]
    if len(rest):
        raise WireError(f"{len(rest)} bytes behind the JSON belong to no tensor; name them by binary_data_size")
    return read


def _binary_size(name: str, parameters: Mapping[str, Any]) -> int | None:
    if any(key.startswith("shared_memory") for key in parameters):
        raise WireError(f"tensor {name!r}: shared memory is not offered; send the data in the body")
    size = parameters.get("binary_data_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise WireError(f"tensor {name!r}: binary_data_size is {str(size)[:40]}; send the number of its bytes")
    return size
