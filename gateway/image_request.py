"""The OpenAI Images request, checked: what is wrong is named with field, value and fix."""

import re
from typing import Annotated, Literal

import msgspec

from gateway.problems import InvalidRequest, UnknownRoute
from gateway.wire import shown

PROMPT_CHARACTERS = 32_000
IMAGES = 10
SEED_LIMIT = 1 << 62
CONTEXT_KEYS, KEY_CHARACTERS, VALUE_CHARACTERS, UNIT_CHARACTERS = 32, 64, 512, 256

Format = Literal["png", "jpeg", "webp"]


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/images/generations`. Unknown extras are accepted, as OpenAI's clients send ever new ones."""

    prompt: str
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=IMAGES)] | None = None
    size: str | None = None
    user: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Format | None = None
    output_compression: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, msgspec.Meta(ge=0, le=3)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=SEED_LIMIT)] | None = None
    negative_prompt: str | None = None
    context: dict[str, str] | None = None

    def check(self) -> None:
        """The rules that types do not say. Raises InvalidRequest."""
        if not self.prompt.strip():
            raise InvalidRequest("`prompt` is empty; say what to draw", field="prompt")
        for field, text in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt or "")):
            if len(text) > PROMPT_CHARACTERS:
                raise InvalidRequest(f"`{field}` has {len(text)} characters; at most {PROMPT_CHARACTERS} are allowed", field=field)
        check_unit("user", self.user)
        check_context(self.context)


def check_unit(field: str, unit: str | None) -> None:
    """Raises InvalidRequest unless a unit's name is of a sane length and printable."""
    if unit is None:
        return
    if not 0 < len(unit) <= UNIT_CHARACTERS or not unit.isprintable():
        raise InvalidRequest(f"`{field}` is {shown(unit)}; give 1 to {UNIT_CHARACTERS} printable characters", field=field)
    if unit.startswith("anon-"):
        raise InvalidRequest(f"`{field}` is {shown(unit)}; names that begin with `anon-` are kept for requests without a user", field=field)


def check_context(context: dict[str, str] | None, field: str = "context") -> None:
    """Raises InvalidRequest unless a string map is small."""
    if context is None:
        return
    if len(context) > CONTEXT_KEYS:
        raise InvalidRequest(f"`{field}` has {len(context)} entries; at most {CONTEXT_KEYS} are allowed", field=field)
    for key, value in context.items():
        if not 0 < len(key) <= KEY_CHARACTERS or len(value) > VALUE_CHARACTERS:
            raise InvalidRequest(
                f"`{field}.{shown(key)}` is {shown(value)}; keys have 1 to {KEY_CHARACTERS} characters, values at most {VALUE_CHARACTERS}",
                field=field,
            )


def choose_route(model: str | None, routes: tuple[str, ...]) -> str:
    """The route asked for; without `model` the one named `default`, or the only one. Raises UnknownRoute."""
    if model is None:
        if "default" in routes:
            return "default"
        if len(routes) == 1:
            return routes[0]
        raise UnknownRoute(f"`model` is missing; name a route: {', '.join(sorted(routes))}", field="model")
    if model not in routes:
        from analytics.settings import nearest

        raise UnknownRoute(f"`model` is {shown(model)}, which is no route; {nearest(model[:200], routes)}", field="model")
    return model


def check_size(size: str | None, width: int, height: int) -> str:
    """The size as `WIDTHxHEIGHT`. Raises InvalidRequest unless it is `auto` or what the model draws."""
    own = f"{width}x{height}"
    if size is None or size in ("auto", own):
        return own
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
        raise InvalidRequest(f'`size` is {shown(size)}; write WIDTHxHEIGHT or "auto"; this route draws "{own}"', field="size")
    raise InvalidRequest(f'`size` is {shown(size)}; this route draws "{own}": ask for that, or for "auto"', field="size")
