"""Pixels to files: PNG for keeping, PNG, JPEG or WebP for answers."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway.image_request import Format
from serving.job import Picture

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def png_of(picture: Picture) -> bytes:
    """The picture as PNG: as the engine sent it, or made here."""
    return picture.encoded or encode_png(picture.rgb)


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """`rgb` [height, width, 3] as a file."""
    return _save(Image.fromarray(rgb, "RGB"), "png", None)


def convert_picture(png: bytes, output_format: Format, compression: int | None = None) -> bytes:
    """A PNG in another format. `compression` is the quality of JPEG and WebP, 0 to 100 (default 100)."""
    return png if output_format == "png" else _save(Image.open(io.BytesIO(png)).convert("RGB"), output_format, compression)


def _save(image: Image.Image, output_format: Format, compression: int | None) -> bytes:
    out = io.BytesIO()
    if output_format == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, output_format.upper(), quality=100 if compression is None else compression)
    return out.getvalue()
