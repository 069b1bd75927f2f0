"""Make the pictures of a page smaller: figures have few colours, and a palette takes a third of the bytes."""

from __future__ import annotations

import io
from typing import Any

_COLOURS = 256
_LEAST_SHARE = 0.9  # of the pixels that have one of these colours; photographs have less


def small_png(content: bytes) -> bytes:
    """Return a PNG with a palette of its 256 most frequent colours; other pixels get the nearest one.

    A picture with transparent parts, with many colours, or that would not get smaller, is returned as it is.
    """
    from PIL import Image

    picture = Image.open(io.BytesIO(content))
    if "A" in picture.getbands() and picture.getchannel("A").tobytes().strip(b"\xff"):
        return content
    plain = picture.convert("RGB")
    pixels = plain.width * plain.height
    counted: Any = plain.getcolors(pixels)  # pairs of a number and a colour
    frequent = sorted(counted, reverse=True)[:_COLOURS]
    if sum(number for number, _ in frequent) < _LEAST_SHARE * pixels:
        return content
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, colour in frequent for part in colour])
    small = io.BytesIO()
    plain.quantize(palette=palette, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return min(content, small.getvalue(), key=len)
