"""Reads `salon.toml`: tables with environment overrides, and errors that name the line, the value and the nearest name."""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from analytics.event_log import parse_log_url
from analytics.experiment import BUILT_IN_METRICS, Experiment, Metric, Name
from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.nearest import nearest as nearest
from analytics.warehouse.address import parse_address

SECTIONS = ("gateway", "events", "warehouse", "images", "registry", "engines", "variants", "routes", "metrics", "experiments", "finetune")
NAMED = ("variants", "routes", "metrics", "experiments")
T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(ValueError):
    """The configuration is wrong. The text names file, line, key, value and the fix."""


class EventsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[events]` as written: where the log is and, in front of Kafka, where events wait for it."""

    log: str = "local:var/events"
    spool: str = "var/spool"
    spool_max_bytes: Annotated[int, msgspec.Meta(ge=262_144)] = 4 * 2**30
    spool_max_age_hours: Annotated[float, msgspec.Meta(gt=0)] = 72


class EventsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[events]` as used: `kafka` is None where the log is local, and then there is no spool.

    `log` is the absolute `local:` URL, or the `kafka://` one without its password. `spool` is an absolute folder.
    """

    log: str
    spool: Path
    spool_max_bytes: int
    spool_max_age_hours: float
    kafka: KafkaAddress | None = None


class WarehouseSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[warehouse]`: where reports are read from; after how many days `salon migrate` lets rows go (None: never)."""

    url: str = "chdb://var/warehouse"
    events_days: Annotated[int, msgspec.Meta(ge=2)] | None = None
    units_days: Annotated[int, msgspec.Meta(ge=2)] | None = None


class AnalyticsSettings(msgspec.Struct, frozen=True):
    """The sections that sink and reports need."""

    events: EventsSettings
    warehouse: WarehouseSection
    metrics: dict[str, Metric]
    experiments: dict[str, Experiment]
    folder: Path


