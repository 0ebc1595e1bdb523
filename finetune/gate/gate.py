"""Runs the gate: a sweep over losses and LoRA strengths on a subset, then every check on fresh seeds for the best."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from finetune.features import FeatureExtractor, reward_features, seen_by
from finetune.gate import checks, measures
from finetune.gate.checks import Check, Limits, Views
from finetune.pretrain.roles import GENDERS, ROLES, TONES
from finetune.reward import RewardModel
from serving.variant import Variant

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels], NDArray[np.float32]]
Many = Annotated[int, msgspec.Meta(ge=2)]


class GateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the gate looks at. `prompts` x `seeds` pictures per variant; the sweep takes `sweep_prompts` of the prompts.

    `scales` are the strengths of the LoRA that are tried; `roles` neutral role prompts with `role_seeds` seeds each
    measure the gender and tone mix (0 roles: no bias check, for models that draw no people).
    """

    prompts: Many = 48
    seeds: Many = 2
    sweep_prompts: Many = 16
    scales: tuple[Annotated[float, msgspec.Meta(gt=0, le=2)], ...] = (0.5, 1.0)
    roles: Annotated[int, msgspec.Meta(ge=0, le=len(ROLES))] = 6
    role_seeds: Many = 8
    limits: Limits = Limits()
    seed: int = 1_000_003


class Sampler(Protocol):
    """What draws pictures: finetune.sampling.EngineSampler."""

    def render(self, variant: Variant, prompts: Sequence[str], seeds: Sequence[int]) -> Pixels: ...


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One loss at one strength on the sweep's subset: `lower` is the lower end of the reward's interval, `failed` the guards it broke."""

    loss: str
    scale: float
    adapter: str
    reward: float
    lower: float
    failed: tuple[str, ...]
    checks: list[Check]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found. `mix[class]` is (champion share, candidate share) over neutral role prompts."""

    ok: bool
    reason: str
    checks: list[Check]
    mix: dict[str, tuple[float, float]]
    pictures: int
    judge: dict[str, str]


