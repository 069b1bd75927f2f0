"""Make the pictures of a page smaller: figures have few colours, and a palette takes a third of the bytes."""

from __future__ import annotations

import io

import numpy as np

_COLOURS = 256
_LEAST_SHARE = 0.9  # of the pixels that have one of these colours; photographs have less


def small_png(content: bytes) -> bytes:
    """Return a PNG with a palette of its 256 most frequent colours; other pixels get the nearest one.

    A picture with transparent parts, with many colours, or that would not get smaller, is returned as it is.
    """
    from PIL import Image

    picture = Image.open(io.BytesIO(content))
    pixels = np.asarray(picture.convert("RGBA"))
    if (pixels[..., 3] < 255).any():
        return content
    packed = pixels[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    codes, place, number = np.unique(packed, return_inverse=True, return_counts=True)
    kept = np.argsort(-number, kind="stable")[:_COLOURS]
    if number[kept].sum() < _LEAST_SHARE * packed.size:
        return content
    colours = codes[:, None] >> np.array([16, 8, 0]) & 255
    # Not Image.quantize, which finds the nearest colour in steps of four and turns white into grey.
    nearest = np.array([((colours[kept] - colour) ** 2).sum(1).argmin() for colour in colours])
    small = Image.fromarray(nearest[place].reshape(packed.shape).astype(np.uint8))
    small.putpalette(colours[kept].astype(np.uint8).tobytes())
    written = io.BytesIO()
    small.save(written, format="png", optimize=True)
    return min(content, written.getvalue(), key=len)
