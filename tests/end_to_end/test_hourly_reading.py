"""An experiment fed over HTTP and read again and again: every figure against what this test knows that it sent.

The recount uses numpy, scipy and statsmodels on rows that the test kept, and nothing of Salon's.
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportions_ztest

from analytics.events import new_id
from salon.client import Client, Generation
from salon.demo.server import SALON, command, free_port

SETTINGS = """\
[gateway]
listen = "127.0.0.1:{port}"
suspicious_events_per_minute = 0
[variants.base]
model = "salon/emoji-64"
steps = 1
[variants.vivid]
extends = "base"
guidance = 3.0
[routes.hero]
serve = "base"
[metrics.spend]
kind = "mean"
event = "spend"
covariate_days = 14
[metrics.like_rate]
kind = "proportion"
event = "like"
[metrics.likes_per_view]
kind = "ratio"
event = "like"
denominator = "view"
[experiments.colours]
route = "hero"
arms = {{ base = 0.6, vivid = 0.4 }}
control = "base"
primary = "spend"
secondary = ["like_rate", "likes_per_view"]
"""


@dataclass
class Person:
    """All that the test knows of a unit: its arms in order, the weight period of its first exposure, and what it did."""

    arms: list[str] = field(default_factory=list)
    period: int = 0
    old_token: str = ""
    token: str = ""
    spent_before: float = 0.0
    spent: float = 0.0
    likes: int = 0
    views: int = 0


class Audience:
    """People who ask for pictures and say what they did; the truth is kept here."""

    def __init__(self, client: Client) -> None:
        self.client, self.chance, self.people = client, np.random.default_rng(11), dict[str, Person]()
        self.sent: list[dict[str, Any]] = []

    def come_before(self, names: list[str]) -> None:
        """Before the experiment starts: some ask for a picture, and spend."""
        for name in names:
            person = self.people.setdefault(name, Person())
            person.old_token = self._ask(name).token
            self.spend(name, before=True)

    def come(self, names: list[str], period: int) -> None:
        """Into the experiment, or back into it."""
        for name in names:
            shown = self._ask(name)
            assert shown.arm in ("base", "vivid")
            person = self.people.setdefault(name, Person())
            if not person.arms:
                person.period, person.token = period, shown.token
            if shown.arm not in person.arms:
                person.arms.append(shown.arm)

    def act(self, names: list[str]) -> None:
        """Views, likes and spending in one batch, sent twice: the second time nothing may count."""
        for name in names:
            person = self.people[name]
            views = int(self.chance.integers(1, 5))
            likes = int(self.chance.binomial(views, 0.35 if person.arms[0] == "base" else 0.45))
            person.views, person.likes = person.views + views, person.likes + likes
            self._note(person.token, "view", views)
            self._note(person.token, "like", likes)
            self.spend(name)
        self.flush()

    def spend(self, name: str, *, before: bool = False, at: datetime | None = None) -> None:
        """A sum spent, from the old picture or from the experiment's, perhaps a while ago (`at`)."""
        person = self.people[name]
        value = round(float(self.chance.gamma(2.0, 3.0)) + (0.0 if before else 0.8 * person.spent_before), 2)
        if before:
            person.spent_before += value
        else:
            person.spent += value
        self._note(person.old_token if before else person.token, "spend", 1, value=value, **({"occurred_at": at.isoformat()} if at else {}))

    def flush(self) -> None:
        """Send what was noted, and all of it again under the same ids."""
        for status in ("accepted", "duplicate"):
            for start in range(0, len(self.sent), 500):
                assert {result["status"] for result in self.client.send(self.sent[start : start + 500])} == {status}
        self.sent.clear()

    def counted(self, period: int | None = None) -> dict[str, list[Person]]:
        """By arm, who saw one arm only."""
        found: dict[str, list[Person]] = {"base": [], "vivid": []}
        for person in self.people.values():
            if len(person.arms) == 1 and period in (None, person.period):
                found[person.arms[0]].append(person)
        return found

    def _ask(self, name: str) -> Generation:
        return self.client.generate("a red heart", route="hero", user=name)

    def _note(self, token: str, kind: str, times: int, **more: Any) -> None:
        self.sent += [{"feedback_token": token, "kind": kind, "event_id": str(new_id()), **more} for _ in range(times)]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    port, config = free_port(), str(tmp_path / "salon.toml")
    Path(config).write_text(SETTINGS.format(port=port))
    key = command("keys", "create", "test", "--scopes", "generate,feedback,analyst,admin", "--config", config)["key"]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen([*SALON, "serve", "--config", config], stdout=log, stderr=log)
    try:
        client, until = Client(f"http://127.0.0.1:{port}", key), time.monotonic() + 60
        while not _is_ready(client):
            assert time.monotonic() < until and server.poll() is None, (tmp_path / "serve.log").read_text()[-2000:]
            time.sleep(0.05)
        yield client
    finally:
        server.terminate()
        server.wait(30)