class Document:
    """A parsed `salon.toml` with `$SALON_SECTION__KEY` overrides applied."""

    def __init__(self, path: Path | None, text: str, environ: Mapping[str, str]) -> None:
        self.path, self._text, self.environ = path, text, environ
        self.folder = path.parent.resolve() if path else Path.cwd()
        try:
            self.tables: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: {error}") from None
        self._override(environ)
        self.check_names((), self.tables, SECTIONS)
        self._check_letters()

    @classmethod
    def read(cls, path: Path | None, environ: Mapping[str, str] | None = None) -> "Document":
        """Read `path`; None means `$SALON_CONFIG`, else `salon.toml` when there is one, else defaults. Raises SettingsError."""
        environ = os.environ if environ is None else environ
        named = path or (Path(environ["SALON_CONFIG"]) if environ.get("SALON_CONFIG") else None)
        chosen = named or Path("salon.toml")
        if named is None and not chosen.exists():
            return cls(None, "", environ)
        try:
            return cls(chosen, chosen.read_text("utf-8"), environ)
        except OSError as error:
            raise SettingsError(f"{chosen}: cannot be read ({error.strerror}); name another file with --config") from None

    def _override(self, environ: Mapping[str, str]) -> None:
        for name, value in environ.items():
            keys = name.removeprefix("SALON_").lower().split("__")
            if not name.startswith("SALON_") or len(keys) < 2 or not all(keys):
                continue
            table = self.tables
            for key in keys[:-1]:
                table = table.setdefault(_as_written(key, table), {})
                if not isinstance(table, dict):
                    raise SettingsError(f"${name}: {key} is a value, not a table")
            try:
                table[_as_written(keys[-1], table)] = tomllib.loads(f"value = {value}")["value"]
            except tomllib.TOMLDecodeError:
                table[_as_written(keys[-1], table)] = value

    def _check_letters(self) -> None:
        """Names stand in URLs, in tables and in file names."""
        for section in NAMED:
            table = self.tables.get(section, {})
            for name in table if isinstance(table, dict) else ():
                try:
                    msgspec.convert(name, Name)
                except msgspec.ValidationError:
                    fix = "take letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63"
                    raise self.wrong((section, name), f"the name {name[:100]!r} does not do; {fix}") from None

    def where(self, keys: Iterable[str]) -> str:
        """`salon.toml:41: experiments.vivid.arms`: the best line for a key path."""
        keys = tuple(keys)
        shown = ".".join(key if key.isprintable() else repr(key) for key in keys)
        return f"{self.path or 'defaults'}:{_line(self._text, keys)}: {shown}"

    def wrong(self, keys: Iterable[str], reason: str) -> SettingsError:
        """The error to raise for what stands at `keys`."""
        return SettingsError(f"{self.where(keys)}: {reason}")

    def check_names(self, keys: tuple[str, ...], names: Iterable[str], known: Iterable[str]) -> None:
        """Raise SettingsError for the first of `names` that is not known, with the nearest that is."""
        known = tuple(known)
        for name in names:
            if name not in known:
                raise self.wrong((*keys, name), f"unknown name {name!r}; {nearest(name, known)}")

    def section(self, name: str, into: type[T]) -> T:
        """`[name]` as a struct."""
        return self.convert((name,), self.tables.get(name, {}), into)

    def named(self, name: str, into: type[T]) -> dict[str, T]:
        """Every `[name.KEY]` as a struct."""
        table = self.tables.get(name, {})
        if not isinstance(table, dict):
            raise self.wrong((name,), f"is {table!r}; write [{name}.NAME] tables")
        return {key: self.convert((name, key), value, into) for key, value in table.items()}

    def convert(self, keys: tuple[str, ...], value: object, into: type[T]) -> T:
        """Check `value` against a struct. Raises SettingsError."""
        self._check_keys(keys, value, msgspec.inspect.type_info(into))
        try:
            return msgspec.convert(value, into)
        except msgspec.ValidationError as error:
            text, _, at = str(error).partition(" - at `$")
            inner = tuple(part for part in re.split(r"[.\[\]]+", at.rstrip("`")) if part and part != "...")
            raise self.wrong((*keys, *inner), f"{_value_at(value, inner)}{text}") from None

    def _check_keys(self, keys: tuple[str, ...], value: object, kind: msgspec.inspect.Type) -> None:
        """Name the first unknown key of a table, also of the tables in it."""
        if not isinstance(value, dict):
            return
        for each in kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,):
            if isinstance(each, msgspec.inspect.StructType):
                fields = {field.encode_name: field.type for field in each.fields}
                self.check_names(keys, value, fields)
                for key, inner in value.items():
                    self._check_keys((*keys, key), inner, fields[key])
            elif isinstance(each, msgspec.inspect.DictType):
                for key, inner in value.items():
                    self._check_keys((*keys, key), inner, each.value_type)

    def resolve(self, url: str) -> str:
        """Make the path in a `local:`, `file://` or `chdb://` URL, or a bare path, absolute from the file's folder."""
        for scheme in ("local:", "file://", "chdb://"):
            if url.startswith(scheme):
                return scheme + str(self.folder / url.removeprefix(scheme))
        return url if ":" in url else str(self.folder / url)


def analytics_settings(document: Document) -> AnalyticsSettings:
    """The sections of events, warehouse, metrics and experiments, checked against each other."""
    metrics, experiments = document.named("metrics", Metric), document.named("experiments", Experiment)
    _check_metrics(document, metrics)
    for name, experiment in experiments.items():
        keys = ("experiments", name)
        known = (*metrics, *BUILT_IN_METRICS)
        document.check_names((*keys, "primary"), [experiment.primary], metrics)
        document.check_names((*keys, "secondary"), experiment.secondary, known)
        document.check_names((*keys, "guardrails"), experiment.guardrails, known)
        for name_of, given in (("breakdowns", experiment.breakdowns), ("secondary", experiment.secondary)):
            if twice := next((value for value in given if given.count(value) > 1), None):
                raise document.wrong((*keys, name_of), f"{twice!r} is there twice; name it once")
    warehouse = document.section("warehouse", WarehouseSection)
    _check_warehouse(document, warehouse)
    return AnalyticsSettings(
        events=_events(document, document.section("events", EventsSection)),
        warehouse=msgspec.structs.replace(warehouse, url=document.resolve(warehouse.url)),
        metrics=metrics,
        experiments=experiments,
        folder=document.folder,
    )


