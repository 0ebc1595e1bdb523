"""Does a schema still take everything that an older one took? A structural comparison, on the safe side.

It understands the keywords that our schemas use, and calls a difference in any other one narrower. A property that only the
newer schema names is no narrowing: no older writer wrote it.
"""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

SILENT = frozenset({"$schema", "$id", "title", "description", "default", "examples"})
COMPARED = frozenset(
    {"type", "const", "enum", "format", "minimum", "minLength", "not", "anyOf", "properties", "required", "additionalProperties"}
)
LOWER_BOUNDS = ("minimum", "minLength")


def narrowings(old: Schema, new: Schema, at: str = "$") -> list[str]:
    """What `old` takes and `new` may refuse, one sentence each; empty when `new` takes it all."""
    if "anyOf" in old or "anyOf" in new:
        return _alternatives(old, new, at)
    found = [f"{at}: {name!r} is new or changed" for name in sorted({*old, *new} - SILENT - COMPARED) if old.get(name) != new.get(name)]
    lost = _types(old) - _types(new)
    if lost:
        found.append(f"{at}: the type {', '.join(sorted(lost))} is no longer taken")
    found += _values(old, new, at)
    if "format" in new and new.get("format") != old.get("format"):
        found.append(f"{at}: format is {new['format']!r}, was {old.get('format')!r}")
    for name in LOWER_BOUNDS:
        if name in new and (name not in old or new[name] > old[name]):
            found.append(f"{at}: {name} is {new[name]}, was {old.get(name, 'none')}")
    added = sorted(set(new.get("required", ())) - set(old.get("required", ())))
    found += [f"{at}: {name!r} is required now" for name in added]
    return found + _members(old, new, at)


def _types(schema: Schema) -> set[str]:
    """`integer` is told apart from the other numbers, so that `number` takes it."""
    every = {"string", "integer", "number", "boolean", "object", "array", "null"}
    if "const" in schema or "enum" in schema:
        return set()
    named = schema.get("type", every)
    types = {named} if isinstance(named, str) else set(named)
    return types | {"integer"} if "number" in types else types


def _values(old: Schema, new: Schema, at: str) -> list[str]:
    """Constants and enumerations: of what the old one lists, and of what the new one excludes."""
    before, after = _listed(old), _listed(new)
    found = []
    if after is not None and (before is None or any(value not in after for value in before)):
        found.append(f"{at}: only {after} is taken, was {before if before is not None else 'anything'}")
    if before is not None and after is None and "type" in new and any(_type_of(value) not in _types(new) for value in before):
        found.append(f"{at}: {before} is no {new['type']}")
    excluded, before_excluded = (schema.get("not", {}) for schema in (new, old))
    if excluded and (set(excluded) != {"enum"} or set(excluded["enum"]) - set(before_excluded.get("enum", ()))):
        found.append(f"{at}: {excluded} is excluded, was {before_excluded}")
    return found


def _listed(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else list(schema["enum"]) if "enum" in schema else None


def _type_of(value: object) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array", type(None): "null"}
    return names[type(value)]


def _members(old: Schema, new: Schema, at: str) -> list[str]:
    found = []
    before, after = old.get("properties", {}), new.get("properties", {})
    rest_before, rest_after = (schema.get("additionalProperties", True) for schema in (old, new))
    for name, schema in before.items():
        if name not in after:
            found.append(f"{at}.{name} is no longer there")
        else:
            found += narrowings(schema, after[name], f"{at}.{name}")
    if rest_after is False and rest_before is not False:
        found.append(f"{at}: fields that are not named are refused")
    elif isinstance(rest_after, Mapping) and rest_before is not False:
        found += narrowings({} if rest_before is True else rest_before, rest_after, f"{at}.*")
    return found


def _alternatives(old: Schema, new: Schema, at: str) -> list[str]:
    """Every alternative of the old one needs one of the new one that takes all of it."""
    found = []
    for one in old.get("anyOf", [old]):
        answers = [narrowings(one, other, at) for other in new.get("anyOf", [new])]
        if all(answers):
            fewest: list[str] = min(answers, key=len)
            found += fewest
    return found