def _is_ready(client: Client) -> bool:
    try:
        return bool(client.ready()["ready"])
    except OSError:
        return False


def test_every_reading_of_a_living_experiment_is_what_was_sent(client: Client) -> None:
    crowd = Audience(client)
    names = [f"person-{number}" for number in range(90)]
    crowd.come_before(names[:30])
    crowd.flush()
    client.change("colours", "start", why="to see")

    crowd.come(names[:45], period=0)
    after_exposures = datetime.now(UTC)
    crowd.act(names[:40])
    first = client.report("colours")
    first_read = datetime.now(UTC)
    check_arms(first, crowd)
    check_adjusted(first, crowd)
    check_plain(first, crowd)

    # Late: they happened before their owner's exposure, and before the first reading.
    for name in names[:6]:
        crowd.spend(name, before=True, at=datetime(2026, 1, 1, tzinfo=UTC))
    for name in names[:6]:
        crowd.spend(name, at=after_exposures)
    crowd.flush()
    second = client.report("colours")
    check_arms(second, crowd)
    check_adjusted(second, crowd)

    # A ramp: who comes back may meet the other arm, and is then in neither.
    client.reweigh("colours", {"base": 0.3, "vivid": 0.7}, why="ramp")
    crowd.come(names[45:], period=1)
    crowd.come(names[:12], period=1)
    crowd.act(names[45:])
    ramped = client.report("colours")
    check_arms(ramped, crowd)
    check_ramp(ramped, crowd)

    again = client.report("colours", as_of=first_read.isoformat())
    assert figures(again) == pytest.approx(figures(first), rel=1e-9)

    for name in (names[3], names[70]):
        assert client.forget(name)["erased"]["event_rows"] > 0
        del crowd.people[name]
    forgotten = client.report("colours")
    check_arms(forgotten, crowd)
    check_ramp(forgotten, crowd)
    html = client.page("colours")
    assert "colours" in html and names[3] not in html


def check_arms(report: dict[str, Any], crowd: Audience) -> None:
    """Units, means and deviations, and who saw several arms."""
    people = crowd.counted()
    assert {arm["arm"]: arm["units"] for arm in report["arms"]} == {arm: len(found) for arm, found in people.items()}
    assert report["checks"]["exposure"]["multiple_exposure"] == sum(len(p.arms) > 1 for p in crowd.people.values())
    said = {(m["metric"], arm["arm"]): arm for m in report["metrics"] for arm in m["arms"]}
    for arm, found in people.items():
        spent, likes, views = (np.array([getattr(p, name) for p in found], float) for name in ("spent", "likes", "views"))
        assert said["spend", arm]["mean"] == pytest.approx(spent.mean(), rel=1e-9)
        assert said["spend", arm]["sd"] == pytest.approx(spent.std(ddof=1), rel=1e-9)
        assert said["like_rate", arm]["mean"] == pytest.approx((likes > 0).mean(), rel=1e-12)
        assert said["likes_per_view", arm]["mean"] == pytest.approx(likes.sum() / views.sum(), rel=1e-9)


