"""How a variant is found on a server that is not Salon's: its model must be there, with inputs and outputs that we know."""

import hashlib
from urllib.parse import quote

import msgspec

from serving.errors import ModelError
from serving.job import Loaded
from serving.remote.connection import Connection
from serving.remote.failures import Lost, Refused
from serving.remote.served import Declared, Served
from serving.remote.tensors import OUTPUTS, undeclared
from serving.variant import Variant

HEALTH = "/v2/health/ready"


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    inputs: list[Declared]
    outputs: list[Declared]
    versions: list[str] | None = None


async def load(connection: Connection, model: str, variant: Variant) -> Served:
    """Read the metadata of `model`; nothing is loaded. Raises ModelError, Lost, Busy.

    The digest is made of the model's name and version and of the variant's settings. The version is pinned: that with the
    greatest number, where the server tells versions.
    """
    path = f"/v2/models/{quote(model, safe='')}"
    try:
        metadata = msgspec.json.decode((await connection.get(path)).body, type=_Metadata, strict=False)
    except Refused as error:
        raise ModelError(f"model {model!r}: {error}") from None
    except msgspec.MsgspecError as error:
        raise Lost(f"{connection.url}: the metadata of {model!r} cannot be read ({error})") from None
    version = max(metadata.versions or [""], key=lambda each: (each.isdigit(), int(each) if each.isdigit() else 0, each))
    inputs = {each.name: each for each in metadata.inputs}
    outputs = {each.name for each in metadata.outputs}
    if "PROMPT" not in inputs:
        raise ModelError(f"model {model!r} on {connection.url} has no input PROMPT; it has {', '.join(inputs) or 'none'}")
    if unknown := undeclared(inputs):
        raise ModelError(f"model {model!r} on {connection.url}: nobody here knows what to put into {', '.join(unknown)}")
    pictures = next((name for name in ("ENCODED", "IMAGE") if name in outputs), None)
    if pictures is None:
        raise ModelError(f"model {model!r} on {connection.url} has neither output ENCODED nor IMAGE; it has {', '.join(outputs)}")
    if variant.size is None:
        raise ModelError(f"model {model!r}: the variant needs a `size`, since the server tells none")
    if version:
        path += f"/versions/{quote(version, safe='')}"
    label = variant.served_as or ""
    width, height = map(int, variant.size.split("x"))
    facts = msgspec.json.encode([metadata.name, version, label, variant.model])
    return Served(
        loaded=Loaded(variant.digest("sha256:" + hashlib.sha256(facts).hexdigest()), width, height, model),
        path=f"{path}/infer",
        label=label,
        inputs=inputs,
        outputs=tuple(name for name in OUTPUTS if name in outputs and name not in {"ENCODED", "IMAGE"} - {pictures}),
    )
