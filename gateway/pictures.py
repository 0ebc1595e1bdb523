"""Pixels to files: PNG for keeping, PNG, JPEG or WebP for answers."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway.image_request import Format

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def encode_picture(rgb: NDArray[np.uint8], output_format: Format, compression: int | None = None) -> bytes:
    """`rgb` [height, width, 3] as a file. `compression` is the quality of JPEG and WebP, 0 to 100 (default 100)."""
    return _save(Image.fromarray(rgb, "RGB"), output_format, compression)


def convert_picture(png: bytes, output_format: Format) -> bytes:
    """A kept PNG in another format."""
    return png if output_format == "png" else _save(Image.open(io.BytesIO(png)).convert("RGB"), output_format, None)


def _save(image: Image.Image, output_format: Format, compression: int | None) -> bytes:
    out = io.BytesIO()
    if output_format == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, output_format.upper(), quality=100 if compression is None else compression)
    return out.getvalue()
