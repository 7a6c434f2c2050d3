"""Every format, depth and mode becomes the same pixels; errors name the file that cannot be read."""

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from daad_jax.data import decoding
from daad_jax.data.containers import count_pages
from daad_jax.data.deep_pixels import find_pixel_type
from daad_jax.data.headers import has_image_signature
from daad_jax.data.images import to_pixels
from daad_jax.data.inputs import open_image
from daad_jax.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8), np.uint8)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def write(path, pixels):
    """Writes an array of more than 8 bits in the format of the suffix."""
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels)
    elif path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix in (".jp2", ".j2k"):
        path.write_bytes(
            imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat=path.suffix[1:])
        )
    elif path.suffix == ".pgm":
        size = f"P5\n# a comment\n{pixels.shape[1]} {pixels.shape[0]}\n65535\n".encode()
        path.write_bytes(size + pixels.astype(">u2").tobytes())
    else:
        path.write_bytes(imagecodecs.png_encode(pixels))
    return path


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


@pytest.mark.parametrize("suffix", ["png", "tiff", "npy", "jp2", "pgm"])
def test_an_image_above_the_limit_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", np.zeros((6, 8), np.uint16))
    assert decoding.picture_size(decoding.decode(path, max_pixels=48)) == (6, 8)
    with pytest.raises(
        UserError, match=r"x\..*: the image has 8 x 6 pixels, more than the limit of 47; .*max_pix"
    ):
        decoding.decode(path, max_pixels=47)


def test_a_header_that_lies_allocates_nothing(tmp_path):
    """A file of some hundred bytes that claims a very large image, or very large tiles."""
    header = {"descr": "<u2", "fortran_order": False, "shape": (2**20, 2**20)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((16, 16), np.uint16), tile=(16, 16))
    content = (tmp_path / "x.tif").read_bytes()
    place = content.index(struct.pack("<H", 322))  # the tag of the tiles' width
    content = content[:place] + struct.pack("<HHII", 322, 4, 1, 2**30) + content[place + 12 :]
    (tmp_path / "x.tif").write_bytes(content)
    for name in ("x.npy", "x.tif"):
        with pytest.raises(UserError, match=f"{name}: the image has .* more than the limit of 134217728"):
            decoding.decode(tmp_path / name)


def test_197_megapixels_are_read_if_the_configuration_allows_it():
    """Pillow's own limit is 179 million; it is a global value, which must stay as it is."""
    file = io.BytesIO()
    Image.new("1", (30000, 6567)).save(file, "PNG")
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match="30000 x 6567 pixels, more than the limit of 134217728"):
        decoding.decode(file.getvalue())
    picture = decoding.decode(file.getvalue(), max_pixels=250_000_000)
    assert (picture.size, Image.MAX_IMAGE_PIXELS) == ((30000, 6567), before)


def test_no_kind_meets_the_limit_of_pillow(monkeypatch):
    """Which warns above one limit and refuses above twice as much, also in the plug-ins for some formats."""
    everything = DEEP_KINDS | KINDS_OF_8_BITS
    black_and_white = tiff(GREY > 127, photometric="miniswhite")
    expected = {kind: to_pixels(decoding.decode(content), 3) for kind, (content, *_) in everything.items()}
    shown = to_pixels(decoding.decode(black_and_white), 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    for kind, (content, *_) in everything.items():
        if kind == "WebP":  # the format allows 268 million pixels, and Pillow reads 179 million
            with pytest.raises(UserError, match="WEBP files of so many pixels are not read; save it as PNG"):
                decoding.decode(content)
        else:
            np.testing.assert_array_equal(to_pixels(decoding.decode(content), 3), expected[kind])
    np.testing.assert_array_equal(to_pixels(decoding.decode(black_and_white), 1), shown)


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


def test_a_transparent_palette_entry_is_black(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "x.png", transparency=0)
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 3), [[[0, 0, 0], [0, 200, 0]]])


DEEP_GREY = RNG.integers(0, 4096, (6, 8), np.uint16)
DEEP_RGB = RNG.integers(0, 4096, (6, 8, 3), np.uint16)
FLOATS = RNG.normal(25, 5, (6, 8)).astype(np.float32)
PLANES = np.ascontiguousarray(np.moveaxis(DEEP_RGB, -1, 0))


