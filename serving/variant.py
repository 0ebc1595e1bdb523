"""A variant: one way to make an image, immutable, named by its digest."""

import hashlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import msgspec

Scheduler = Literal["ddim", "euler", "dpm++", "flow-euler"]
Backend = Literal["onnx", "torch", "tensorrt"]


class ExtendsError(ValueError):
    """A table of variants cannot be resolved: what stands at `keys`, and why it is wrong."""

    def __init__(self, keys: tuple[str, ...], reason: str) -> None:
        super().__init__(f"{'.'.join(keys)}: {reason}")
        self.keys, self.reason = keys, reason


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides the pixels, besides prompt, negative prompt and seed.

    `model` is a packaged model (`salon/emoji-64`) or a directory in diffusers layout; `adapter` names a LoRA
    (`registry:NAME@sha256:HEX`, or a directory). `guidance` 1 means no guidance. `size` is WIDTHxHEIGHT in pixels, by default
    what the model was made for. `served_as` is what a server that is not Salon's calls the variant.
    """

    model: str
    engine: str = "local"
    backend: Backend = "onnx"
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20
    guidance: Annotated[float, msgspec.Meta(ge=0.0, le=50.0)] = 2.0
    scheduler: Scheduler = "ddim"
    adapter: str | None = None
    adapter_scale: Annotated[float, msgspec.Meta(ge=-4.0, le=4.0)] = 1.0
    size: Annotated[str, msgspec.Meta(pattern="^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")] | None = None
    served_as: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None

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
            # said only where it is, so that variants from before there were sizes keep their names
            *([self.size] if self.size else []),
        ]
        return "sha256:" + hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def inherit(tables: object, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """The keys of each variant of `names` (default: all) with those it takes over by `extends`, which is gone then.

    `tables` are the `[variants.NAME]` tables as read. The ancestors of `names` come too, each before those that extend it, so
    that a value is checked first where it was written. Raises ExtendsError with the key path: no table, an unknown name, a
    cycle, no `model`.
    """
    if not isinstance(tables, Mapping):
        raise ExtendsError(("variants",), f"is {tables!r}; write [variants.NAME] tables")
    full: dict[str, dict[str, Any]] = {}
    for name in tables if names is None else names:
        for each in reversed(_line(name, tables)):
            if each in full:
                continue
            own = dict(tables[each])
            full[each] = {**full.get(own.pop("extends", ""), {}), **own}
            if "model" not in full[each]:
                reason = "`model` is missing; name a packaged model or a directory, or `extends` a variant that has one"
                raise ExtendsError(("variants", each), reason)
    return full


def _line(name: str, tables: Mapping[str, Any]) -> list[str]:
    """A variant, the one that it extends, and so on."""
    line = [name]
    while True:
        table = tables[line[-1]]
        if not isinstance(table, Mapping):
            raise ExtendsError(("variants", line[-1]), f"is {table!r}; write [variants.{line[-1]}] with keys")
        if "extends" not in table:
            return line
        parent, keys = table["extends"], ("variants", line[-1], "extends")
        if not isinstance(parent, str):
            raise ExtendsError(keys, f"is {parent!r}; write the name of a variant")
        if parent not in tables:
            close = get_close_matches(parent, tables, 1)
            known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(tables))}"
            raise ExtendsError(keys, f"unknown name {parent!r}; {known}")
        if parent in line:
            cycle = " → ".join([*line, parent])
            raise ExtendsError(keys, f"makes a cycle: {cycle}; one of them must not extend")
        line.append(parent)
