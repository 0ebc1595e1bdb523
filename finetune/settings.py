"""What a round reads of `salon.toml`: its own section, variants, routes, and where pictures and registry are."""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from analytics.settings import AnalyticsSettings, Document, analytics_settings
from finetune.gate.gate import GateSettings
from finetune.training import Training
from serving.variant import ExtendsError, Variant, inherit

_DEFAULT_VARIANTS: dict[str, Any] = {"base": {"model": "salon/emoji-64"}}
_DEFAULT_ROUTES: dict[str, Any] = {"default": {"serve": "base"}, "hero": {"serve": "base"}}


class Place(msgspec.Struct, frozen=True):
    """A section of which only the address matters here."""

    url: str = ""


class Route(msgspec.Struct, frozen=True):
    """`[routes.NAME]`."""

    serve: str


class FinetuneSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[finetune]`. Under `minimum_images` shown or `minimum_likes` a round refuses; `maximum_images` newest are learnt from."""

    rounds: str = "var/rounds"
    minimum_images: Annotated[int, msgspec.Meta(ge=2)] = 200
    minimum_likes: Annotated[int, msgspec.Meta(ge=1)] = 30
    minimum_units: Annotated[int, msgspec.Meta(ge=5)] = 20
    maximum_images: Annotated[int, msgspec.Meta(ge=2)] = 20_000
    processes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    training: Training = Training()
    gate: GateSettings = GateSettings()


class RoundSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, with paths made absolute and `extends` resolved."""

    finetune: FinetuneSection
    analytics: AnalyticsSettings
    variants: dict[str, Variant]
    routes: dict[str, Route]
    images_url: str
    registry_url: str
    cache: Path


def round_settings(document: Document) -> RoundSettings:
    """Read a document. Raises SettingsError."""
    tables = document.tables
    if not tables.get("variants") and not tables.get("routes"):
        tables.update(variants=dict(_DEFAULT_VARIANTS), routes=dict(_DEFAULT_ROUTES))
    section = document.section("finetune", FinetuneSection)
    variants = _variants(document)
    routes = {name: document.convert(("routes", name), _only(table, "serve"), Route) for name, table in tables.get("routes", {}).items()}
    for name, route in routes.items():
        document.check_names(("routes", name, "serve"), [route.serve], variants)
    places = {name: document.convert((name,), _only(tables.get(name, {}), "url"), Place).url for name in ("images", "registry")}
    rounds = document.resolve(section.rounds)
    return RoundSettings(
        finetune=msgspec.structs.replace(section, rounds=rounds),
        analytics=analytics_settings(document),
        variants=variants,
        routes=routes,
        images_url=document.resolve(places["images"] or "file://var/images"),
        registry_url=document.resolve(places["registry"] or "file://var/registry"),
        cache=Path(rounds).parent / "cache",
    )


def _only(table: Any, key: str) -> dict[str, Any]:
    return {key: table[key]} if isinstance(table, dict) and key in table else {}


def _variants(document: Document) -> dict[str, Variant]:
    try:
        full = inherit(document.tables.get("variants", {}))
    except ExtendsError as error:
        raise document.wrong(error.keys, error.reason) from None
    return {name: _variant(document, name, table) for name, table in full.items()}


def _variant(document: Document, name: str, full: dict[str, Any]) -> Variant:
    variant = document.convert(("variants", name), full, Variant)
    return msgspec.structs.replace(variant, model=_place(document, variant.model), adapter=_place(document, variant.adapter))


def _place(document: Document, value: Any) -> Any:
    """A directory made absolute; `salon/NAME` and `registry:…` as they are."""
    return str(document.folder / value) if isinstance(value, str) and (document.folder / value).is_dir() else value
