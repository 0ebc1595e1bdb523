"""The claims of the latest generations, in memory: feedback right after an image needs neither token nor store."""

from collections import OrderedDict
from uuid import UUID

from gateway.tokens import Claims

GENERATIONS = 20_000


class Recent:
    """A bounded map from generation and image ids to claims; the oldest go first."""

    def __init__(self, bound: int = GENERATIONS) -> None:
        self._bound = bound
        self._claims: OrderedDict[UUID, Claims] = OrderedDict()
        self._images: dict[UUID, UUID] = {}

    def put(self, claims: Claims) -> None:
        """Remember a generation."""
        self._claims[claims.generation_id] = claims
        self._images.update((shown.image_id, claims.generation_id) for shown in claims.images)
        while len(self._claims) > self._bound:
            self._drop(next(iter(self._claims)))

    def generation(self, generation_id: UUID) -> Claims | None:
        """By generation."""
        return self._claims.get(generation_id)

    def of_image(self, image_id: UUID) -> Claims | None:
        """By picture."""
        generation_id = self._images.get(image_id)
        return self._claims.get(generation_id) if generation_id else None

    def erase(self, unit: str) -> None:
        """Forget a unit."""
        for generation_id in [identity for identity, claims in self._claims.items() if claims.unit == unit]:
            self._drop(generation_id)

    def units(self) -> set[str]:
        """Whose claims are remembered."""
        return {claims.unit for claims in self._claims.values()}

    def _drop(self, generation_id: UUID) -> None:
        for shown in self._claims.pop(generation_id).images:
            self._images.pop(shown.image_id, None)
