"""What a gateway does with the state of experiments: one plan per route, in a view that is replaced as a whole."""

import msgspec

from gateway.assignment import Split
from gateway.changes import other_variant
from gateway.config import Config
from gateway.ledger import Ledger, Life
from serving.variant import Variant


class Plan(msgspec.Struct, frozen=True):
    """What a route does now: its own variant, and the experiment that runs on it."""

    route: str
    serve: str
    life: Life | None
    split: Split | None


class View(msgspec.Struct, frozen=True):
    """All that a request reads: plans by route, variants by name (the file's and those of rounds).

    `left_out`: running experiments that this gateway cannot take part in, and why.
    """

    plans: dict[str, Plan]
    variants: dict[str, Variant]
    left_out: dict[str, str] = {}


def look(ledger: Ledger, config: Config) -> View:
    """The view of a state through a configuration."""
    variants = {**ledger.variants, **config.variants}
    plans: dict[str, Plan] = {}
    left_out: dict[str, str] = {}
    for route, section in config.routes.items():
        shipped = ledger.shipped.get(route)
        stands = shipped is not None and shipped.over == section.serve and shipped.variant in variants
        serve = shipped.variant if shipped is not None and stands else section.serve
        life = next((life for life in ledger.lives.values() if life.route == route and life.state == "running"), None)
        if life is not None and (reason := _cannot(ledger, config, life, variants)):
            left_out[life.name] = reason
            life = None
        plans[route] = Plan(route, serve, life, Split(life.allocation) if life else None)
    return View(plans, variants, left_out)


def _cannot(ledger: Ledger, config: Config, life: Life, variants: dict[str, Variant]) -> str:
    missing = sorted(set(life.declared.arms) - set(variants))
    reason = f"this gateway's file has no variant {missing[0]!r}" if missing else other_variant(ledger, config, life)
    return f"{reason}; this gateway takes no part in it and serves the route's own variant" if reason else ""
