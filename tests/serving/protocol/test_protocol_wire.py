"""The codec of the Open Inference Protocol. Oracle: tritonclient, which reads and writes the same bytes."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from serving.protocol.asked import understand
from serving.protocol.refusals import Unreadable
from serving.protocol.tensor import NUMBERS, of_numbers
from serving.protocol.wire import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    WireError,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    found = {}
    for name in draw(st.lists(st.text("ABC_é", min_size=1, max_size=5), unique=True, max_size=4)):
        shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        datatype = draw(st.sampled_from([*NUMBERS, "BYTES"]))
        if datatype == "BYTES":
            n = int(np.prod(shape))
            found[name] = Tensor(name, "BYTES", shape, draw(st.lists(st.binary(max_size=9), min_size=n, max_size=n)))
        else:
            found[name] = Tensor(name, datatype, shape, draw(arrays.arrays(NUMBERS[datatype], shape)))
    return found


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert (tensor.datatype, tensor.shape) == (right[name].datatype, right[name].shape)
        if isinstance(tensor.data, list):
            assert tensor.data == right[name].data
        else:
            np.testing.assert_array_equal(tensor.data, right[name].data)
    return True


@settings(max_examples=60, deadline=None)
@given(tensors(), st.booleans())
def test_what_is_written_is_read(inputs: dict[str, Tensor], binary: bool) -> None:
    request = InferRequest(inputs=inputs, outputs=[RequestedOutput("IMAGE", binary)], parameters={"timeout": 5, "a": "b"}, id="7")
    body, length = encode_request(request)
    read = decode_request(body, length)
    assert same(inputs, read.inputs)
    assert (read.outputs, read.parameters, read.id) == (request.outputs, request.parameters, "7")
    answer, size = encode_response(InferResponse(model_name="m", outputs=inputs, parameters={"p": 1.5}), inputs)
    assert same(inputs, decode_response(answer, size).outputs)
    assert (size is None) == (not inputs)


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.int64, arrays.array_shapes(max_dims=3, max_side=4)), st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_json_holds_the_same_flat_and_nested(numbers: np.ndarray, texts: list[str]) -> None:
    for data in (numbers.tolist(), numbers.reshape(-1).tolist()):
        body = json.dumps({"inputs": [{"name": "N", "datatype": "INT64", "shape": numbers.shape, "data": data}]}).encode()
        np.testing.assert_array_equal(decode_request(body, None).inputs["N"].data, numbers)
    strings = Tensor("S", "BYTES", (len(texts), 1), [text.encode() for text in texts])
    answer, length = encode_response(InferResponse(model_name="m", outputs={"S": strings, "N": of_numbers("N", numbers)}), ())
    assert length is None
    same(decode_response(answer, None).outputs, {"S": strings, "N": of_numbers("N", numbers)})


def test_tritonclient_reads_and_writes_the_same_bytes() -> None:
    prompts, seeds = np.array(["a cat", "ein Kätzchen [,]", ""], np.object_), np.arange(3, dtype=np.int64)[:, None]
    inputs = [InferInput("PROMPT", [3], "BYTES"), InferInput("SEED", [3, 1], "INT64")]
    for binary in (True, False):
        inputs[0].set_data_from_numpy(prompts, binary_data=binary)
        inputs[1].set_data_from_numpy(seeds, binary_data=binary)
        outputs = [InferRequestedOutput("IMAGE", binary_data=True), InferRequestedOutput("SEED", binary_data=False)]
        body, length = InferenceServerClient.generate_request_body(
            inputs, outputs, request_id="r", timeout=9, parameters={"output_format": "png"}
        )
        request = decode_request(body, length)
        assert request.inputs["PROMPT"].data == [each.encode() for each in prompts]
        np.testing.assert_array_equal(request.inputs["SEED"].data, seeds)
        assert request.outputs == [RequestedOutput("IMAGE", True), RequestedOutput("SEED", False)]
        assert (request.parameters, request.id) == ({"timeout": 9, "output_format": "png"}, "r")
    assert decode_request(*InferenceServerClient.generate_request_body(inputs)).binary_by_default
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    files = Tensor("ENCODED", "BYTES", (2,), [b"\x89PNG", b""])
    answer, size = encode_response(
        InferResponse(model_name="m", outputs={"IMAGE": of_numbers("IMAGE", pixels), "SEED": of_numbers("SEED", seeds), "ENCODED": files}),
        {"IMAGE", "ENCODED"},
    )
    result = InferResult.from_response_body(answer, header_length=size)
    np.testing.assert_array_equal(result.as_numpy("IMAGE"), pixels)
    np.testing.assert_array_equal(result.as_numpy("SEED"), seeds)
    assert result.as_numpy("ENCODED").tolist() == [b"\x89PNG", b""]


def wire(data: object = None, *, shape: object = (1,), datatype: str = "INT64", **facts: object) -> bytes:
    tensor = {"name": "SEED", "datatype": datatype, "shape": shape, **({} if data is None else {"data": data}), **facts}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize(
    ("body", "length", "says"),
    [
        (b"", None, "cannot be read as JSON"),
        (b"\xff\xfe", None, "cannot be read as JSON"),
        (b"[" * 100_000, None, "JSON"),
        (b"{}", None, "inputs"),
        (b'{"inputs": 3}', None, "inputs"),
        (wire([1]), 10_000, "the body has"),
        (wire([1]), -1, "Content-Length is -1"),
        (wire([1]) + b"xyz", len(wire([1])), "3 bytes behind the JSON belong to no tensor"),
        (wire(), None, "'SEED' has no data"),
        (wire([1, 2]), None, "shape \\[1\\]"),
        (wire([[1, 2], [3]], shape=[2, 2]), None, "shape \\[2, 2\\]"),
        (wire([[[[]]]], shape=[1, 1]), None, "shape \\[1, 1\\]"),
        (wire([1], shape=[-1]), None, ">= 0"),
        (wire([1], shape=[1] * 9), None, "length <= 8"),
        (wire([1], shape=[10**30]), None, "shape"),
        (wire([], shape=[0, 2**62]), None, "too large"),
        (wire(shape=[0, 2**62], parameters={"binary_data_size": 0}), 0, "too large"),
        (wire([2**63]), None, "does not fit INT64"),
        (wire([-1], datatype="UINT8"), None, "does not fit UINT8"),
        (wire(["a"]), None, "Expected `int`"),
        (wire([1], datatype="BYTES"), None, "Expected `str`"),
        (wire([1.0], datatype="BF16"), None, "'BF16'; use BOOL"),
        (wire([1], parameters={"binary_data_size": 8}), None, "both data and binary_data_size"),
        (wire(parameters={"binary_data_size": 8}), None, "0 bytes are left"),
        (wire(parameters={"binary_data_size": "8"}), None, "number of its bytes"),
        (wire(parameters={"binary_data_size": 10**30}), None, "0 bytes are left"),
        (wire(parameters={"shared_memory_region": "x"}), None, "shared memory"),
        (wire(parameters={"binary_data_size": 4}) + b"1234", -4, "takes 8 bytes"),
        (wire(datatype="BYTES", parameters={"binary_data_size": 2}) + b"12", -2, "ends inside its length"),
        (wire(datatype="BYTES", parameters={"binary_data_size": 6}) + b"\xff\xff\xff\xffab", -6, "should have 4294967295 bytes"),
        (wire(datatype="BYTES", parameters={"binary_data_size": 0}), 0, "has 0 elements"),
        (wire(datatype="BYTES", shape=[0], parameters={"binary_data_size": 4}) + b"\0\0\0\0", -4, "bytes are left"),
        (b'{"inputs": [], "outputs": [{"name": "A"}, {"name": "A"}]}', None, "twice"),
        (b'{"inputs": [], "outputs": [{"name": "A", "parameters": {"binary_data": 1}}]}', None, "binary_data is 1"),
        (b'{"inputs": [], "outputs": [{"name": "A", "parameters": {"classification": 3}}]}', None, "not offered"),
    ],
)
def test_an_error_names_tensor_value_and_fix(body: bytes, length: int | None, says: str) -> None:
    if length is not None and (length < -1 or length == 0):
        length += len(body)
    with pytest.raises(WireError, match=says):
        decode_request(body, length)


def test_outputs_that_json_cannot_hold_are_refused() -> None:
    picture = Tensor("ENCODED", "BYTES", (1,), [b"\x89PNG"])
    with pytest.raises(WireError, match="'ENCODED' holds bytes that are no text"):
        encode_response(InferResponse(model_name="m", outputs={"ENCODED": picture}), ())
    large = of_numbers("IMAGE", np.zeros((5, 1024, 1024), np.uint8))
    with pytest.raises(WireError, match="too many for JSON"):
        encode_response(InferResponse(model_name="m", outputs={"IMAGE": large}), ())
    with pytest.raises(WireError, match="does not fit its 2 elements"):
        encode_request(InferRequest(inputs={"A": Tensor("A", "INT64", (3,), np.zeros(2, np.int64))}))


VALID = encode_request(
    InferRequest(
        inputs={"PROMPT": Tensor("PROMPT", "BYTES", (2,), [b"one", b"two"]), "SEED": of_numbers("SEED", np.array([3, 4]))},
        outputs=[RequestedOutput("IMAGE", True)],
    )
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID[0]) - 1), st.integers(0, 255)), max_size=6),
    st.integers(-2, 2),
    st.integers(0, 20),
)
def test_damaged_bytes_give_a_request_or_a_wire_error(changes: list[tuple[int, int]], off: int, cut: int) -> None:
    body = bytearray(VALID[0])
    for at, value in changes:
        body[at] = value
    try:
        read = decode_request(bytes(body[: len(body) - cut]), VALID[1] + off)
        understand(read, 8, 8)
    except (WireError, Unreadable):
        return
    for tensor in read.inputs.values():
        assert len(tensor.data) == np.prod(tensor.shape) if isinstance(tensor.data, list) else tensor.data.shape == tensor.shape


@pytest.mark.parametrize("filler", [b"[],", b"[[],[]],", b"1,", b'"",', b"{},"])
def test_hostile_lists_allocate_little(filler: bytes) -> None:
    data = b"[" + filler * 300_000 + b"[]]"
    body = b'{"inputs": [{"name": "A", "datatype": "BYTES", "shape": [1, 1], "data": ' + data + b"}]}"
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode_request(body, None)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()