def check_adjusted(report: dict[str, Any], crowd: Audience) -> None:
    """CUPED with what was spent before the exposure: one coefficient from both arms as one sample (Deng et al. 2013)."""
    rows = [np.array([[p.spent, p.spent_before] for p in found]).T for found in crowd.counted().values()]
    theta = np.cov(np.hstack(rows))[0, 1] / np.cov(np.hstack(rows))[1, 1]
    adjusted = [y - theta * x for y, x in rows]
    welch = stats.ttest_ind(adjusted[1], adjusted[0], equal_var=False)
    (found,) = comparisons(report, "spend")
    assert found["difference"]["value"] == pytest.approx(adjusted[1].mean() - adjusted[0].mean(), rel=1e-9)
    assert found["p_value"] == pytest.approx(welch.pvalue, rel=1e-9)
    assert found["df"] == pytest.approx(welch.df, rel=1e-9)
    assert found["difference"]["ci"] == pytest.approx(list(welch.confidence_interval(0.95)), rel=1e-8)
    raw = sum(np.var(y, ddof=1) / len(y) for y, _ in rows)
    assert found["variance_reduction"] == pytest.approx(1 - sum(np.var(y, ddof=1) / len(y) for y in adjusted) / raw, rel=1e-9)
    assert found["variance_reduction"] > 0.05
    lift = found["difference"]["value"] / rows[0][0].mean()
    assert found["relative"]["value"] == pytest.approx(lift, rel=1e-9)


def check_plain(report: dict[str, Any], crowd: Audience) -> None:
    """Pooled z for the share; a ratio is least squares of clicks on views in each arm, with errors clustered by unit."""
    people = crowd.counted()
    liked = {arm: [p.likes > 0 for p in found] for arm, found in people.items()}
    z, p = proportions_ztest([sum(liked["vivid"]), sum(liked["base"])], [len(liked["vivid"]), len(liked["base"])])
    (share,) = comparisons(report, "like_rate")
    everybody = np.array(liked["base"] + liked["vivid"], float)
    # Salon takes exact tests where one of the four cells is expected below 5.
    assert min(map(len, liked.values())) * min(everybody.mean(), 1 - everybody.mean()) >= 5
    assert share["p_value"] == pytest.approx(p, rel=1e-9)
    assert np.sign(share["difference"]["value"]) == np.sign(z)
    variance = {}
    for arm, found in people.items():
        likes, views = (np.array([getattr(one, name) for one in found], float) for name in ("likes", "views"))
        linear = (likes - likes.sum() / views.sum() * views) / views.mean()
        variance[arm] = linear.var(ddof=1) / len(found)
    (ratio,) = comparisons(report, "likes_per_view")
    assert ratio["difference"]["se"] == pytest.approx(sum(variance.values()) ** 0.5, rel=1e-9)


def check_ramp(report: dict[str, Any], crowd: Audience) -> None:
    """After weights changed: differences within periods, weighed by the units of both arms."""
    periods = [crowd.counted(period) for period in (0, 1)]
    sizes = [sum(map(len, one.values())) for one in periods]
    apart = [np.mean([p.likes > 0 for p in one["vivid"]]) - np.mean([p.likes > 0 for p in one["base"]]) for one in periods]
    (found,) = comparisons(report, "like_rate")
    assert found["difference"]["value"] == pytest.approx(np.average(apart, weights=sizes), rel=1e-9)
    low, high = found["difference"]["ci"]
    assert low < found["difference"]["value"] < high
    assert report["checks"]["srm"]["units"] == {
        arm: sum(p.arms[0] == arm for p in crowd.people.values() if p.arms) for arm in ("base", "vivid")
    }


def comparisons(report: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    return next(m["comparisons"] for m in report["metrics"] if m["metric"] == metric)


def figures(report: dict[str, Any]) -> list[float]:
    """Every figure of the metrics, in order."""
    return [
        value
        for metric in report["metrics"]
        for one in (*metric["arms"], *metric["comparisons"])
        for value in (one.get("n", 0), one.get("mean", 0), one.get("sd", 0), one.get("p_value", 0), one.get("df") or 0)
    ]
