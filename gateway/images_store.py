"""Where pictures and their provenance are kept: any fsspec URL, laid out by the day in their UUIDv7.

    pictures/2026-11-23/IMAGE.png            a picture
    pictures/2026-11-23/IMAGE.generation     the id of its generation
    generations/2026-11-23/GENERATION.json   the provenance of a request
    units/SHA256-OF-UNIT/GENERATION          what there is to forget

All calls block: they run in threads.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import fsspec
import msgspec

from analytics.events import time_of
from gateway.tokens import Claims, Shown
from serving.variant import Variant


class PictureRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One picture of a generation. Where several arms share a grid also its own arm, what was served for it, the digest of that, and
    the probability that the arm had of this place."""

    image_id: UUID
    position: int
    seed: int
    arm: str = ""
    served: str = ""
    variant_digest: str = ""
    propensity: float | None = None


class GenerationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The provenance of one request: the arm assigned, the variant served, and what made each picture.

    Of a grid of several arms `arm` is empty, `served` and `variant_digest` are those of all pictures or else empty, and `variants`
    (by name) stands for `variant`. `facts`: attributes of all its events, such as the block of a switchback.
    """

    generation_id: UUID
    created_at: datetime
    route: str
    experiment: str
    arm: str
    served: str
    variant: Variant | None
    variant_digest: str
    unit: str
    anonymous: bool
    propensity: float | None
    prompt: str
    negative_prompt: str
    size: str
    status: str
    queue_ms: float
    service_ms: float
    context: dict[str, str]
    images: tuple[PictureRecord, ...]
    variants: dict[str, Variant] = {}
    facts: dict[str, str] = {}

    def claims(self) -> Claims:
        """The facts that feedback events copy."""
        shown = tuple(Shown(p.image_id, p.position, p.variant_digest or self.variant_digest, p.arm, p.propensity) for p in self.images)
        assigned = (self.experiment, self.arm, self.unit, self.propensity)
        return Claims(self.generation_id, self.created_at, self.route, *assigned, shown, self.facts)


class ImagesStore:
    """Writes, reads and forgets pictures and provenance. Raises OSError when the store is away or full."""

    def __init__(self, url: str) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._decoder = msgspec.json.Decoder(GenerationRecord)

    def put(self, record: GenerationRecord, pictures: Mapping[UUID, bytes]) -> None:
        """Keep a generation: pictures as PNG first, the record last."""
        for image_id, png in pictures.items():
            self._write(self._picture(image_id, "png"), png)
            self._write(self._picture(image_id, "generation"), str(record.generation_id).encode())
        self._write(f"{self._unit(record.unit)}/{record.generation_id}", b"")
        self._write(self._generation(record.generation_id), msgspec.json.encode(record))

    def picture(self, image_id: UUID) -> bytes | None:
        """The PNG, or None."""
        return self._read(self._picture(image_id, "png"))

    def generation(self, generation_id: UUID) -> GenerationRecord | None:
        """The provenance, or None."""
        data = self._read(self._generation(generation_id))
        return self._decoder.decode(data) if data is not None else None

    def generation_of(self, image_id: UUID) -> GenerationRecord | None:
        """The provenance of the request that made a picture, or None."""
        data = self._read(self._picture(image_id, "generation"))
        return self.generation(UUID(data.decode())) if data is not None else None

    def was_erased(self, generation_id: UUID) -> bool:
        """Was there such a generation, and was it forgotten with its unit?"""
        return bool(self._files.exists(self._tombstone(generation_id)))

    def erase(self, unit: str) -> tuple[int, int]:
        """Forget a unit. Returns how many generations and pictures were removed."""
        folder = self._unit(unit)
        if not self._files.exists(folder):
            return 0, 0
        generations = pictures = 0
        for path in self._files.ls(folder, detail=False):
            generation_id = UUID(str(path).rstrip("/").rpartition("/")[2])
            record = self.generation(generation_id)
            for picture in record.images if record else ():
                for suffix in ("png", "generation"):
                    self._remove(self._picture(picture.image_id, suffix))
                pictures += 1
            # An id that names nobody stays, so that late feedback on it is refused and not taken for another gateway's.
            self._write(self._tombstone(generation_id), b"")
            self._remove(self._generation(generation_id))
            generations += 1
        self._files.rm(folder, recursive=True)
        return generations, pictures

    def check(self) -> None:
        """Write and remove a small file. Raises OSError."""
        probe = f"{self._root}/.probe"
        self._write(probe, b"salon")
        self._remove(probe)

    def _picture(self, image_id: UUID, suffix: str) -> str:
        return f"{self._root}/pictures/{_day(image_id)}/{image_id}.{suffix}"

    def _generation(self, generation_id: UUID) -> str:
        return f"{self._root}/generations/{_day(generation_id)}/{generation_id}.json"

    def _tombstone(self, generation_id: UUID) -> str:
        return f"{self._root}/generations/{_day(generation_id)}/{generation_id}.erased"

    def _unit(self, unit: str) -> str:
        return f"{self._root}/units/{hashlib.sha256(unit.encode('utf-8', 'surrogatepass')).hexdigest()}"

    def _write(self, path: str, data: bytes) -> None:
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(path, data)

    def _read(self, path: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _remove(self, path: str) -> None:
        if self._files.exists(path):
            self._files.rm_file(path)


def _day(identity: UUID) -> str:
    at = time_of(identity)
    return at.strftime("%Y-%m-%d") if at else "undated"
