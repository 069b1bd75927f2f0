"""Image files: orientation, depth and modes, and what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from selfsim import load_images


class TestImageFiles:
    """What a file holds arrives as it looks, or its name is in the error."""

    def load(self, root, name, save):
        """The first value of an image that `save` writes, among others that are black."""
        for label in ("cat", "dog"):
            (root / label).mkdir(parents=True)
            for k in range(12):
                if label == "dog":
                    save(root / label / name.replace("*", str(k)))
                else:
                    Image.new("L", (8, 8)).save(root / label / f"{k}.png")
        images = load_images("folder", data_dir=root, pixels=8)
        return images.train.images[images.train.labels == 1][0]

    def test_16_bits_are_scaled(self, tmp_path):
        grey = Image.fromarray(np.full((8, 8), 30000, np.uint16))
        for suffix in ("png", "tif", "pgm"):
            assert self.load(tmp_path / suffix, f"*.{suffix}", grey.save).unique().tolist() == [117]
        for number, (value, expected) in enumerate(((0, 0), (65535, 255), (128, 0), (129, 1))):
            image = Image.fromarray(np.full((8, 8), value, np.uint16))
            assert self.load(tmp_path / str(number), "*.png", image.save).unique().tolist() == [expected]

    def test_other_ranges_are_errors_with_file_and_mode(self, tmp_path):
        def of(dtype, value=30000):
            return Image.fromarray(np.full((8, 8), value, dtype))

        for number, (mode, save) in enumerate(
            (
                ("F", of(np.float32, 0.5).save),
                ("I", of(np.int32).save),
                ("I;16", lambda path: of(np.uint16).save(path, tiffinfo={262: 0})),  # 0 is white
            )
        ):
            with pytest.raises(ValueError, match=rf"data_dir: cannot read the image '.*\d.tif' .mode '{mode}' has no"):
                self.load(tmp_path / str(number), "*.tif", save)

    def test_exif_orientation_is_applied(self, tmp_path):
        upright = Image.fromarray(np.array([[250, 250], [0, 0]], np.uint8).repeat(4, 0).repeat(4, 1)).convert("RGB")
        turned = upright.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees to see it upright
        expected = self.load(tmp_path / "upright", "*.jpg", upright.save)
        for suffix in ("jpg", "png", "tif"):
            seen = self.load(tmp_path / suffix, f"*.{suffix}", lambda path: turned.save(path, exif=exif))
            assert (seen.int() - expected.int()).abs().max() < 5, suffix
        assert expected[0, 0].min() > 200 and expected[0, -1].max() < 50

    def test_gif(self, tmp_path):
        image = Image.new("RGB", (8, 8), (200, 100, 0))
        assert self.load(tmp_path / "one", "*.GIF", image.save)[:, 0, 0].tolist() == [200, 100, 0]
        other = Image.new("RGB", (8, 8))
        for suffix in ("gif", "webp", "tif", "png"):
            with pytest.raises(ValueError, match=rf"cannot read the image '.*\d.{suffix}' .2 frames, need one"):
                self.load(
                    tmp_path / suffix,
                    f"*.{suffix}",
                    lambda path: image.save(path, save_all=True, append_images=[other]),
                )

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_too_many_pixels(self, tmp_path, monkeypatch):
        image = Image.new("L", (40, 50))
        for most, message in ((1900, "40 x 50 pixels, more than"), (900, "decompression bomb")):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
            with pytest.raises(ValueError, match=rf"the image '.*\d.png' .*{message}"):
                self.load(tmp_path / str(most), "*.png", image.save)

    def test_images_in_other_formats_are_named_in_a_warning(self, tmp_path):
        def save(path):
            Image.new("L", (8, 8)).save(path)
            path.with_suffix(".svg").write_text("<svg/>")
            path.with_suffix(".txt").write_text("a note")

        with pytest.warns(UserWarning, match=r"12 files of '.*dog' are not read, such as '.*0.svg'"):
            self.load(tmp_path, "*.png", save)