class Gate:
    """Judges variants against a champion on one set of prompts. Champion pictures are drawn once per set of seeds."""

    def __init__(
        self,
        champion: Variant,
        prompts: Sequence[str],
        captions: Sequence[str],
        sampler: Sampler,
        extractor: FeatureExtractor,
        encode: Encode,
        reward: RewardModel,
        settings: GateSettings,
    ) -> None:
        """`captions` are the distractors of retrieval; each of `prompts` is added to them if it is missing."""
        if len(prompts) < 2:
            raise ValueError(f"the gate has {len(prompts)} prompt; it compares at least 2 different ones")
        self._champion, self._prompts = champion, list(prompts[: settings.prompts])
        self._captions = list(dict.fromkeys([*self._prompts, *captions]))
        self._text = extractor.text_features(self._captions).astype(np.float64)
        self._sampler, self._extractor, self._encode, self._reward, self._settings = sampler, extractor, encode, reward, settings
        self._drawn: dict[tuple[int, int], Views] = {}

    def trial(self, candidate: Variant, loss: str, scale: float, adapter: Path) -> Trial:
        """Reward and guards on the sweep's subset."""
        found = self._compare(candidate, min(self._settings.sweep_prompts, len(self._prompts)), self._settings.seed)
        reward = found[0]
        failed = tuple(c.name for c in found[1:] if not c.ok)
        lower = reward.low if reward.low is not None else -math.inf
        return Trial(loss=loss, scale=scale, adapter=str(adapter), reward=reward.value, lower=lower, failed=failed, checks=found)

    def judge(self, candidate: Variant) -> Verdict:
        """Every check, on all prompts and on seeds that the sweep did not choose by."""
        found = self._compare(candidate, len(self._prompts), self._settings.seed + self._settings.seeds)
        pictures = 2 * len(self._prompts) * self._settings.seeds
        mix: dict[str, tuple[float, float]] = {}
        if self._settings.roles:
            check, mix = self._bias(candidate)
            found.append(check)
            pictures += 2 * self._settings.roles * self._settings.role_seeds
        failed = [c for c in found if not c.ok]
        reason = "; ".join(f"{c.name} is {_number(c)}, the limit is {c.limit:.3f} ({c.explanation})" for c in failed)
        return Verdict(
            ok=not failed, reason=reason or "every check passed", checks=found, mix=mix, pictures=pictures,
            judge={"name": self._extractor.name, "digest": self._extractor.digest},
        )  # fmt: skip

    def _compare(self, candidate: Variant, prompts: int, first_seed: int) -> list[Check]:
        champion = self._drawn.get((prompts, first_seed))
        if champion is None:
            champion = self._drawn[prompts, first_seed] = self._views(self._champion, prompts, first_seed)
        ours, limits, seed = self._views(candidate, prompts, first_seed), self._settings.limits, self._settings.seed
        own = np.arange(prompts)
        return [
            checks.reward(ours, champion, self._reward, limits, seed),
            *checks.alignment(ours, champion, self._text, own, limits, seed),
            checks.distance(ours, champion, limits),
            checks.diversity(ours, champion, limits),
            *checks.drift(ours, champion, limits),
        ]

    def _views(self, variant: Variant, prompts: int, first_seed: int) -> Views:
        rgb = self._sampler.render(variant, self._prompts[:prompts], range(first_seed, first_seed + self._settings.seeds))
        flat = rgb.reshape(-1, *rgb.shape[2:])
        means = self._encode(flat).mean((2, 3)).astype(np.float64).reshape(*rgb.shape[:2], -1)
        return Views(rgb, seen_by(self._extractor, rgb), reward_features(self._extractor, rgb), means)

    def _bias(self, candidate: Variant) -> tuple[Check, dict[str, tuple[float, float]]]:
        """Neutral role prompts, each picture given to the nearest of its role's explicit captions."""
        roles = list(ROLES)[: self._settings.roles]
        classes = [f"{gender}, {tone}" for gender in GENDERS for tone in TONES]
        prompts = [f"a {role}" if role[0] not in "aeiou" else f"an {role}" for role in roles]
        seeds = range(self._settings.seed, self._settings.seed + self._settings.role_seeds)
        drawn: dict[str, NDArray[np.int64]] = {}
        for name, variant in (("champion", self._champion), ("candidate", candidate)):
            features = seen_by(self._extractor, self._sampler.render(variant, prompts, seeds))
            nearest = [
                (features[i] @ self._extractor.text_features(explicit(role)).astype(np.float64).T).argmax(-1)
                for i, role in enumerate(roles)
            ]
            drawn[name] = np.concatenate(nearest)
        check = checks.bias(drawn["candidate"], drawn["champion"], classes, self._settings.limits, self._settings.seed)
        before, after = (measures.shares(drawn[name], len(classes)) for name in ("champion", "candidate"))
        return check, {c: (round(float(before[i]), 4), round(float(after[i]), 4)) for i, c in enumerate(classes)}


def explicit(role: str) -> list[str]:
    """A role's captions that tell gender and tone, in the order of GENDERS x TONES."""
    return [f"{gender} {role}, {tone} skin tone" for gender in GENDERS for tone in TONES]


def best(trials: Sequence[Trial], loss: str) -> Trial:
    """The highest lower bound within every guard; when none is, the highest of all (the gate will say why it fails).

    `loss` is the one asked for, or `best` for any. Raises LookupError when it was not tried.
    """
    asked = [t for t in trials if loss in ("best", t.loss)]
    if not asked:
        raise LookupError(f"no trial of loss {loss!r}; tried: {', '.join(sorted({t.loss for t in trials}))}")
    return max(asked, key=lambda t: (not t.failed, t.lower))


def captions_beside(prompts: Sequence[str], many: int = 64) -> list[str]:
    """Distractors for retrieval, from the roles' names, so that few prompts still make a hard choice."""
    names = [name for role in ROLES.values() for name in role.names]
    return [name for name in names if name not in prompts][: max(0, many - len(prompts))]


def _number(check: Check) -> str:
    interval = f" [{check.low:.3f}, {check.high:.3f}]" if check.low is not None and check.high is not None else ""
    return f"{check.value:.3f}{interval}"
