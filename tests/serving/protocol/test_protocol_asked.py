"""What an infer request may ask, and how it is refused."""

import numpy as np
import pytest

from serving.protocol.asked import understand
from serving.protocol.refusals import Unreadable
from serving.protocol.tensor import of_numbers
from serving.protocol.wire import InferRequest, RequestedOutput, Tensor


def texts(name: str, *values: str | bytes, shape: tuple[int, ...] | None = None) -> Tensor:
    data = [value if isinstance(value, bytes) else value.encode() for value in values]
    return Tensor(name, "BYTES", shape or (len(data),), data)


def numbers(name: str, values: list, kind: type) -> Tensor:
    return of_numbers(name, np.array(values, kind))


def request(*tensors: Tensor, outputs: list[RequestedOutput] | None = None, **parameters: object) -> InferRequest:
    return InferRequest(inputs={each.name: each for each in tensors}, outputs=outputs or [], parameters=parameters)  # type: ignore[arg-type]


def test_one_value_stands_for_all_and_what_is_left_out_is_as_usual() -> None:
    asked = understand(
        request(texts("PROMPT", "a", "b", "c", shape=(3, 1)), texts("VARIANT", "x"), numbers("STEPS", [[5]], np.int32), timeout=2_000_000),
        8,
        8,
    )
    assert (asked.prompts, asked.variants, asked.negative_prompts) == (["a", "b", "c"], ["x"] * 3, [""] * 3)
    assert (asked.steps, asked.guidances, asked.deadline_seconds) == ([5] * 3, [None] * 3, 2.0)
    assert len(set(asked.seeds)) == 3 and all(0 <= seed < 2**63 for seed in asked.seeds)
    assert [(each.name, each.binary) for each in asked.outputs] == [("IMAGE", False), ("QUEUE_MS", False), ("SERVICE_MS", False)]
    assert understand(request(texts("PROMPT", "a"), binary_data_output=True), 8, 8).outputs[0].binary
    one = understand(request(texts("PROMPT", "a"), numbers("SEED", [-1, 2**63 - 1], np.int64)), 8, 8)
    assert (one.prompts, one.seeds) == (["a", "a"], [-1, 2**63 - 1])


PROMPT = texts("PROMPT", "a", "b")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (request(numbers("SEED", [1], np.int64)), "PROMPT is missing"),
        (request(PROMPT, numbers("STEP", [1], np.int32)), "'STEP' is not one of PROMPT"),
        (request(PROMPT, numbers("SEED", [1], np.int32)), "SEED: datatype is INT32; send INT64"),
        (request(numbers("PROMPT", [1], np.int32)), "PROMPT: datatype is INT32; send BYTES"),
        (request(PROMPT, numbers("SEED", [1, 2, 3], np.int64)), "SEED: has 3 elements where another has 2"),
        (request(PROMPT, numbers("SEED", [[1, 2]], np.int64)), r"SEED: shape is \[1, 2\]"),
        (request(PROMPT, of_numbers("SEED", np.int64(1).reshape(()))), r"SEED: shape is \[\]"),
        (request(texts("PROMPT", shape=(0,))), "0 images"),
        (request(texts("PROMPT", *["a"] * 65)), "65 images are asked for at once; ask for 1 to 64"),
        (request(texts("PROMPT", "x" * 32_001)), r"PROMPT\[0\]: has 32001 characters"),
        (request(texts("PROMPT", "a", b"\xff")), r"PROMPT\[1\]: is not UTF-8"),
        (request(PROMPT, numbers("GUIDANCE", [np.nan], np.float32)), "GUIDANCE: nan"),
        (request(PROMPT, timeout=-1), "timeout: is '-1'"),
        (request(PROMPT, timeout="soon"), "timeout: is 'soon'"),
        (request(PROMPT, output_format="gif"), "output_format: is 'gif'; use png, jpeg or webp"),
        (request(PROMPT, outputs=[RequestedOutput("PIXELS", True)]), "'PIXELS' is not one of IMAGE"),
        (request(PROMPT, outputs=[RequestedOutput("ENCODED")]), "ENCODED is a file"),
    ],
)
def test_a_refusal_names_input_value_and_fix(wrong: InferRequest, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        understand(wrong, 8, 8)


def test_large_pictures_are_refused_as_json_before_they_are_made() -> None:
    with pytest.raises(Unreadable, match="IMAGE: 6291456 elements are too many for JSON"):
        understand(request(PROMPT), 1024, 1024)
    assert understand(request(PROMPT, outputs=[RequestedOutput("IMAGE", True)]), 1024, 1024).prompts == ["a", "b"]
