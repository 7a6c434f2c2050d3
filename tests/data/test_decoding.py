"""Every format, depth and mode becomes the same pixels; errors name the file that cannot be read."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from daad_jax.data import decoding
from daad_jax.data.images import to_pixels
from daad_jax.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8), np.uint8)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def decode(source, channels, name=""):
    return to_pixels(decoding.decode(source, name), channels)


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
        with pytest.raises(UserError, match=f"{name}: the image cannot be read"):
            decode(tmp_path / name, 3)


def test_a_name_does_not_choose_the_decoder(tmp_path):
    """PostScript would be run, by Ghostscript."""
    Image.fromarray(RGB).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png: the image cannot be read \(cannot identify"):
        decode(tmp_path / "x.png", 3)
    (tmp_path / "bytes.jpg").write_bytes((tmp_path / "x.png").read_bytes())
    with pytest.raises(UserError, match="cannot identify"):
        decode((tmp_path / "bytes.jpg").read_bytes(), 3)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("daad_jax.data.decoding.MAX_PIXELS", 40)
    Image.fromarray(RGB).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="the image has 8 x 6 pixels, more than the limit of 40"):
        decode(tmp_path / "x.png", 3)


def test_jpeg(tmp_path):
    smooth = np.tile(np.arange(0, 240, 15, dtype=np.uint8), (16, 1))
    Image.fromarray(np.stack([smooth] * 3, -1)).save(tmp_path / "x.JPG", quality=95)
    assert np.abs(decode(tmp_path / "x.JPG", 1)[..., 0].astype(int) - smooth).max() < 8


def test_bytes_are_decoded_as_files(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(RGB).save(path)
    np.testing.assert_array_equal(decode(path.read_bytes(), 3), decode(path, 3))
    with pytest.raises(UserError, match="train/00007: the image cannot be read"):
        decode(b"no", 3, "train/00007")


def test_luma(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", 1).ravel().tolist() == [76, 150]


def png16(samples, colour_type):
    """A PNG of 16 bits per sample, which Pillow writes only for grey. `[H, W, samples per pixel]`."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_sixteen_bits_in_colour_and_with_alpha():
    opaque = np.full((6, 8, 1), 255)
    grey, rgb = GREY[..., None].astype(int), RGB.astype(int)
    np.testing.assert_array_equal(decode(png16(rgb * 257, 2), 3), RGB)
    np.testing.assert_array_equal(decode(png16(np.concatenate([rgb, opaque], -1) * 257, 6), 3), RGB)
    np.testing.assert_array_equal(decode(png16(np.concatenate([grey, opaque], -1) * 257, 4), 1), grey)


def test_black_and_white_and_big_endian(tmp_path):
    black_and_white = np.where(GREY > 127, 255, 0).astype(np.uint8)
    Image.fromarray(black_and_white).convert("1").save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 1)[..., 0], black_and_white)
    Image.fromarray((GREY.astype(np.uint16) * 257).astype(">u2")).save(tmp_path / "x.tiff")
    np.testing.assert_array_equal(decode(tmp_path / "x.tiff", 1)[..., 0], GREY)


def test_float_images_are_named(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff: the image cannot be read.*8 or 16 bit"):
        decode(tmp_path / "x.tiff", 1)


def test_a_transparent_palette_entry_is_black(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "x.png", transparency=0)
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 3), [[[0, 0, 0], [0, 200, 0]]])
