"""Pixels to files: PNG for keeping, PNG, JPEG or WebP for answers."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway.image_request import Format
from serving.job import Picture
from serving.picture_file import picture_file

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def png_of(picture: Picture) -> bytes:
    """The picture as PNG: as the engine sent it, or made here."""
    return picture.encoded or encode_png(picture.rgb)


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """`rgb` [height, width, 3] as a file."""
    return picture_file(rgb, "png")


def convert_picture(png: bytes, output_format: Format, compression: int | None = None) -> bytes:
    """A PNG in another format. `compression` is the quality of JPEG and WebP, 0 to 100 (default 100)."""
    if output_format == "png":
        return png
    return picture_file(Image.open(io.BytesIO(png)).convert("RGB"), output_format, 100 if compression is None else compression)
