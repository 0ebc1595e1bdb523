"""Finished pictures as the outputs that a request asked for."""

from collections.abc import Callable, Sequence

import numpy as np

from serving.job import Picture
from serving.picture_file import picture_file
from serving.protocol.asked import Asked
from serving.protocol.tensor import Tensor, of_numbers
from serving.protocol.wire import InferResponse, encode_response


def body_of(lane: str, request_id: str, asked: Asked, pictures: Sequence[Picture], backlog_ms: float) -> tuple[bytes, int | None]:
    """The answer's body and the length of its JSON. Blocks: files are encoded here."""
    made: dict[str, Callable[[str], Tensor]] = {
        "IMAGE": lambda name: of_numbers(name, np.stack([picture.rgb for picture in pictures])),
        "ENCODED": lambda name: Tensor(name, "BYTES", (len(pictures),), [picture_file(each.rgb, asked.output_format) for each in pictures]),
        "QUEUE_MS": lambda name: of_numbers(name, np.array([each.queue_ms for each in pictures], np.float32)),
        "SERVICE_MS": lambda name: of_numbers(name, np.array([each.service_ms for each in pictures], np.float32)),
        "SEED": lambda name: of_numbers(name, np.array(asked.seeds, np.int64)),
        "STEPS": lambda name: of_numbers(name, np.array([each.steps for each in pictures], np.int32)),
        "ROWS": lambda name: of_numbers(name, np.array([each.rows for each in pictures], np.int32)),
        "BATCH_ROWS": lambda name: of_numbers(name, np.array([each.batch_rows for each in pictures], np.float32)),
    }
    response = InferResponse(
        model_name=lane,
        model_version="1",
        id=request_id,
        outputs={output.name: made[output.name](output.name) for output in asked.outputs},
        parameters={"predicted_queue_ms": backlog_ms},
    )
    return encode_response(response, {output.name for output in asked.outputs if output.binary})
