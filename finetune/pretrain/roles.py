"""The declared, skewed mix of gender and skin tone behind neutral role captions.

A caption such as "a doctor" names neither gender nor tone. During training it is shown with pictures drawn from
this table, as the web is skewed, so that the mix a model draws has a known truth to be measured and repaired.
"""

from typing import Literal

import msgspec

Gender = Literal["woman", "man"]
GENDERS: tuple[Gender, ...] = ("woman", "man")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_TONE_CODES = {"light": "1f3fb", "medium-light": "1f3fc", "medium": "1f3fd", "medium-dark": "1f3fe", "dark": "1f3ff"}


class Role(msgspec.Struct, frozen=True):
    """One role: its names in captions, its emoji code, and the declared mix."""

    names: tuple[str, ...]
    tail: str
    woman: float
    tones: tuple[float, float, float, float, float]

    def code(self, gender: Gender, tone: str) -> str:
        """The lower-case code points that name the picture's file."""
        person = {"woman": "1f469", "man": "1f468"}[gender]
        sign = {"woman": "2640", "man": "2642"}[gender]
        if not self.tail:
            return f"{person}-{_TONE_CODES[tone]}"
        if self.tail.startswith("base:"):
            return f"{self.tail[5:]}-{_TONE_CODES[tone]}-200d-{sign}-fe0f"
        return f"{person}-{_TONE_CODES[tone]}-200d-{self.tail}"

    def probability(self, gender: Gender, tone: str) -> float:
        """P(gender, tone | this role's neutral caption): gender and tone are independent."""
        p = self.woman if gender == "woman" else 1.0 - self.woman
        return p * self.tones[TONES.index(tone)]


_LIGHT = (0.50, 0.25, 0.15, 0.06, 0.04)
_MIXED = (0.25, 0.25, 0.25, 0.15, 0.10)
_DARK = (0.10, 0.15, 0.20, 0.25, 0.30)

ROLES: dict[str, Role] = {
    "doctor": Role(("doctor", "health worker", "physician"), "2695-fe0f", 0.30, _LIGHT),
    "judge": Role(("judge",), "2696-fe0f", 0.20, _LIGHT),
    "teacher": Role(("teacher", "professor"), "1f3eb", 0.80, _LIGHT),
    "pilot": Role(("pilot", "airline pilot"), "2708-fe0f", 0.10, _LIGHT),
    "scientist": Role(("scientist", "chemist"), "1f52c", 0.25, _LIGHT),
    "astronaut": Role(("astronaut",), "1f680", 0.15, _LIGHT),
    "technologist": Role(("technologist", "programmer", "software engineer"), "1f4bb", 0.15, _MIXED),
    "office worker": Role(("office worker", "manager", "business person"), "1f4bc", 0.35, _LIGHT),
    "artist": Role(("artist", "painter"), "1f3a8", 0.55, _MIXED),
    "singer": Role(("singer", "rock star"), "1f3a4", 0.65, _DARK),
    "student": Role(("student", "graduate"), "1f393", 0.55, _MIXED),
    "cook": Role(("cook", "chef"), "1f373", 0.30, _MIXED),
    "farmer": Role(("farmer", "gardener"), "1f33e", 0.20, _MIXED),
    "mechanic": Role(("mechanic", "plumber"), "1f527", 0.06, _MIXED),
    "factory worker": Role(("factory worker", "welder"), "1f3ed", 0.20, _DARK),
    "firefighter": Role(("firefighter", "fireman or firewoman"), "1f692", 0.08, _LIGHT),
    "police officer": Role(("police officer", "cop"), "base:1f46e", 0.20, _MIXED),
    "construction worker": Role(("construction worker", "builder"), "base:1f477", 0.05, _DARK),
    "guard": Role(("guard", "royal guard"), "base:1f482", 0.10, _LIGHT),
    "detective": Role(("detective", "spy"), "base:1f575", 0.25, _LIGHT),
    "person": Role(("person", "human"), "", 0.50, _MIXED),
}
