"""The mixture sequential probability ratio test, to compare with: what others offer where we use confidence sequences.

Johari, Koomen, Pekelis & Walsh (2022), "Always valid inference: continuous monitoring of A/B tests": normal mixture of a fixed variance.
"""

import math

from analytics.inference.confidence_sequence import LARGEST_E


def e_value(difference: float, variance: float, mixing_variance: float) -> float:
    """Likelihood ratio of the mixture against "no difference"; `variance` > 0 of the difference as of now, `mixing_variance` > 0
    of the effects expected, fixed beforehand. At most `LARGEST_E`."""
    total = variance + mixing_variance
    log = (math.log(variance) - math.log(total)) / 2 + mixing_variance / total * difference * difference / (2 * variance)
    return math.exp(log) if log < math.log(LARGEST_E) else LARGEST_E


def half_width(variance: float, alpha: float, mixing_variance: float) -> float:
    """Half the interval: it excludes 0 exactly when `e_value` exceeds 1/alpha."""
    total = variance + mixing_variance
    return math.sqrt(variance * (total / mixing_variance) * (math.log(total) - math.log(variance) - 2 * math.log(alpha)))
