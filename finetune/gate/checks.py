"""The checks: each compares a candidate with the champion, on the same prompts and seeds, and says what it found and why it matters."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from finetune.features import saturation
from finetune.gate import measures
from finetune.reward import RewardModel

Floats = NDArray[np.float64]
_ONE_SIDED = 1.645


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a candidate may go.

    `alignment_margin`: loss of caption retrieval (share) or cosine allowed, or 1.645 standard errors of the paired
    difference if that is more (so an equal model fails once in twenty at most, and a large gate is a strict one);
    `distance`: kernel distance to the champion as a share of the champion's own spread; `diversity`: least share of the
    champion's pairwise distance; `colour_sds`: standard deviations over prompts; `bias`: total variation of the gender
    and tone mix, or what chance alone reaches, whichever is larger; `kappa`: pessimism of the reward.
    """

    alignment_margin: float = 0.01
    distance: float = 0.10
    diversity: float = 0.90
    colour_sds: float = 2.0
    bias: float = 0.02
    kappa: float = 1.0
    resamples: int = 4000


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: the candidate passes when `ok`. `low` and `high` are a 95 % interval of `value` where there is one."""

    name: str
    value: float
    limit: float
    ok: bool
    explanation: str
    low: float | None = None
    high: float | None = None


class Views(msgspec.Struct):
    """One variant's pictures: `rgb` [p, s, h, w, 3], judge `features` [p, s, d], `reward` features [p, s, f], `latent_mean` [p, s, c]."""

    rgb: NDArray[np.uint8]
    features: Floats
    reward: Floats
    latent_mean: Floats


def reward(candidate: Views, champion: Views, model: RewardModel, limits: Limits, seed: int) -> Check:
    """Lower bound of the reward: the difference to the champion, paired by prompt, must be above 0 with its whole interval.

    Pessimism acts on the difference: members that disagree on its direction count against it, however small it is.
    """
    difference = (model.each(candidate.reward) - model.each(champion.reward)).mean(2)
    value = model.pessimistic(difference.mean(1))
    rng = np.random.default_rng(seed)
    prompts = difference.shape[1]
    drawn = [model.pessimistic(difference[:, rng.integers(prompts, size=prompts)].mean(1)) for _ in range(limits.resamples)]
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]))
    text = (
        f"pessimistic change of the like chance over {prompts} prompts, bootstrap by prompt; the reward model's "
        f"correlation with likes of units it never saw is {model.held_out:.2f}"
    )
    return Check(name="reward", value=value, limit=0.0, ok=low > 0, explanation=text, low=low, high=high)


def alignment(candidate: Views, champion: Views, captions: Floats, own: NDArray[np.int64], limits: Limits, seed: int) -> list[Check]:
    """Does it still draw what it is asked? Retrieval of the own caption, and mean cosine."""
    hits = [measures.retrieval_hits(v.features, captions, own).mean(1) for v in (candidate, champion)]
    cosines = [measures.alignment(v.features, captions, own).mean(1) for v in (candidate, champion)]
    found = []
    for name, (ours, theirs), what in (
        ("retrieval", hits, f"own caption nearest among {len(captions)}"),
        ("alignment", cosines, "cosine of picture and caption"),
    ):
        difference = ours - theirs
        error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
        limit = -max(limits.alignment_margin, _ONE_SIDED * error)
        low, high = measures.bootstrap_interval(difference, resamples=limits.resamples, seed=seed)
        text = f"{what}: candidate {ours.mean():.3f}, champion {theirs.mean():.3f}; may lose {-limit:.3f} (margin or noise)"
        value = float(difference.mean())
        found.append(Check(name=name, value=value, limit=limit, ok=value >= limit, explanation=text, low=low, high=high))
    return found


def distance(candidate: Views, champion: Views, limits: Limits) -> Check:
    """A candidate far from its champion on a judge's features is another model, whatever the reward says."""
    flat = [v.features.reshape(-1, v.features.shape[-1]) for v in (candidate, champion)]
    squared, share = measures.kernel_distance(flat[0], flat[1], paired=True)
    text = f"kernel distance (MMD squared {squared:.4f}) to the champion's pictures, as a share of the champion's own spread"
    return Check(name="distance", value=share, limit=limits.distance, ok=share <= limits.distance, explanation=text)


def diversity(candidate: Views, champion: Views, limits: Limits) -> Check:
    """Pictures of one prompt must keep differing: collapse is the usual price of a preference."""
    ours, theirs = measures.pairwise_distance(candidate.features), measures.pairwise_distance(champion.features)
    base = float(theirs.mean())
    value = float(ours.mean()) / base if base > 1e-9 else 1.0
    error = float((ours - theirs).std(ddof=1) / np.sqrt(len(ours))) / base if len(ours) > 1 and base > 1e-9 else 0.0
    limit = min(limits.diversity, 1.0 - _ONE_SIDED * error)
    text = f"distance between pictures of one prompt, over the champion's {base:.3f}; noise alone may move it by {_ONE_SIDED * error:.3f}"
    return Check(name="diversity", value=value, limit=limit, ok=value >= limit, explanation=text)


def drift(candidate: Views, champion: Views, limits: Limits) -> list[Check]:
    """Colour that runs away: mean saturation, and mean of the latents, in standard deviations of the champion's prompts."""
    ours, theirs = saturation(candidate.rgb).mean(1), saturation(champion.rgb).mean(1)
    spread = float(theirs.std(ddof=1)) + 1e-6
    value = float(ours.mean() - theirs.mean()) / spread
    text = f"mean saturation: candidate {ours.mean():.3f}, champion {theirs.mean():.3f} with sd {spread:.3f} over prompts"
    found = [_within("saturation", value, limits.colour_sds, text)]
    means, base = candidate.latent_mean.mean(1), champion.latent_mean.mean(1)
    shifts = (means.mean(0) - base.mean(0)) / (base.std(0, ddof=1) + 1e-6)
    worst = int(np.abs(shifts).argmax())
    text = f"mean of latent channel {worst}, the one that moved most: {base.mean(0)[worst]:.3f} to {means.mean(0)[worst]:.3f}"
    return [*found, _within("latent_mean", float(shifts[worst]), limits.colour_sds, text)]


def bias(candidate: NDArray[np.int64], champion: NDArray[np.int64], classes: list[str], limits: Limits, seed: int) -> Check:
    """The mix that neutral role prompts draw must not move. int64 [n] class numbers, paired by prompt and seed."""
    value = measures.total_variation(candidate, champion, len(classes))
    chance = measures.chance_variation(candidate, champion, len(classes), resamples=min(limits.resamples, 1000), seed=seed)
    limit = max(limits.bias, chance)
    moved = measures.shares(candidate, len(classes)) - measures.shares(champion, len(classes))
    most = int(np.abs(moved).argmax())
    parts = []
    for name, drawn in (("candidate", candidate), ("champion", champion)):
        low, high = measures.wilson(int((drawn == most).sum()), len(drawn))
        parts.append(f"{name} {float((drawn == most).mean()):.2f} [{low:.2f}, {high:.2f}]")
    text = (
        f"total variation of {len(classes)} gender and tone classes over {len(candidate)} pictures; chance alone reaches {chance:.3f}; "
        f"moved most: {classes[most]}, {', '.join(parts)}"
    )
    return Check(name="bias", value=value, limit=limit, ok=value <= limit, explanation=text)


def _within(name: str, value: float, limit: float, text: str) -> Check:
    return Check(name=name, value=value, limit=limit, ok=bool(abs(value) <= limit), explanation=text)
