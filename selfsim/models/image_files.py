"""Pixels of image files: upright, in 8 bits per colour, at one size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


def read_images(paths: NDArray[np.str_], pixels: int) -> NDArray[np.uint8]:
    """Return images ``(N, pixels, pixels, 3)``: the short side resized, the middle cropped.

    Raises
    ------
    ValueError
        An image cannot be read, has no known range of brightness, several frames, or too many pixels; names the file.
    """
    from PIL import Image, ImageOps

    def read(path: str) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                _check_image(image, Image.MAX_IMAGE_PIXELS)
                upright: Image.Image = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16 bits: 65535 becomes 255
                    upright = Image.fromarray(np.rint(np.asarray(upright) / 257).astype(np.uint8))
                return np.asarray(ImageOps.fit(upright.convert("RGB"), (pixels, pixels), Image.Resampling.BILINEAR))
        # For broken files, Pillow's decoders raise errors of many types.
        except Exception as error:
            raise ValueError(
                f"data_dir: cannot read the image {path!r} ({error}); restore, convert or delete this file"
            ) from error

    with ThreadPoolExecutor() as pool:  # decoding releases Python's lock
        return np.stack(list(pool.map(read, paths.tolist(), chunksize=64)))


def _check_image(image: Image, most_pixels: int | None) -> None:
    """Raise if an image has no known range of brightness, several frames, or more pixels than Pillow's limit."""
    if not _has_known_range(image):
        raise ValueError(f"mode {image.mode!r} has no known range of brightness, need 8 or 16 bits")
    frames = getattr(image, "n_frames", 1)
    # Cameras write MPO, a kind of JPEG, with a preview or a second view as its second frame.
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"{frames} frames, need one")
    if most_pixels is not None and image.width * image.height > most_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS = {most_pixels}")


def _has_known_range(image: Image) -> bool:
    """Return whether 0 is black and the largest value of the mode white, as in 8 bits and in unsigned 16 bits."""
    if image.mode in ("F", "I"):
        return image.mode == "I" and image.format in ("PNG", "PPM")  # there "I" is 16 bits
    tags = getattr(image, "tag_v2", {})  # of TIFF: 258 is the number of bits, 262 is 0 where 0 is white
    return not image.mode.startswith("I") or (tags.get(258, (16,)) == (16,) and tags.get(262, 1) == 1)
