"""Pixels to files."""

import io
from typing import Literal

from PIL import Image

from serving.job import Pixels

FileFormat = Literal["png", "jpeg", "webp"]


def picture_file(picture: Pixels | Image.Image, output_format: FileFormat, quality: int = 100) -> bytes:
    """`picture`, RGB, as a file; `quality` of JPEG and WebP, 0 to 100."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture, "RGB")
    out = io.BytesIO()
    if output_format == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, output_format.upper(), quality=quality)
    return out.getvalue()
