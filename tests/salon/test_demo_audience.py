"""The simulated audience: stated tastes, position bias, accidents, and people who stay themselves."""

import numpy as np

from salon.demo.audience import EXAMINATION, Person, Taste, features


def plain(red: int, green: int, blue: int) -> np.ndarray:
    rgb = np.full((64, 64, 3), 255, np.uint8)
    rgb[12:52, 12:52] = (red, green, blue)
    return rgb


def test_features_by_hand() -> None:
    """A pure red square of 40 x 40: saturation 1, warmth 1, ink 1600 / 4096, standardised by the stated centre and spread."""
    expect = (np.array([1.0, 1.0, 1600 / 4096]) - [0.39, 0.23, 0.53]) / [0.23, 0.34, 0.155]
    assert np.allclose(features(plain(255, 0, 0)), expect)


def test_warm_and_saturated_is_better_and_blank_is_worst() -> None:
    taste = Taste()
    warm, cold, grey, blank = (taste.utility(plain(*c)) for c in ((255, 60, 0), (0, 60, 255), (120, 120, 120), (255, 255, 255)))
    assert warm > cold > grey > blank


def test_people_look_less_at_later_places_and_like_what_they_see() -> None:
    people = [Person(f"p{i}", Taste(), 7) for i in range(900)]
    seen, liked = np.zeros(4), np.zeros(4)
    for person in people:
        for spot, reaction in enumerate(person.react([(str(k), k, plain(255, 60, 0)) for k in range(4)])):
            seen[spot] += reaction.seen
            liked[spot] += reaction.liked
            assert reaction.seen or not reaction.liked
    assert np.allclose(seen / 900, EXAMINATION, atol=4 * 0.5 / np.sqrt(900))
    assert (liked / seen > 0.8).all()


def test_the_same_seed_makes_the_same_people_and_another_seed_others() -> None:
    def choices(seed: int) -> list[str]:
        return [Person(f"p{i}", Taste(), seed).prompt for i in range(50)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)
