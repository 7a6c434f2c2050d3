"""Masks of any kind mark the same pixels, and each belongs to one image."""

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.data import datasets
from daad_jax.errors import UserError

RNG = np.random.default_rng(0)
MARKED = np.zeros((16, 16), bool)
MARKED[3:9, 5:12] = True


@pytest.fixture
def root(tmp_path):
    """Good images to train on and to test, and two cracks without masks."""
    for name in (
        "train/good/0.png",
        "train/good/1.png",
        "test/good/0.png",
        "test/crack/0.png",
        "test/crack/1.png",
    ):
        paint(tmp_path / "set" / name, RNG.integers(0, 256, (16, 16, 3), np.uint8))
    return tmp_path / "set"


def paint(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def load(root, **changes):
    config = Config()
    config.data.source, config.data.protocol = "folder", "inspection"
    config.data.path, config.data.cache_dir = str(root), str(root.parent / "cache")
    config.data.height = config.data.width = 16
    for key, value in changes.items():
        setattr(config.data, key, value)
    return datasets.load(config)


def masks_of(splits):
    """The mask of every test image that has one, by its name."""
    if splits.test.masks is None:
        return {}
    return {name: mask for name, mask in zip(splits.test.names, splits.test.masks) if mask.any()}


def palette(colour):
    image = Image.fromarray(MARKED.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *colour])
    return image


def deep(value):
    return Image.fromarray(MARKED.astype(np.uint16) * value)


def coloured(mode):
    pixels = np.zeros((16, 16, len(mode)), np.uint8)
    pixels[MARKED, 2] = 1  # one step of blue, which is no step of grey
    if mode == "RGBA":
        pixels[..., 3] = 255
        pixels[~MARKED, :3] = 77
        pixels[~MARKED, 3] = 0
    return Image.fromarray(pixels)