def _events(document: Document, section: EventsSection) -> EventsSettings:
    """Raises SettingsError for a log that could not be opened anywhere, and for a spool without Kafka."""
    kafka = None
    try:
        if section.log.partition(":")[0] == "kafka":
            kafka = parse_kafka(section.log, document.environ, document.folder)
        else:
            parse_log_url(section.log)
    except ValueError as error:
        raise document.wrong(("events", "log"), str(error)) from None
    for key in document.tables.get("events", {}):
        if key.startswith("spool") and kafka is None:
            raise document.wrong(
                ("events", key), 'the spool is where events wait for Kafka, and the log is local; leave it out, or set log = "kafka://…"'
            )
    if not section.spool:
        raise document.wrong(("events", "spool"), "is empty; name a folder, such as var/spool")
    return EventsSettings(
        log=kafka.shown if kafka else document.resolve(section.log),
        spool=document.folder / section.spool,
        spool_max_bytes=section.spool_max_bytes,
        spool_max_age_hours=section.spool_max_age_hours,
        kafka=kafka,
    )


def _check_metrics(document: Document, metrics: Mapping[str, Metric]) -> None:
    """Raises SettingsError for a name that is built in, and for covariates that CUPED cannot use."""
    for name, metric in metrics.items():
        keys = ("metrics", name)
        if name in BUILT_IN_METRICS:
            raise document.wrong(keys, f"{name!r} is built in and needs no definition; take another name, or leave it out")
        document.check_names((*keys, "covariates"), metric.covariates, [other for other in metrics if other != name])
        for other in metric.covariates:
            if metrics[other].kind == "quantile":
                raise document.wrong((*keys, "covariates"), f"{other!r} is a quantile; CUPED takes means, proportions and ratios per unit")


def _check_warehouse(document: Document, warehouse: WarehouseSection) -> None:
    """Raises SettingsError for what could not be opened anywhere."""
    try:
        parse_address(warehouse.url, {})
    except ValueError as error:
        raise document.wrong(("warehouse", "url"), str(error)) from None


def _as_written(key: str, table: Mapping[str, Any]) -> str:
    folded = {k.lower().replace("-", "_"): k for k in table}
    return folded.get(key, key)


def _value_at(value: object, keys: tuple[str, ...]) -> str:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return ""
        value = value[key]
    return "" if isinstance(value, dict) else f"{value!r}: "


def _line(text: str, keys: tuple[str, ...]) -> int:
    """The line of the deepest table header or key of `keys` that can be found; 1 when none is."""
    best, depth = 1, 0
    header: tuple[str, ...] = ()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if match := re.match(r"\[+([^\]]+)\]+", line):
            header = here = _key_path(match[1])
        elif match := re.match(r"((?:[A-Za-z0-9_.\-]|\"[^\"]*\"|'[^']*')+)\s*=", line):
            here = (*header, *_key_path(match[1]))
        else:
            continue
        shared = sum(1 for _ in _common(here, keys))
        if shared in (len(here), len(keys)) and shared > depth:
            best, depth = number, shared
    return best


def _key_path(text: str) -> tuple[str, ...]:
    """`a."b.c"` as TOML reads it; nothing where it is no key."""
    try:
        at: object = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    keys: list[str] = []
    while isinstance(at, dict):
        ((key, at),) = at.items()
        keys.append(key)
    return tuple(keys)


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> Iterable[str]:
    for x, y in zip(a, b, strict=False):
        if x != y:
            return
        yield x