def tiff(pixels, **how):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **how)
    return file.getvalue()


def npy(pixels):
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def jp2(pixels, codec="jp2", bits=12):
    return imagecodecs.jpeg2k_encode(pixels, level=0, bitspersample=bits, codecformat=codec, reversible=True)


def netpbm(pixels, magic, largest):
    header = f"{magic}\n# a camera\n{pixels.shape[1]} {pixels.shape[0]}\n{largest}\n".encode()
    if magic in ("P2", "P3"):
        return header + " ".join(map(str, pixels.ravel())).encode()
    return header + pixels.astype(">u2" if largest > 255 else np.uint8).tobytes()


def lossless_avif(pixels, bits):
    return imagecodecs.avif_encode(pixels, level=100, bitspersample=bits, pixelformat="444")


# Every kind of file with more than 8 bits in the table of docs/data.md: its bytes, and the values it holds.
DEEP_KINDS = {
    "TIFF, 16 bit": (tiff(DEEP_GREY), DEEP_GREY),
    "TIFF, 12 bit packed": (tiff(DEEP_GREY, bitspersample=12), DEEP_GREY),
    "TIFF, big endian": (tiff(DEEP_GREY.astype(">u2"), byteorder=">"), DEEP_GREY),
    "TIFF, BigTIFF": (tiff(DEEP_GREY, bigtiff=True), DEEP_GREY),
    "TIFF, LZW with predictor": (tiff(DEEP_GREY, compression="lzw", predictor=True), DEEP_GREY),
    "TIFF, Deflate with predictor": (tiff(DEEP_RGB, compression="zlib", predictor=True), DEEP_RGB),
    "TIFF, tiled": (tiff(DEEP_RGB, tile=(16, 16)), DEEP_RGB),
    "TIFF, 48 bit colour": (tiff(DEEP_RGB, photometric="rgb"), DEEP_RGB),
    "TIFF, 48 bit planar": (tiff(PLANES, photometric="rgb", planarconfig="separate"), DEEP_RGB),
    "TIFF, 16 bit MinIsWhite": (tiff(DEEP_GREY, photometric="miniswhite"), 65535 - DEEP_GREY),
    "TIFF, 12 bit MinIsWhite": (
        tiff(DEEP_GREY, bitspersample=12, photometric="miniswhite"), 4095 - DEEP_GREY),
    "TIFF, signed 16 bit": (tiff(DEEP_GREY.astype(np.int16) - 999), DEEP_GREY.astype(np.int16) - 999),
    "TIFF, 32 bit": (tiff(DEEP_GREY.astype(np.uint32) << 12), DEEP_GREY.astype(np.uint32) << 12),
    "TIFF, float32": (tiff(FLOATS, compression="zlib", predictor=3), FLOATS),
    "TIFF, float64": (tiff(FLOATS.astype(np.float64)), FLOATS),
    "TIFF, float16": (tiff(FLOATS.astype(np.float16)), FLOATS.astype(np.float16).astype(np.float32)),
    "PNG, 16 bit": (imagecodecs.png_encode(DEEP_GREY), DEEP_GREY),
    "PNG, 48 bit colour": (png16(DEEP_RGB, 2), DEEP_RGB),
    "JPEG 2000, 12 bit": (jp2(DEEP_GREY), DEEP_GREY),
    "JPEG 2000, 36 bit colour": (jp2(DEEP_RGB), DEEP_RGB),
    "JPEG 2000 codestream, 16 bit": (jp2(DEEP_GREY, "j2k", 16), DEEP_GREY),
    "PGM, largest value 4095": (netpbm(DEEP_GREY, "P5", 4095), DEEP_GREY),
    "PPM, largest value 65535": (netpbm(DEEP_RGB, "P6", 65535), DEEP_RGB),
    "PGM as text": (netpbm(DEEP_GREY, "P2", 4095), DEEP_GREY),
    "PFM": (b"Pf\n8 6\n-1.0\n" + FLOATS[::-1].astype("<f4").tobytes(), FLOATS),
    "AVIF, 10 bit": (lossless_avif(DEEP_RGB // 4, 10), DEEP_RGB // 4),
    "AVIF, 12 bit": (lossless_avif(DEEP_RGB, 12), DEEP_RGB),
    "NPY, uint16": (npy(DEEP_GREY), DEEP_GREY),
    "NPY, Fortran order": (npy(np.asfortranarray(DEEP_RGB)), DEEP_RGB),
    "NPY, big endian": (npy(DEEP_GREY[..., None].astype(">u2")), DEEP_GREY),
    "NPY, float64": (npy(FLOATS.astype(np.float64)), FLOATS),
    "NPY, int32": (npy(DEEP_GREY.astype(np.int32) - 5), DEEP_GREY.astype(np.int32) - 5),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEEP_KINDS)
def test_values_of_more_than_8_bits_are_those_of_the_file(kind, tmp_path):
    content, values = DEEP_KINDS[kind]
    path = tmp_path / "x"
    path.write_bytes(content)
    for picture in (decoding.decode(content), decoding.decode(path)):
        assert picture.dtype == values.dtype
        np.testing.assert_array_equal(picture, values)
    assert find_pixel_type(path) == str(values.dtype)
    assert (has_image_signature(content[:64]), count_pages(path)) == (True, 1)
    assert decoding.is_grey(path) == (values.ndim == 2)
    with pytest.raises(UserError, match="cut: the image cannot be read"):
        decoding.decode(content[: len(content) // 2], "cut")


def pillow_file(pixels, **how):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **how)
    return file.getvalue()


MANY = np.repeat(np.repeat(RGB, 8, 0), 8, 1)
# Every kind of file with 8 bits or fewer: its bytes, the values, and the largest error of a lossy format.
KINDS_OF_8_BITS = {
    "PNG": (pillow_file(RGB, format="PNG"), RGB, 0),
    "JPEG": (pillow_file(MANY, format="JPEG", quality=95, subsampling=0), MANY, 40),
    "MPO, as phones write it": (
        pillow_file(MANY, format="MPO", save_all=True, append_images=[Image.fromarray(255 - MANY)],
                    quality=95, subsampling=0), MANY, 40),
    "BMP": (pillow_file(RGB, format="BMP"), RGB, 0),
    "WebP": (pillow_file(RGB, format="WEBP", lossless=True), RGB, 0),
    "GIF": (pillow_file(GREY, format="GIF"), GREY, 0),
    "AVIF": (pillow_file(MANY, format="AVIF", quality=100, subsampling="4:4:4"), MANY, 3),
    "JPEG 2000": (pillow_file(RGB, format="JPEG2000"), RGB, 0),
    "PGM": (netpbm(GREY, "P5", 255), GREY, 0),
    "PPM": (netpbm(RGB, "P6", 255), RGB, 0),
    "PGM, largest value 15": (netpbm(GREY // 16, "P5", 15), GREY // 16 * 17, 0),
    "TIFF, MinIsWhite": (tiff(GREY, photometric="miniswhite"), 255 - GREY, 0),
    "TIFF, planar": (tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), RGB, 0),
    "TIFF, BigTIFF with LZW": (tiff(RGB, bigtiff=True, compression="lzw", predictor=True), RGB, 0),
    "TIFF, JPEG XL": (tiff(GREY, compression="jpegxl", compressionargs={"lossless": True}), GREY, 0),
    "NPY, uint8": (npy(RGB), RGB, 0),
    "NPY, bool": (npy(GREY > 127), np.where(GREY > 127, 255, 0), 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_8_BITS)
def test_files_of_8_bits_are_pillow_images(kind, tmp_path):
    content, values, error = KINDS_OF_8_BITS[kind]
    path = tmp_path / "x"
    path.write_bytes(content)
    picture = decoding.decode(path)
    assert isinstance(picture, Image.Image)
    pixels = to_pixels(picture, 1 if values.ndim == 2 else 3)
    assert np.abs(pixels.reshape(values.shape).astype(int) - values).max() <= error
    assert (find_pixel_type(path), count_pages(path)) == ("uint8", 1)
    assert has_image_signature(content[:64])


# What becomes of a stored value v, for the kinds that change it.
CHANGES = {
    "TIFF, 16 bit MinIsWhite": "65535 - v",
    "TIFF, 12 bit MinIsWhite": "4095 - v",
    "TIFF, MinIsWhite": "255 - v",
    "TIFF, float64": "v, rounded to float32",
    "NPY, float64": "v, rounded to float32",
    "NPY, bool": "0 or 255",
    "PGM, largest value 15": "17 v",
}


def table_rows():
    """The rows of the table in docs/data.md, as the files are really read."""
    rows = []
    for kind, (content, *_) in (DEEP_KINDS | KINDS_OF_8_BITS).items():
        picture = decoding.decode(content)
        is_deep = isinstance(picture, np.ndarray)
        change = "v" if is_deep or not KINDS_OF_8_BITS[kind][2] else "v, within the loss of the format"
        depth = str(picture.dtype) if is_deep else "8 bit"
        rows.append(f"| {kind} | {depth} | {CHANGES.get(kind, change)} |")
    return rows


def test_the_table_in_the_documentation_is_what_was_read():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    section = page[page.index("## Kinds of files") : page.index("### The range of pixel values")]
    shown = [line for line in section.splitlines() if line.startswith("| ") and "HEIC" not in line]
    assert shown[1:] == table_rows()


ORIENTATIONS = {
    1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_deep_images_are_turned_upright(orientation):
    """As Pillow turns images of 8 bits. Pillow itself damages images of 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow = io.BytesIO()
    Image.fromarray(GREY).save(shallow, "PNG", exif=exif)
    expected = ORIENTATIONS[orientation](GREY)
    np.testing.assert_array_equal(np.asarray(decoding.decode(shallow.getvalue())), expected)
    deep = GREY.astype(np.uint16) << 4
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG", exif=exif)
    colour = png16(np.stack([deep] * 3, -1), 2)
    tag = struct.pack(">I", len(exif.tobytes()[6:])) + b"eXIf" + exif.tobytes()[6:]
    turned = colour[:33] + tag + struct.pack(">I", zlib.crc32(tag[4:])) + colour[33:]
    for content in (file.getvalue(), tiff(deep, extratags=[(274, 3, 1, orientation, True)])):
        np.testing.assert_array_equal(decoding.decode(content), expected.astype(int) << 4)
    np.testing.assert_array_equal(decoding.decode(turned)[..., 1], expected.astype(int) << 4)


def test_alpha_of_16_bits_is_laid_over_black():
    alpha = np.where(np.arange(8) < 3, 65535, 0)[None, :, None].repeat(6, 0).astype(np.uint16)
    rgba = np.concatenate([DEEP_RGB, alpha], -1)
    expected = DEEP_RGB * (alpha > 0)
    straight = tiff(rgba, photometric="rgb", extrasamples=["unassalpha"])
    for content in (png16(rgba, 6), straight, npy(rgba)):
        np.testing.assert_array_equal(decoding.decode(content), expected)
    multiplied = tiff(rgba, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(decoding.decode(multiplied), DEEP_RGB)


def test_pages(tmp_path):
    """Thumbnails are no images of their own."""
    stack = RNG.integers(0, 4096, (5, 6, 8), np.uint16)
    np.save(tmp_path / "x.npy", stack)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for page in stack:
            file.write(page)
            file.write(page[::2, ::2], subfiletype=1)
        file.write(RGB)
    frames = [Image.fromarray(np.full((6, 8), 40 * i, np.uint8)) for i in range(5)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert [count_pages(tmp_path / f"x.{suffix}") for suffix in ("npy", "tif", "gif")] == [5, 6, 5]
    for number in range(5):
        for suffix in ("npy", "tif"):
            np.testing.assert_array_equal(
                decoding.decode(tmp_path / f"x.{suffix}", page=number), stack[number]
            )
            content = (tmp_path / f"x.{suffix}").read_bytes()
            np.testing.assert_array_equal(decoding.decode(content, page=number), stack[number])
        pixels = to_pixels(decoding.decode(tmp_path / "x.gif", page=number), 1)
        assert np.abs(pixels - 40.0 * number).max() <= 1
    np.testing.assert_array_equal(np.asarray(decoding.decode(tmp_path / "x.tif", page=5)), RGB)
    for suffix in ("npy", "tif", "gif", "png"):
        if suffix == "png":
            Image.fromarray(RGB).save(tmp_path / "x.png")
        with pytest.raises(UserError, match=rf"x\.{suffix}: the image cannot be read"):
            decoding.decode(tmp_path / f"x.{suffix}", page=6)
    np.save(tmp_path / "colour.npy", np.zeros((4, 6, 8, 3), np.uint8))
    assert count_pages(tmp_path / "colour.npy") == 4


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "AVIF"])
def test_an_animation_is_refused(image_format):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    file = io.BytesIO()
    frames[0].save(file, image_format, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="x: the file is an animation of 2 pictures; split it"):
        decoding.decode(file.getvalue(), "x")


def test_what_is_hidden_behind_a_page_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 6, 8), np.uint16), truncate=True)
    for act in (count_pages, decoding.decode):
        with pytest.raises(UserError, match=r"x\.tif: .*a stack of images behind a single page"):
            act(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy(np.array([[None]])), "cannot be read .*type object"),
        (npy(np.zeros((3, 4), complex)), "type complex128"),
        (npy(np.zeros((3, 4), np.int64)), "the array is of type int64"),
        (npy(np.zeros(5, np.uint8)), r"the shape \(5,\)"),
        (npy(np.zeros((0, 4), np.uint8)), "the shape"),
        (npy(np.array([[1, np.nan], [np.inf, 2]])), "2 of its values are not finite"),
        (tiff(np.zeros((6, 8, 7), np.uint16), planarconfig="contig", photometric="minisblack"), "7 samples"),
        (tiff(np.zeros((6, 8, 4), np.uint16), photometric="separated"), "SEPARATED of 16 bits"),
        (tiff(DEEP_GREY, photometric="cfa"), "CFA of 16 bits"),
        (imagecodecs.jpeg8_encode(DEEP_GREY, bitspersample=12), "12-bit"),
        (netpbm(DEEP_GREY, "P5", 4095)[:-10], "it is cut short"),
        (b"P5 4 4 70000 ", "its largest value is 70000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "cannot identify"),
        (b"", "cannot identify"),
    ],
)
def test_what_cannot_be_read_says_why(content, says, tmp_path):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(UserError, match=f"bad: .*{says}"):
        decoding.decode(tmp_path / "bad")


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 8
    deep = np.stack([smooth] * 3, -1)
    ten_bits = pillow_heif.from_bytes("RGB;16", (64, 64), (deep << 6).tobytes())
    ten_bits.save(tmp_path / "x.heic", quality=-1, chroma=444)
    picture = decoding.decode(tmp_path / "x.heic")
    assert (picture.dtype, find_pixel_type(tmp_path / "x.heic")) == (np.uint16, "uint16")
    assert np.abs(picture.astype(int) - deep).max() <= 4
    pillow_heif.from_pillow(Image.fromarray((deep // 4).astype(np.uint8))).save(
        tmp_path / "y.heic", quality=90
    )
    shallow = decoding.decode(tmp_path / "y.heic")
    assert isinstance(shallow, Image.Image)
    assert np.abs(np.asarray(shallow).astype(int) - deep // 4).max() <= 8
    with pytest.raises(UserError, match="more than the limit of 50"):
        decoding.decode(tmp_path / "y.heic", max_pixels=50)


def test_heic_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(64))
    with pytest.raises(
        UserError, match=r"x\.heic: HEIC images need the package pillow-heif of the extra heic"
    ):
        decoding.decode(tmp_path / "x.heic")


def test_what_may_never_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(UserError, match="is no regular file"):
            decoding.read_file(path)
    with pytest.raises(UserError, match="this is a folder"):
        decoding.read_file(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        decoding.read_file(Path("a\0b"))


def test_an_array_of_too_many_pixels_is_refused():
    """It repeats one value, so it takes no memory itself."""
    with pytest.raises(
        UserError, match="x: the image has 5000 x 4000 pixels, more than the limit of 1000000"
    ):
        open_image(np.broadcast_to(np.uint8(1), (4000, 5000)), "x", 10**6)
