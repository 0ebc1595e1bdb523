"""The committed schemas, as files of this package."""

from importlib.resources import files

from analytics.events import SCHEMA_VERSION

VERSIONS = tuple(range(1, SCHEMA_VERSION + 1))


def kinds(version: int = SCHEMA_VERSION) -> list[str]:
    """The kinds of a version, sorted; `custom` stands for kinds that metrics name."""
    found = files("analytics.event_schema").joinpath(f"v{version}").iterdir()
    return sorted(file.name.removesuffix(".json") for file in found if file.name.endswith(".json"))


def read(kind: str, version: int = SCHEMA_VERSION) -> bytes:
    """The JSON Schema of a kind. Raises LookupError for a kind or a version that there is not."""
    if version not in VERSIONS:
        raise LookupError(f"version {version} of the event schema; there are {', '.join(map(str, VERSIONS))}")
    if kind not in kinds(version):
        raise LookupError(f"kind {kind!r} of event in version {version}; there are {', '.join(kinds(version))}")
    return files("analytics.event_schema").joinpath(f"v{version}", f"{kind}.json").read_bytes()
