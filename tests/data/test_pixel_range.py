"""Which pixel values become 0 and 1: found from the training images, or configured."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from daad_jax.config import Config, DataConfig
from daad_jax.data import datasets, pixel_range
from daad_jax.data.images import prepare, show_pixels, to_uint8
from daad_jax.errors import UserError
from daad_jax.validation import validate

RNG = np.random.default_rng(0)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == np.uint8:
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels)


def load(root, **values):
    config = Config()
    config.data = DataConfig(
        source="folder", protocol="inspection", path=str(root / "set"), cache_dir=str(root / "cache"),
        height=16, width=16, channels=1,
    )  # fmt: skip
    for key, value in values.items():
        setattr(config.data, key, value)
    return datasets.load(config)


def random(largest, dtype=np.uint16):
    """An image that has the value `largest`."""
    pixels = RNG.integers(0, largest + 1, (16, 16)).astype(dtype)
    pixels[0, 0] = largest
    return pixels


@pytest.mark.parametrize(
    ("largest", "bits"), [(200, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (9000, 14), (65535, 16)]
)
def test_the_bits_of_a_camera_are_found(tmp_path, largest, bits):
    images = [random(largest if i == 7 else largest // 3) for i in range(10)]
    for i, pixels in enumerate(images):
        save(tmp_path / f"set/{i}.tif", pixels)
    splits = load(tmp_path)
    white = 2**bits - 1
    assert splits.data.range == f"uint16:0,{white}"
    note = f"The training images have {bits} of 16 bits: pixel values 0..{white} become 0..1"
    assert splits.notes == [f"{note} (config.data.range)."]
    dtype, levels = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    for split in (splits.train, splits.calibration):
        assert split.images.dtype == dtype
        for name, prepared in zip(split.names, split.images[:]):
            exact = images[int(name[0])].astype(float) / white * levels
            np.testing.assert_allclose(prepared[..., 0], exact, atol=0.51)


def test_only_normal_training_images_count(tmp_path, monkeypatch):
    for i in range(4):
        save(tmp_path / f"set/train/good/{i}.tif", random(1000))
    save(tmp_path / "set/test/good/a.tif", random(5000))
    save(tmp_path / "set/test/dent/b.tif", random(900))
    splits = load(tmp_path)
    assert splits.data.range == "uint16:0,1023"
    assert splits.notes[1] == (
        "1 image has pixel values outside uint16:0..1023, which were clipped (test/good/a.tif)."
    )
    assert splits.test.images[splits.test.kinds.index("good")].max() == 65535
    # The resolved range finds the same decoded images, and a second run looks at no file.
    monkeypatch.setattr(pixel_range, "search", None)
    monkeypatch.setattr("daad_jax.data.cache._fill_entry", None)
    for data in (load(tmp_path), load(tmp_path, range=splits.data.range, bits=16)):
        assert data.data.range == splits.data.range
        np.testing.assert_array_equal(data.train.images[:], splits.train.images[:])
        assert data.notes[-1] == splits.notes[-1]


@pytest.mark.parametrize(
    ("values", "limits"),
    [((0.25, 0.75), (0.0, 1.0)), ((-3.5, 90.25), (-3.5, 90.25)), ((7.0, 7.0), (7.0, 8.0))],
)
def test_floats(tmp_path, values, limits):
    low, high = values
    for i in range(4):
        pixels = np.linspace(low, high, 256, dtype=np.float32).reshape(16, 16)
        save(tmp_path / f"set/{i}.tif", pixels)
    splits = load(tmp_path)
    assert splits.data.ranges == {"float32": limits}
    expected = 65535 * (pixels - limits[0]) / (limits[1] - limits[0])
    np.testing.assert_allclose(splits.train.images[0][..., 0], expected, atol=0.6)


def test_signed_and_large_integers(tmp_path):
    for i in range(4):
        save(tmp_path / f"set/{i}.tif", random(500).astype(np.int16) - np.int16(200))
    assert load(tmp_path).data.range == "int16:-200,300"
    for i in range(4):
        save(tmp_path / f"set/{i}.tif", random(500, np.uint32) * np.uint32(4000))
    assert load(tmp_path).data.range == "uint32:0,2000000"


def test_files_of_8_bits_go_by_their_type(tmp_path):
    for i in range(4):
        save(tmp_path / f"set/{i}.png", random(90, np.uint8))
    splits = load(tmp_path)
    assert (splits.data.range, splits.data.bits, splits.notes) == ("type", 8, [])
    assert splits.train.images[:].max() == 90


def test_files_of_several_types_go_by_their_own(tmp_path):
    save(tmp_path / "set/a.png", np.full((16, 16), 255, np.uint8))
    save(tmp_path / "set/b.tif", random(4095))
    save(tmp_path / "set/c.tif", np.full((16, 16), 0.5, np.float32))
    splits = load(tmp_path)
    assert splits.data.range == "float32:0,1;uint16:0,4095"
    assert splits.notes[-1] == (
        "The training images are of several types (1 of float32, 1 of uint16, 1 of uint8); each goes by its "
        "own range."
    )
    by_name = {n: x for s in (splits.train, splits.calibration) for n, x in zip(s.names, s.images[:])}
    assert [by_name[n].max() for n in ("a.png", "b.tif", "c.tif")] == [65535, 65535, 32768]


def test_a_configured_range(tmp_path):
    for i in range(4):
        save(tmp_path / f"set/{i}.tif", random(4095))
    by_type = load(tmp_path, range="type")
    assert (by_type.data.range, by_type.data.bits) == ("uint16:0,65535", 16)
    assert by_type.train.images[:].max() == 4095
    narrow = load(tmp_path, range="100,200", bits=8)
    assert set(np.unique(narrow.train.images[:])) >= {0, 255}
    assert narrow.train.images.dtype == np.uint8
    assert narrow.notes[0] == "Pixel values of all files 100..200 become 0..1 (config.data.range)."
    assert narrow.notes[1].startswith(
        "4 images have pixel values outside 100..200, which were clipped (0.tif,"
    )
    # A range of one type leaves the others as they are.
    other = load(tmp_path, range="float32:0,5")
    assert other.train.images[:].max() == 4095


def test_a_range_for_files_of_8_bits():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    config = DataConfig(height=16, width=16, channels=1, range="50,150", bits=8)
    expected = np.clip((ramp.astype(float) - 50) / 100, 0, 1) * 255
    found = prepare(Image.fromarray(ramp), config, "x")[..., 0]
    np.testing.assert_allclose(found, expected, atol=1)
    assert pixel_range.exceeds_range(Image.fromarray(ramp), config)
    config.range = "uint16:0,4095"
    np.testing.assert_array_equal(prepare(Image.fromarray(ramp), config, "x")[..., 0], ramp)
    config.bits = 16
    np.testing.assert_array_equal(prepare(Image.fromarray(ramp), config, "x")[..., 0], ramp * np.uint16(257))


@pytest.mark.parametrize(
    "text", ["", "5", "1,2,3", "9,3", "3,3", "a,b", "nan,1", "0,inf", "uint12:0,5", "uint16", "0,1;2,3",
             ":0,1", "uint16:0,1;uint16:0,2"]
)  # fmt: skip
def test_what_is_no_range_is_refused(text):
    config = Config()
    config.data.range = text
    with pytest.raises(UserError, match=r"config\.data\.range = .*must be 'auto', 'type', 'LOW,HIGH' or"):
        validate(config)


def test_16_bits_in_8_are_divided_by_257_in_grey_and_in_colour():
    """As runs were prepared before ranges existed, when colours were divided by 256."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    config = DataConfig(height=256, width=256, channels=1)
    np.testing.assert_array_equal(prepare(values, config, "x")[..., 0], values // 257)
    config.channels = 3
    np.testing.assert_array_equal(prepare(np.stack([values] * 3, -1), config, "x")[..., 1], values // 257)


@pytest.mark.parametrize("how", ["resize", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_images_are_brought_to_the_model_as_shallow_ones_are(how, channels):
    """The same picture of 8 and of 16 bits differs by the rounding of 8 bits."""
    config = DataConfig(height=24, width=20, channels=channels, fit=how, range="uint16:0,65535", bits=8)
    for shape in ((50, 70), (50, 70, 3), (9, 11)):
        shallow = RNG.integers(0, 256, shape, np.uint8)
        config.bits = 8
        expected = prepare(Image.fromarray(shallow), config, "x").astype(float)
        config.bits = 16
        found = prepare(shallow.astype(np.uint16) * np.uint16(257), config, "x")
        assert found.dtype == np.uint16
        # Pillow rounds after both passes of 8 bits, and in the conversion to grey.
        assert np.abs(found / 257 - expected).max() <= 1.6
        assert np.abs(to_uint8(found).astype(float) - expected).max() <= 2


def test_prepared_images_are_shown_with_8_bits():
    deep = np.array([0, 128, 129, 257, 65535], np.uint16)
    assert to_uint8(deep).tolist() == [0, 0, 1, 1, 255]
    config = DataConfig(channels=3, range="float32:20,30")
    warm = np.array([[20.0, 25.0, 40.0]], np.float32)
    assert show_pixels(warm, config)[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]


def test_a_damaged_record_is_made_anew(tmp_path, capsys):
    for i in range(4):
        save(tmp_path / f"set/{i}.tif", random(4095))
    expected = load(tmp_path).data
    (record,) = (tmp_path / "cache/ranges").iterdir()
    whole, rng = record.read_bytes(), np.random.default_rng(0)
    assert load(tmp_path).data == expected
    assert capsys.readouterr().err == ""
    flipped = [bytearray(whole) for _ in range(30)]
    for content in flipped:
        content[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
    for content in (b"", b"[]", whole[:-1], *map(bytes, flipped)):
        record.write_bytes(content)
        assert load(tmp_path).data == expected
        said = capsys.readouterr().err
        assert said.startswith(f"warning: {record}: this part of the image cache is damaged; the range of")
        assert said.count("\n") == 1
        assert record.read_bytes() == whole


def test_a_type_that_no_training_image_had_is_named_once(capsys, monkeypatch):
    monkeypatch.setattr(pixel_range, "_warned", set())
    of_8_bits = DataConfig(height=16, width=16, channels=1, range="type", bits=8)
    prepare(Image.fromarray(random(255, np.uint8)), of_8_bits, "a.png")
    prepare(random(255).astype(np.float32) / 255, of_8_bits, "a.pfm")
    prepare(random(4095), replace(of_8_bits, range="uint16:0,4095"), "a.tif")
    prepare(random(4095), replace(of_8_bits, range="0,4095"), "a.tif")
    assert capsys.readouterr().err == ""
    dark = prepare(random(4095), of_8_bits, "b.tif")
    prepare(random(4095), of_8_bits, "c.tif")
    assert dark.max() == 255 * 4095 // 65535
    said = capsys.readouterr().err
    assert said.startswith(
        "warning: b.tif: its pixels are uint16, as in no training image, so 0..65535 become"
    )
    assert said.count("warning") == 1
