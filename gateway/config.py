"""The whole `salon.toml` as the gateway sees it, checked as one, or refused with file, line, value and the nearest name."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from analytics.designs import design_problem
from analytics.events import GATEWAY_KINDS
from analytics.experiment import BUILT_IN_METRICS, Experiment, Metric
from analytics.settings import AnalyticsSettings, Document, analytics_settings
from serving.errors import ModelError
from serving.model import locate
from serving.remote.settings import RemoteSettings
from serving.settings import Dtype, EngineSettings, LoraForm
from serving.variant import ExtendsError, Variant, inherit

DEFAULT_TABLES: dict[str, Any] = {
    "variants": {"base": {"model": "salon/emoji-64"}},
    "routes": {"default": {"serve": "base"}, "hero": {"serve": "base"}},
}
NO_METRICS = {
    "control": "what people do to experiments",
    "decision": "what reports recommend",
    "trained": "what fine-tune rounds note of units",
}


class GatewaySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateway]`. `render_timeout_seconds` bounds a request for pictures; `max_queue_seconds` is where 429 begins.
    Feedback of one unit beyond `suspicious_events_per_minute` is flagged; 0: none is. Every `judge_every_minutes` running
    experiments are judged though nobody asks; 0: never.

    `token_key`: the file of the key that seals feedback tokens, "file:PATH"; gateways that serve one app share it. By default
    token.key in the gateway's own folder.
    """

    listen: str = "127.0.0.1:8080"
    api_keys: str = "file:keys.toml"
    token_key: str | None = None
    render_timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=550)] = 300.0
    max_queue_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 4_000_000
    suspicious_events_per_minute: Annotated[int, msgspec.Meta(ge=0)] = 600
    judge_every_minutes: Annotated[float, msgspec.Meta(ge=0, le=10_080)] = 60.0


class ImagesSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[images]`: where pictures and their provenance are kept; any fsspec URL."""

    url: str = "file://var/images"


class RegistrySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[registry]`: where adapters and candidates are published."""

    url: str = "file://var/registry"


class EngineSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[engines.NAME]`: in this process on `device`, with the settings of `serving.settings.EngineSettings`, or remote at `url`.

    Several devices are several engines of this process, several urls are workers that share the load. Beside `url`, `device` and the
    rest are what a worker that reads this file as `salon engine NAME` runs with. `model` names the model of a server that is not
    Salon's. `token` is sent as a bearer token: "env:NAME" or "file:PATH".
    """

    device: str | tuple[str, ...] | None = None
    url: str | tuple[str, ...] | None = None
    model: Annotated[str, msgspec.Meta(pattern=r"^[^/\s]{1,200}$")] | None = None
    token: str | None = None
    mode: Literal["fast", "strict"] = "fast"
    rows: int | None = None
    adapters: int = 16
    memory_mb: float | None = None
    dtype: Dtype | None = None
    compile: bool = False
    cuda_graphs: bool = True
    lora: LoraForm = "gathered"

    def __post_init__(self) -> None:
        if self.device is None and self.url is None:
            raise ValueError("give `device` (in this process) or `url` (remote)")
        if self.url is None and (self.model, self.token) != (None, None):
            raise ValueError("`model` and `token` are for a remote engine; give its `url` too")
        if not self.devices:
            raise ValueError('device is an empty list; name one, such as "cpu"')
        for device in self.devices:
            self.settings(device)
        _ = self.remote

    @property
    def devices(self) -> tuple[str, ...]:
        """Where engines run in the process that serves this section: "cpu" unless told."""
        return (self.device or "cpu",) if not isinstance(self.device, tuple) else self.device

    def settings(self, device: str | None = None) -> EngineSettings:
        """How the engine on `device` (default: the first) runs. Raises ValueError."""
        told = {name: getattr(self, name) for name in EngineSettings.__struct_fields__ if name not in ("threads", "device")}
        return msgspec.convert({**told, "device": device or self.devices[0]}, EngineSettings)

    @property
    def remote(self) -> RemoteSettings | None:
        """How a client reaches the engine; None for one in this process. Raises ValueError."""
        if self.url is None:
            return None
        urls = self.url if isinstance(self.url, tuple) else (self.url,)
        return RemoteSettings(urls=urls, model=self.model, token=self.token)


class RouteSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[routes.NAME]`: the variant that it serves without an experiment, and falls back to."""

    serve: str


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, with paths made absolute and `extends` resolved."""

    gateway: GatewaySection
    analytics: AnalyticsSettings
    images_url: str
    registry_url: str
    engines: dict[str, EngineSection]
    variants: dict[str, Variant]
    routes: dict[str, RouteSection]
    path: Path | None
    keys_path: Path
    token_key_path: Path
    var: Path

    @property
    def metrics(self) -> dict[str, Metric]:
        return self.analytics.metrics

    @property
    def experiments(self) -> dict[str, Experiment]:
        return self.analytics.experiments

    @property
    def feedback_kinds(self) -> frozenset[str]:
        """Kinds that the metrics name beside the built-in ones."""
        named = {kind for metric in self.metrics.values() for kind in (metric.event, metric.denominator) if kind}
        return frozenset(named - GATEWAY_KINDS)

    def fixed_parts(self) -> dict[str, object]:
        """What only a restart can change."""
        events, warehouse = self.analytics.events, self.analytics.warehouse
        return {
            "gateway": self.gateway, "events": events, "warehouse": warehouse,
            "images": self.images_url, "registry": self.registry_url, "engines": self.engines,
        }  # fmt: skip


def load(document: Document) -> Config:
    """Check a document as a whole. Raises SettingsError."""
    if not document.tables.get("variants") and not document.tables.get("routes"):
        document.tables.update({name: dict(table) for name, table in DEFAULT_TABLES.items()})
    gateway = document.section("gateway", GatewaySection)
    parse_listen(document, gateway.listen)
    engines = {"local": EngineSection(device="cpu"), **_engines(document)}
    variants = _variants(document, engines)
    routes = document.named("routes", RouteSection)
    if not routes:
        raise document.wrong(("routes",), 'there is no route; add [routes.NAME] with serve = "VARIANT"')
    for name, route in routes.items():
        document.check_names(("routes", name, "serve"), [route.serve], variants)
    analytics = analytics_settings(document)
    var = _var(analytics, document)
    _check_experiments(document, analytics, variants, routes)
    return Config(
        gateway=gateway,
        analytics=analytics,
        images_url=document.resolve(document.section("images", ImagesSection).url),
        registry_url=document.resolve(document.section("registry", RegistrySection).url),
        engines=engines,
        variants=variants,
        routes=routes,
        path=document.path,
        keys_path=keys_path(document),
        token_key_path=_secret_path(document, "token_key", gateway.token_key) if gateway.token_key is not None else var / "token.key",
        var=var,
    )


def keys_path(document: Document) -> Path:
    """The file of API keys. Raises SettingsError for anything but `file:PATH`."""
    return _secret_path(document, "api_keys", document.section("gateway", GatewaySection).api_keys)


def _secret_path(document: Document, key: str, value: str) -> Path:
    if not value.startswith("file:") or value == "file:":
        raise document.wrong(("gateway", key), f'is {value!r}; write "file:PATH"')
    return document.folder / value.removeprefix("file:").removeprefix("//")


def parse_listen(document: Document, listen: str) -> tuple[str, int]:
    """`HOST:PORT` as a pair; port 0 means any free one. Raises SettingsError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise document.wrong(("gateway", "listen"), f'is {listen!r}; write "HOST:PORT", such as "127.0.0.1:8080"')
    return host.strip("[]"), int(port)


def _engines(document: Document) -> dict[str, EngineSection]:
    """The sections, with the path of a token's file made absolute."""
    sections = document.named("engines", EngineSection)
    for name, section in sections.items():
        if section.token is not None and section.token.startswith("file:"):
            path = document.folder / section.token.removeprefix("file:").removeprefix("//")
            sections[name] = msgspec.structs.replace(section, token=f"file:{path}")
    return sections


def _var(analytics: AnalyticsSettings, document: Document) -> Path:
    """Where the gateway keeps its own small state: beside the local log."""
    log, kafka = analytics.events.log, analytics.events.kafka
    if kafka is not None:
        return analytics.events.spool.parent
    return Path(log.removeprefix("local:").partition("?")[0]).parent if log.startswith("local:") else document.folder / "var"


def _variants(document: Document, engines: Mapping[str, EngineSection]) -> dict[str, Variant]:
    try:
        tables = inherit(document.tables.get("variants", {}))
    except ExtendsError as error:
        raise document.wrong(error.keys, error.reason) from None
    return {name: _variant(document, ("variants", name), table, engines) for name, table in tables.items()}


def _variant(document: Document, keys: tuple[str, str], full: dict[str, Any], engines: Mapping[str, EngineSection]) -> Variant:
    variant = document.convert(keys, full, Variant)
    document.check_names((*keys, "engine"), [variant.engine], engines)
    engine = engines[variant.engine]
    if engine.model is not None:
        return _foreign(document, keys, variant)
    if engine.url is not None:
        return _on_worker(document, variant)
    model = _model(document, (*keys, "model"), variant.model)
    adapter = _adapter(document, (*keys, "adapter"), variant.adapter) if variant.adapter is not None else None
    return msgspec.structs.replace(variant, model=model, adapter=adapter)


def _on_worker(document: Document, variant: Variant) -> Variant:
    """Paths are made absolute and looked for where they are needed: on the worker's disk."""

    def place(value: str) -> str:
        return value if value.startswith(("salon/", "registry:")) else str(document.folder / value)

    return msgspec.structs.replace(variant, model=place(variant.model), adapter=place(variant.adapter) if variant.adapter else None)


def _foreign(document: Document, keys: tuple[str, str], variant: Variant) -> Variant:
    """A variant of a server that is not Salon's, which knows by its name what it is."""
    if variant.size is None:
        raise document.wrong(
            (*keys, "size"), f'is missing; a server that is not Salon\'s ([engines.{variant.engine}] model) needs it: "512x512"'
        )
    if variant.adapter is not None:
        raise document.wrong(
            (*keys, "adapter"),
            f"{variant.adapter!r}: a server that is not Salon's takes none; load it there, and name the variant after it",
        )
    return msgspec.structs.replace(variant, served_as=variant.served_as or keys[1])


def _model(document: Document, keys: tuple[str, ...], value: str) -> str:
    """A directory made absolute, or the name of a packaged model as it is. Raises SettingsError when there is neither."""
    folder = document.folder / value
    if folder.is_dir():
        return str(folder)
    if not value.startswith("salon/"):
        raise document.wrong(
            keys, f"there is no directory {folder}{_near(folder)}; name one in diffusers layout, or a packaged model (salon/…)"
        )
    try:
        locate(value)
    except ModelError as error:
        raise document.wrong(keys, str(error)) from None
    return value


def _adapter(document: Document, keys: tuple[str, ...], value: str) -> str:
    if value.startswith("registry:"):
        return value
    path = document.folder / value
    if not path.exists():
        raise document.wrong(keys, f"there is no file or directory {path}{_near(path)}; name one, or registry:NAME@sha256:HEX")
    return str(path)


def _near(path: Path) -> str:
    close = get_close_matches(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check_experiments(
    document: Document, analytics: AnalyticsSettings, variants: Mapping[str, Variant], routes: Mapping[str, RouteSection]
) -> None:
    autostarted: dict[str, str] = {}
    for name, experiment in analytics.experiments.items():
        keys = ("experiments", name)
        document.check_names((*keys, "route"), [experiment.route], routes)
        document.check_names((*keys, "arms"), experiment.arms, variants)
        if problem := design_problem(experiment, analytics.metrics):
            raise document.wrong((*keys, "primary"), f"{experiment.primary!r} does not do: {problem}")
        if experiment.autostart and experiment.route in autostarted:
            other = autostarted[experiment.route]
            raise document.wrong(
                (*keys, "autostart"), f"{other!r} starts by itself on route {experiment.route!r} too; let one of them wait"
            )
        if experiment.autostart:
            autostarted[experiment.route] = name
    for name, metric in analytics.metrics.items():
        if name in BUILT_IN_METRICS:
            raise document.wrong(("metrics", name), "is the name of a built-in metric; take another name")
        for kind, what in NO_METRICS.items():
            if kind in (metric.event, metric.denominator):
                raise document.wrong(("metrics", name, "event"), f"{kind!r} is {what}; name a kind such as 'like'")
