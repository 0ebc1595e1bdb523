"""What a worker tells of itself and its models: metadata, configuration, statistics and index as JSON documents."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from serving.engine import Statistics
from serving.job import Loaded
from serving.protocol.asked import BY_DEFAULT, INPUTS, OUTPUTS
from serving.protocol.shelf import Shelf
from serving.tallies import VariantTally
from serving.variant import Variant

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics"]
Json = dict[str, Any]
Ready = Sequence[tuple[str, Variant, Loaded]]


def server() -> Json:
    """`GET /v2`."""
    try:
        number = version("salon")
    except PackageNotFoundError:
        number = "unknown"
    return {"name": "salon", "version": number, "extensions": EXTENSIONS}


def metadata(lane: str, ready: Ready) -> Json:
    """`GET /v2/models/{m}`. Only PROMPT is needed of the inputs."""
    _, _, loaded = ready[0]
    return {
        "name": lane,
        "versions": ["1"],
        "platform": "salon",
        "inputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in INPUTS.items()],
        "outputs": [{"name": name, "datatype": datatype, "shape": _shape(name, loaded)} for name, datatype in OUTPUTS.items()],
        "variants": variants(ready),
    }


def config(lane: str, ready: Ready) -> Json:
    """`GET /v2/models/{m}/config`, in Triton Inference Server's words. The first dimension is the images, so its own batching is off."""
    _, _, loaded = ready[0]
    return {
        "name": lane,
        "platform": "salon",
        "backend": "salon",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [
            {"name": name, "data_type": _type(datatype), "dims": [-1], "optional": name != "PROMPT"} for name, datatype in INPUTS.items()
        ],
        "output": [{"name": name, "data_type": _type(datatype), "dims": _shape(name, loaded)} for name, datatype in OUTPUTS.items()],
        "parameters": {"outputs_by_default": {"string_value": ",".join(BY_DEFAULT)}},
        "variants": variants(ready),
    }


def variants(ready: Ready) -> list[Json]:
    """The ready variants of a lane."""
    return [
        {"name": name, "digest": loaded.digest, "steps": variant.steps, "guidance": variant.guidance, "scheduler": variant.scheduler}
        for name, variant, loaded in ready
    ]


def statistics(shelf: Shelf, devices: Sequence[Statistics], lane: str | None = None) -> Json:
    """`GET /v2/models/stats`: all lanes that are there, or one. Durations in nanoseconds, as Triton Inference Server has them."""
    return {"model_stats": [_lane(shelf, devices, each) for each in (shelf.lanes() if lane is None else [lane])]}


def _lane(shelf: Shelf, devices: Sequence[Statistics], lane: str) -> Json:
    tallies = [(digest, tally) for device in devices for digest, tally in device.variants.items() if shelf.lane_of(digest) == lane]
    lanes = [device.lanes[lane] for device in devices if lane in device.lanes]
    done = sum(tally.done for _, tally in tallies)
    queue, service = sum(tally.queue_seconds for _, tally in tallies), sum(tally.service_seconds for _, tally in tallies)
    return {
        "name": lane,
        "version": "1",
        "inference_count": done,
        "execution_count": sum(each.calls for each in lanes),
        "inference_stats": {
            "success": _duration(done, queue + service),
            "fail": _duration(sum(tally.failed for _, tally in tallies), 0.0),
            "cancel": _duration(sum(tally.cancelled for _, tally in tallies), 0.0),
            "queue": _duration(done, queue),
            "compute_infer": _duration(done, service),
        },
        "network": {
            "calls": sum(each.calls for each in lanes),
            "rows": sum(each.rows for each in lanes),
            "call_ns": _ns(sum(each.call_seconds for each in lanes)),
            "busy_ns": _ns(sum(each.seconds for each in lanes)),
            "evictions": sum(each.evictions for each in lanes),
        },
        "variants": {digest: _variant(tally) for digest, tally in _together(tallies).items()},
    }


def _variant(tally: VariantTally) -> Json:
    return {
        "done": tally.done,
        "failed": tally.failed,
        "cancelled": tally.cancelled,
        "queue_ns": _ns(tally.queue_seconds),
        "service_ns": _ns(tally.service_seconds),
        "row_steps": tally.rows,
    }


def _together(tallies: Sequence[tuple[str, VariantTally]]) -> dict[str, VariantTally]:
    """Those of several devices, added."""
    added: dict[str, VariantTally] = {}
    for digest, tally in tallies:
        before = added.get(digest, VariantTally())
        added[digest] = VariantTally(*(getattr(before, name) + getattr(tally, name) for name in VariantTally.__struct_fields__))
    return added


def index(shelf: Shelf, only_ready: bool) -> list[Json]:
    """`POST /v2/repository/index`: lanes and variants."""
    found = [{"name": lane, "version": "1", "state": "READY", "reason": "", "kind": "model"} for lane in shelf.lanes()]
    for name, held in shelf.names():
        told = {"name": name, "version": "1", "state": held.state, "reason": held.reason, "kind": "variant"}
        if held.loaded:
            told |= {"digest": held.loaded.digest, "model": held.loaded.lane}
        found.append(told)
    return [each for each in found if each["state"] == "READY"] if only_ready else found


def _shape(name: str, loaded: Loaded) -> list[int]:
    return [-1, loaded.height, loaded.width, 3] if name == "IMAGE" else [-1]


def _type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _duration(count: int, seconds: float) -> Json:
    return {"count": count, "ns": _ns(seconds)}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
