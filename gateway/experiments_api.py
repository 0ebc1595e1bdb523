"""Experiments over HTTP: what they are, what would be assigned, their life, their report."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal, cast

import msgspec
from litestar import Request, Response, get, patch, post

from analytics.decision_event import PastDecision
from analytics.events import utc_now
from gateway import draws
from gateway.access import needs
from gateway.gallery import Gallery
from gateway.image_request import check_context, check_unit, choose_route
from gateway.ledger import AFTER, Life
from gateway.problems import InvalidRequest, NotFound
from gateway.ramps import where
from gateway.running import Gateway
from gateway.wire import decode, shown

AnyRequest = Request[Any, Any, Any]
GALLERY_PROMPTS = 4


class AssignmentsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Units of a route, whose arms are asked."""

    route: str
    units: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]
    context: dict[str, str] | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why an experiment is started, paused, resumed, stopped or shipped; to ship, which arm."""

    why: str = ""
    arm: str | None = None


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New weights for all arms, and why."""

    weights: dict[str, float]
    why: str = ""


@post("/v1/assignments", guards=[needs("analyst")], status_code=200)
async def assignments(request: AnyRequest, gateway: Gateway) -> Response[bytes]:
    """What each unit would get. Makes no image, logs no exposure, remembers nothing. Without a running experiment: nulls; where its
    grids mix arms, no arm."""
    wanted = decode(await request.body(), AssignmentsRequest)
    check_context(wanted.context)
    plans = gateway.experiments.view.plans
    plan = plans[choose_route(wanted.route, tuple(plans))]
    for unit in wanted.units:
        check_unit("units", unit)
    found = []
    for unit, assigned in zip(wanted.units, await draws.assignments(plan, wanted.units, utc_now(), gateway.sticky), strict=True):
        facts = {"arm": assigned.arm, "propensity": assigned.propensity} if assigned else {"arm": None, "propensity": None}
        found.append({"unit": unit, "experiment": plan.life.name if plan.life else None, **facts})
    return _json({"assignments": found})


@get("/v1/experiments", guards=[needs("analyst")])
async def experiments(gateway: Gateway) -> Response[bytes]:
    """Every experiment with its state, definition and weights of now; and what each route serves."""
    view = gateway.experiments.view
    routes = {name: {"serve": plan.serve, "experiment": plan.life.name if plan.life else None} for name, plan in view.plans.items()}
    lives = gateway.experiments.lives.values()
    return _json({"experiments": [_described(gateway, life) for life in lives], "routes": routes})


@get("/v1/experiments/{name:str}", guards=[needs("analyst")])
async def experiment(gateway: Gateway, name: str) -> Response[bytes]:
    """One experiment."""
    return _json(_described(gateway, gateway.experiments.life(name)))


@post("/v1/experiments/{name:str}/{action:str}", guards=[needs("admin")], status_code=200)
async def change(request: AnyRequest, gateway: Gateway, name: str, action: str) -> Response[bytes]:
    """Start, pause, resume, stop or ship (`{"arm": …, "why": …}`)."""
    if action not in AFTER:
        raise NotFound(f"{action!r} is nothing that can be done to an experiment; known: {', '.join(AFTER)}")
    body = await request.body()
    wanted = decode(body, Change) if body.strip() else Change()
    life = await gateway.experiments.change(name, action, request.scope["user"].name, wanted.why, wanted.arm)
    gateway.warm()
    return _json(_described(gateway, life))


@patch("/v1/experiments/{name:str}", guards=[needs("admin")])
async def reweigh(request: AnyRequest, gateway: Gateway, name: str) -> Response[bytes]:
    """Change the weights of all arms; only the units that must move do."""
    wanted = decode(await request.body(), Weights)
    life = await gateway.experiments.reweigh(name, wanted.weights, request.scope["user"].name, wanted.why)
    return _json(_described(gateway, life))


@get("/v1/experiments/{name:str}/report", guards=[needs("analyst")])
async def report(gateway: Gateway, name: str, as_of: str | None = None, format: str = "json", flagged: str = "exclude") -> Response[bytes]:
    """The report on all that was acknowledged before this call. `?format=` json, text or html; `?as_of=` a time with an offset;
    `?flagged=include` counts flagged events like any other."""
    chosen = _format(format)
    if flagged not in ("exclude", "include"):
        raise InvalidRequest(f"`flagged` is {shown(flagged)}; one of exclude, include", field="flagged")
    at = _time(as_of) if as_of else None
    life = gateway.experiments.life(name)
    made = await asyncio.to_thread(gateway.decisions.report, name, life, gateway.config.metrics, at, flagged == "include")
    if chosen == "json":
        return _json(made)
    if chosen == "text":
        from analytics.report.text import to_text

        return Response(to_text(made).encode(), media_type="text/plain")
    from analytics.report.page import to_html

    prompts = await asyncio.to_thread(gateway.reports.prompts, name, GALLERY_PROMPTS)
    pictures = await _pictures(gateway.gallery, gateway, life, prompts)
    return Response((await asyncio.to_thread(to_html, made, pictures)).encode(), media_type="text/html")


def describe(life: Life, decided: PastDecision | None, waits: str = "") -> dict[str, object]:
    """An experiment as it is shown, with what a report decided last, and what its ramp waits for."""
    decision = {"action": decided.action, "arm": decided.arm, "reason": decided.reason, "at": decided.at} if decided else None
    return {
        "name": life.name, "state": life.state, "route": life.route, "origin": life.origin, "weights": life.allocation.weights,
        "shipped_arm": life.arm or None, "created_at": life.created_at, "started_at": life.started_at or None,
        "changed_at": life.changed_at, "changed_by": life.who, "why": life.why, "definition": life.declared,
        "decision": decision, "ramp": where(life, waits),
    }  # fmt: skip


def _described(gateway: Gateway, life: Life) -> dict[str, object]:
    return describe(life, gateway.decisions.last(life.name), gateway.steering.waits.get(life.name, ""))


async def _pictures(gallery: Gallery, gateway: Gateway, life: Life, prompts: list[str]) -> Any:
    variants = gateway.experiments.view.variants
    arms = {arm: variants[arm] for arm in life.declared.arms if arm in variants}
    return await gallery.pictures(arms, prompts) if len(arms) == len(life.declared.arms) else []


def _format(text: str) -> Literal["json", "text", "html"]:
    if text not in ("json", "text", "html"):
        raise InvalidRequest(f"`format` is {shown(text)}; one of json, text, html", field="format")
    return cast("Literal['json', 'text', 'html']", text)


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise InvalidRequest(f"`as_of` is {shown(text)}; write a time such as 2026-11-23T12:00:00Z", field="as_of") from None
    if at.tzinfo is None:
        raise InvalidRequest(f"`as_of` is {shown(text)}, without an offset from UTC; write …Z", field="as_of")
    return at


def _json(value: object) -> Response[bytes]:
    return Response(msgspec.json.encode(value), media_type="application/json")
