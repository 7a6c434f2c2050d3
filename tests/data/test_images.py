"""Every format, depth and mode becomes the same uint8 array; what cannot is named."""

import numpy as np
import pytest
from PIL import Image

from daad_jax.data.images import decode, fit
from daad_jax.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8), np.uint8)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(decode(path, 3), RGB)


def test_grey_to_colour_and_back(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 1)[..., 0], GREY)
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 3), np.stack([GREY] * 3, -1))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(decode(path, 1)[..., 0], GREY)


def test_alpha_is_laid_over_black(tmp_path):
    alpha = np.zeros((6, 8, 1), np.uint8)
    alpha[:3] = 255
    Image.fromarray(np.concatenate([RGB, alpha], -1)).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 3), RGB * (alpha > 0))


def test_palette(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 3), np.asarray(image.convert("RGB")))


def test_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise to be shown
    Image.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 3), np.rot90(RGB, -1))


def test_broken_images_are_named(tmp_path):
    Image.fromarray(RGB.repeat(40, 0).repeat(40, 1)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(UserError, match=f"{name}: unreadable image"):
            decode(tmp_path / name, 3)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("daad_jax.data.images.MAX_PIXELS", 40)
    Image.fromarray(RGB).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="8 x 6 pixels"):
        decode(tmp_path / "x.png", 3)


def test_fit():
    assert fit(RGB, 6, 8, "exact", "x") is RGB
    with pytest.raises(UserError, match=r"x: 6 x 8 pixels.*config.data.fit"):
        fit(RGB, 8, 8, "exact", "x")
    padded = fit(RGB, 8, 8, "pad", "x")
    np.testing.assert_array_equal(padded[1:7], RGB)
    np.testing.assert_array_equal(padded[0], RGB[0])
    assert fit(RGB, 3, 3, "pad", "x").shape == (3, 3, 3)
    constant = np.full((9, 5, 1), 77, np.uint8)
    np.testing.assert_array_equal(fit(constant, 4, 4, "resize", "x"), 77)
