"""How a variant is made ready on a `salon engine`: it is told what the variant is."""

import hashlib
from urllib.parse import quote

import msgspec

from serving.errors import ModelError
from serving.job import Loaded
from serving.remote.connection import Connection
from serving.remote.failures import Lost, Refused
from serving.remote.served import Declared, Served
from serving.variant import Variant

HEALTH = "/v2/health/live"
INPUTS = {
    name: Declared(name, datatype)
    for name, datatype in (
        ("PROMPT", "BYTES"),
        ("NEGATIVE_PROMPT", "BYTES"),
        ("VARIANT", "BYTES"),
        ("SEED", "INT64"),
        ("STEPS", "INT32"),
        ("GUIDANCE", "FP32"),
    )
}
OUTPUTS = ("ENCODED", "QUEUE_MS", "SERVICE_MS", "STEPS", "ROWS", "BATCH_ROWS")


class _Told(msgspec.Struct, frozen=True):
    digest: str
    width: int
    height: int
    model: str


def told(variant: Variant) -> bytes:
    """The variant as JSON without what is as usual, so that a worker of another release understands it if it can."""
    facts = {
        field.name: getattr(variant, field.name)
        for field in msgspec.structs.fields(Variant)
        # which engine draws it is the gateway's business
        if field.name != "engine" and getattr(variant, field.name) != field.default
    }
    return msgspec.json.encode(facts, order="sorted")


async def load(connection: Connection, variant: Variant) -> Served:
    """Blocking for as long as the worker loads. Raises ModelError with its reason, Lost, Busy."""
    description = told(variant)
    # named by its content, so that any number of gateways may say it, each with names of its own
    name = f"v-{hashlib.sha256(description).hexdigest()[:24]}"
    body = msgspec.json.encode({"parameters": {"variant": description.decode()}})
    try:
        answer = await connection.post(
            f"/v2/repository/models/{name}/load", body, {"Content-Type": "application/json", "Accept": "application/json"}
        )
        found = msgspec.json.decode(answer.body, type=_Told)
    except Refused as error:
        raise ModelError(str(error)) from None
    except msgspec.MsgspecError as error:
        raise Lost(f"{connection.url}: its answer to a load cannot be read ({error}); is it a Salon engine?") from None
    return Served(
        loaded=Loaded(found.digest, found.width, found.height, found.model),
        path=f"/v2/models/{quote(found.model, safe='')}/infer",
        label=found.digest,
        inputs=INPUTS,
        outputs=OUTPUTS,
        ours=True,
    )
