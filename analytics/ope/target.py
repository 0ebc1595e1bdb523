"""The policy asked about, laid over a log: which chance it gives to what a row was shown."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analytics.analyze.table import Codes, Floats
from analytics.nearest import nearest
from analytics.ope.logged import Chunk, Log, combined
from analytics.ope.policy_table import Policy


class Weighed(NamedTuple):
    """Per group of a chunk: its stratum, and the chance under the policy over the logged one; 0 for rows that were not shown."""

    stratum: Codes
    weight: Floats


class Target:
    """`actions`: the log's, then those that only the policy has; `probability` [strata, actions]."""

    def __init__(self, log: Log, policy: Policy) -> None:
        names = [key.name for key in log.keys]
        missing = [name for name in policy.columns if name not in names]
        if missing:
            raise ValueError(f"the policy depends on {missing[0]!r}, which the log has not; {nearest(missing[0], names)}")
        self.log, self.policy = log, policy
        place = {action: code for code, action in enumerate(log.actions)}
        self.actions = [*log.actions, *(action for action in policy.actions if action not in place)]
        place = {action: code for code, action in enumerate(self.actions)}
        self.probability = np.zeros((len(policy.strata), len(self.actions)))
        self.probability[:, [place[action] for action in policy.actions]] = policy.probability
        self._columns = [names.index(name) for name in policy.columns]
        self._sizes = [len(log.keys[column].values) for column in self._columns]
        # Strata whose values never turn up in the log have no number there.
        values = [{value: code for code, value in enumerate(log.keys[column].values)} for column in self._columns]
        met = [all(value in known for value, known in zip(stratum, values, strict=True)) for stratum in policy.strata]
        self.met = np.flatnonzero(met)
        codes = [np.array([known[policy.strata[stratum][i]] for stratum in self.met], dtype=np.int64) for i, known in enumerate(values)]
        numbers = combined(codes, self._sizes, len(self.met))
        order = np.argsort(numbers)
        self._numbers, self._strata = numbers[order], self.met[order]

    def strata(self, chunk: Chunk) -> Codes:
        """Of each group. Raises ValueError where the policy says nothing about one."""
        numbers = combined([chunk.keys[:, column] for column in self._columns], self._sizes, len(chunk.action))
        place = np.minimum(np.searchsorted(self._numbers, numbers), max(0, len(self._numbers) - 1))
        unknown = self._numbers[place] != numbers if len(self._numbers) else np.ones(len(numbers), dtype=bool)
        if unknown.any():
            row = int(np.argmax(unknown))
            raise ValueError(
                f"the log has {self.log.rows} with {self._told(chunk.keys[row])}, for which the policy has no probabilities; add them to it"
            )
        found: Codes = self._strata[place]
        return found

    def weighed(self, chunk: Chunk) -> Weighed:
        """Raises as `strata`."""
        stratum = self.strata(chunk)
        return Weighed(stratum, np.where(chunk.shown, self.probability[stratum, chunk.action] / chunk.propensity, 0.0))

    def _told(self, codes: Sequence[int]) -> str:
        keys = [self.log.keys[column] for column in self._columns]
        return ", ".join(f"{key.name} {key.values[codes[column]]!r}" for key, column in zip(keys, self._columns, strict=True))