GREY = Image.fromarray(MARKED.astype(np.uint8))
WHITE = Image.fromarray(255 * MARKED.astype(np.uint8))
KINDS = {
    "0 and 255": ("png", WHITE),
    "0 and 1": ("PNG", GREY),
    "one bit": ("bmp", WHITE.convert("1")),
    "palette": ("png", palette((0, 0, 128))),
    "RGB": ("TIFF", coloured("RGB")),
    "RGBA": ("png", coloured("RGBA")),
    "16 bit": ("tif", deep(1)),
    "16 bit PNG": ("png", deep(65535)),
    "JPEG": ("jpg", WHITE.resize((16, 16))),
    "JPEG of 0 and 40": ("JPEG", WHITE.point(lambda v: v and 40)),
    "lossy WebP": ("webp", WHITE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_pixel_that_is_not_black_is_marked(root, kind):
    suffix, image = KINDS[kind]
    path = root / f"ground_truth/crack/0_mask.{suffix}"
    path.parent.mkdir(parents=True)
    image.save(path, **({"quality": 95} if suffix.lower() in ("jpg", "jpeg", "webp") else {}))
    (found,) = masks_of(load(root)).values()
    if "JPEG" in kind or "WebP" in kind:
        # The edge may move by a pixel.
        inner, outer = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
        inner[4:8, 6:11], outer[2:10, 4:13] = True, True
        assert found[inner].all()
        assert not found[~outer].any()
    else:
        np.testing.assert_array_equal(found, MARKED)


@pytest.mark.parametrize(
    "name",
    [
        "ground_truth/crack/0.png", "ground_truth/crack/0_mask.PNG", "Masks/crack/0.png", "masks/0_label.png",
        "mask/test/crack/0-mask.png", "test/crack/0_GT.png", "ground_truth/crack/0.png.png",
        "ground_truth/crack/0.png_mask.png", "ground_truth/crack/0/000.png", "ground_truth/crack/mask_0.png",
        "ground_truth/crack/0_mask_2.png", "crack_masks/0.png", "test/crack/gt/0.png",
    ],
)  # fmt: skip
def test_names_of_masks(root, name):
    paint(root / name, 255 * MARKED.astype(np.uint8))
    splits = load(root)
    assert list(masks_of(splits)) == ["test/crack/0.png"]
    assert len(splits.test) == 3


def test_several_masks_of_an_image_are_united(root):
    upper, lower = MARKED.copy(), MARKED.copy()
    upper[6:], lower[:5] = False, False
    paint(root / "ground_truth/crack/0/0.png", upper.astype(np.uint8))
    paint(root / "ground_truth/crack/0/1.png", 9 * lower.astype(np.uint8))
    paint(root / "ground_truth/crack/1_mask_1.png", upper.astype(np.uint8))
    paint(root / "ground_truth/crack/1_mask_2.png", lower.astype(np.uint8))
    splits = load(root)
    for mask in masks_of(splits).values():
        np.testing.assert_array_equal(mask, MARKED)
    assert [row.masks for row in splits.account.rows if row.folder == "test/crack"] == [4]


def test_the_same_stem_in_two_folders_has_two_masks(root):
    for folder, rows in (("a", slice(0, 4)), ("b", slice(8, 12))):
        mask = np.zeros((16, 16), np.uint8)
        mask[rows] = 255
        paint(root / f"test/crack/{folder}/0.png", RNG.integers(0, 256, (16, 16, 3), np.uint8))
        paint(root / f"ground_truth/crack/{folder}/0_mask.png", mask)
    found = masks_of(load(root))
    assert {name: np.flatnonzero(mask.any(1))[0] for name, mask in found.items()} == {
        "test/crack/a/0.png": 0, "test/crack/b/0.png": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("images", "mask", "says"),
    [
        (["hole/a/7.png", "hole/b/7.png"], "ground_truth/hole/7_mask.png",
         "test/hole/a/7.png or test/hole/b/7.png"),
        (["crack/0.jpg"], "ground_truth/crack/0_mask.png", "test/crack/0.jpg or test/crack/0.png"),
        (["hole/0.png"], "masks/0.png", "test/crack/0.png or test/hole/0.png"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_refused_by_name(root, images, mask, says):
    for image in images:
        paint(root / "test" / image, RNG.integers(0, 256, (16, 16, 3), np.uint8))
    paint(root / mask, 255 * MARKED.astype(np.uint8))
    with pytest.raises(UserError, match=f"{mask}: this mask may belong to {says}; give masks the folders"):
        load(root)


def test_a_whole_name_settles_the_same_stem(root):
    paint(root / "test/crack/0.jpg", RNG.integers(0, 256, (16, 16, 3), np.uint8))
    paint(root / "ground_truth/crack/0.jpg_mask.png", 255 * MARKED.astype(np.uint8))
    assert list(masks_of(load(root))) == ["test/crack/0.jpg"]


def test_masks_that_are_not_used_are_counted(root):
    for i in range(4):
        paint(root / f"ground_truth/crack/{i}_mask.png", 255 * MARKED.astype(np.uint8))
    paint(root / "ground_truth/crack/1_mask.png", np.zeros((16, 16), np.uint8))
    paint(root / "ground_truth/good/0_mask.png", np.zeros((16, 16), np.uint8))
    splits = load(root)
    assert list(masks_of(splits)) == ["test/crack/0.png"]
    rows = {row.folder: row for row in splits.account.rows if row.role == "mask"}
    crack, good = rows["ground_truth/crack"], rows["ground_truth/good"]
    assert (crack.files, crack.used, dict(crack.left_out)) == (
        4, 1, {"without an image of its name": 2, "empty, although the image is anomalous": 1},
    )  # fmt: skip
    assert (good.files, good.used) == (1, 1)


def test_a_mask_that_marks_a_good_image_is_refused(root):
    paint(root / "ground_truth/good/0_mask.png", 255 * MARKED.astype(np.uint8))
    with pytest.raises(
        UserError, match=r"good/0_mask\.png: this mask marks a defect in test/good/0\.png, which"
    ):
        load(root)


def test_a_picture_beside_a_picture_is_no_mask(tmp_path):
    for i in range(3):
        pixels = RNG.integers(0, 256, (16, 16, 3), np.uint8)
        paint(tmp_path / f"set/{i}.png", pixels)
        paint(tmp_path / f"set/{i}.jpg", pixels)
    with pytest.raises(UserError, match=r"0\.png: this file lies beside an image of the same name"):
        load(tmp_path / "set")


def test_an_unreadable_mask_stops_or_skips_its_image(root):
    (root / "ground_truth/crack").mkdir(parents=True)
    (root / "ground_truth/crack/0_mask.png").write_text("no")
    paint(root / "ground_truth/crack/1_mask.png", 255 * MARKED.astype(np.uint8))
    with pytest.raises(UserError, match=r"0_mask\.png: the image cannot be read"):
        load(root)
    splits = load(root, on_bad_image="skip")
    assert splits.test.names == ["test/crack/1.png", "test/good/0.png"]
    (file,) = [file for file in splits.account.files if file.name == "test/crack/0.png"]
    assert "0_mask.png: the image cannot be read" in file.reason


def test_pages_are_images_and_have_pages_of_masks(root):
    pages = [Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(3)]
    pages[0].save(root / "test/crack/many.tif", save_all=True, append_images=pages[1:])
    flat = [
        Image.fromarray(255 * (MARKED & (np.arange(16)[:, None] < n)).astype(np.uint8)) for n in (0, 5, 16)
    ]
    (root / "ground_truth/crack").mkdir(parents=True)
    flat[0].save(root / "ground_truth/crack/many_mask.tif", save_all=True, append_images=flat[1:])
    splits = load(root)
    images = dict(zip(splits.test.names, splits.test.images))
    for number, page in enumerate(pages, 1):
        np.testing.assert_array_equal(images[f"test/crack/many.tif#{number}"], np.asarray(page))
    found = masks_of(splits)
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "test/crack/many.tif#2": 14, "test/crack/many.tif#3": 42,
    }  # fmt: skip
    (file,) = [file for file in splits.account.files if file.name == "test/crack/many.tif"]
    assert (file.images, file.masks) == (3, 1)
    assert len(file.sha256) == 64
