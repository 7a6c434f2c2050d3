"""Large images in tiles: every pixel is in a tile, and joined tiles give the whole image again."""

import errno
import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from daad_jax.data import cache, datasets, near_duplicates
from daad_jax.data.growing_array import GrowingArray
from daad_jax.data.history import TRAINED
from daad_jax.data.images import fit_mask_to_tiles, prepare, prepare_tiles
from daad_jax.data.tiles import TileGrid, place_tiles
from daad_jax.errors import UserError
from daad_jax.validation import validate
from tests.tiny import tiny_config

RNG = np.random.default_rng(0)
SIZES = [(40, 24), (16, 16), (17, 100), (9, 30), (33, 32), (64, 61), (1, 50)]


@pytest.mark.parametrize("side", [16, 17, 40])
def test_tiles_cover_a_side_evenly_and_overlap_by_a_quarter(side):
    for length in range(side, 6 * side):
        starts = place_tiles(length, side)
        covered = np.zeros(length, bool)
        for start in starts:
            covered[start : start + side] = True
        assert covered.all()
        assert starts[0] == 0
        assert starts[-1] + side == length
        steps = np.diff(starts)
        if len(steps):
            assert (side - steps).min() >= side / 4
            assert steps.max() - steps.min() <= 1
            assert (
                len(starts) == 2 or (length - side) / (len(starts) - 2) > 0.75 * side - 1
            )  # no more than needed


@pytest.mark.parametrize("size", SIZES)
def test_tiles_come_row_by_row_and_cover_the_image(size):
    grid = TileGrid(size, 16, (16, 16))
    boxes = list(grid.boxes())
    assert boxes == sorted(boxes)
    assert len(boxes) == grid.count
    counts = np.zeros(size, int)
    for box in boxes:
        assert (box.bottom - box.top, box.right - box.left) == (min(16, size[0]), min(16, size[1]))
        counts[box.top : box.bottom, box.left : box.right] += 1
    assert counts.min() >= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model_size", [(16, 16), (24, 20), (11, 16)])
def test_maps_are_blended_by_weights_that_fall_towards_the_border(size, model_size):
    grid, (height, width) = TileGrid(size, 22, model_size), model_size
    maps = RNG.standard_normal((grid.count, height, width)).astype(np.float32)
    joiner = grid.blend()
    for values in maps:
        joiner.add(values)
    # Place by place: the mean of all tiles there, with the product of the distances from the tile's borders.
    total, weights = np.zeros(grid.joined_size), np.zeros(grid.joined_size)
    for number, values in enumerate(maps):
        rows, columns = grid.window(number)
        for row in range(height):
            for column in range(width):
                weight = min(row + 0.5, height - row - 0.5) * min(column + 0.5, width - column - 0.5)
                total[rows.start + row, columns.start + column] += weight * values[row, column]
                weights[rows.start + row, columns.start + column] += weight
    assert weights.min() > 0
    np.testing.assert_allclose(joiner.finish(), total / weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_cut_is_put_together_again(size):
    grid = TileGrid(size, 22, (16, 12))
    whole = RNG.standard_normal((*grid.joined_size, 3)).astype(np.float32)
    pasted, blended = grid.paste(), grid.blend()
    for tile in grid.cut(whole):
        pasted.add(tile)
        blended.add(tile[..., 0])
    np.testing.assert_array_equal(pasted.finish(), whole)
    np.testing.assert_allclose(blended.finish(), whole[..., 0], rtol=1e-5, atol=1e-6)


def test_a_joined_map_has_the_resolution_of_the_tiles():
    assert TileGrid((3000, 4000), 1000, (224, 224)).joined_size == (672, 896)
    assert TileGrid((3000, 4000), 224, (224, 224)).joined_size == (3000, 4000)
    assert TileGrid((100, 4000), 1000, (224, 224)).joined_size == (224, 896)


def tiled(**changes):
    return tiny_config(**{"data__tiles": 16, "data__fit": "resize"} | changes)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("side", [16, 24])
def test_a_tile_is_prepared_as_an_image_is(bits, side):
    data = tiled(data__tiles=side, data__bits=bits, data__range="type").data
    pixels = RNG.integers(0, 256, (40, 53, 3), np.uint8)
    picture = Image.fromarray(pixels) if bits == 8 else pixels.astype(np.uint16) * 257
    tiles, boxes = list(prepare_tiles(picture, data, "a")), list(TileGrid.of((40, 53), data).boxes())
    assert len(tiles) == len(boxes) > 1
    for tile, box in zip(tiles, boxes):
        part = pixels[box.top : box.bottom, box.left : box.right]
        if side == 16:
            np.testing.assert_array_equal(tile, part if bits == 8 else part.astype(np.uint16) * 257)
        else:
            part = Image.fromarray(part) if bits == 8 else part.astype(np.uint16) * 257
            np.testing.assert_array_equal(tile, prepare(part, data, "part"))


def test_the_tiles_of_a_mask_paste_to_the_scaled_mask():
    data = tiled(data__tiles=24).data
    mask = np.zeros((100, 61), np.uint8)
    mask[20:45, 30:50] = 1
    grid = TileGrid.of(mask.shape, data)
    joiner = grid.paste()
    for tile in fit_mask_to_tiles(mask, data):
        assert tile.shape == (16, 16)
        joiner.add(tile)
    rows, columns = grid.joined_size
    expected = np.asarray(Image.fromarray(mask).resize((columns, rows), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(joiner.finish(), expected)


@pytest.fixture
def folder(tmp_path):
    """Good images of several sizes, two anomalous ones with masks, and a broken file."""
    good, bad, masks = (tmp_path / "set" / name for name in ("train/good", "test/dot", "ground_truth/dot"))
    for place in (good, bad, masks, tmp_path / "set/test/good"):
        place.mkdir(parents=True)
    for i, size in enumerate([(40, 24), (16, 16), (30, 70), (40, 24), (20, 17), (64, 64)]):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(good / f"{i}.png")
    (good / "9.png").write_text("no image")
    Image.fromarray(RNG.integers(0, 256, (30, 30, 3), np.uint8)).save(tmp_path / "set/test/good/0.png")
    for i in range(2):
        Image.fromarray(RNG.integers(0, 256, (50, 40, 3), np.uint8)).save(bad / f"{i}.png")
        mask = np.zeros((50, 40), np.uint8)
        mask[30:38, 10 * i : 10 * i + 6] = 255
        Image.fromarray(mask).save(masks / f"{i}_mask.png")
    return tmp_path


def folder_config(place, **changes):
    paths = {"data__path": str(place / "set"), "data__cache_dir": str(place / "cache")}
    return tiled(
        **paths,
        **{"data__source": "folder", "data__protocol": "inspection", "data__on_bad_image": "skip"} | changes,
    )


def test_a_folder_in_tiles_counts_images(folder):
    config = folder_config(folder)
    splits = datasets.load(config)
    assert (len(splits.train), len(splits.calibration), len(splits.test)) == (5, 1, 3)
    assert {image.name for image in splits.normal} == {f"train/good/{i}.png" for i in range(6)}
    assert [(row.images, row.used) for row in splits.account.rows if row.role == "training"] == [(7, 6)]
    assert "cut into 60 overlapping tiles of 16 x 16 pixels" in splits.notes[-1]
    for split in (splits.train, splits.calibration, splits.test):
        assert len(split.images) == sum(grid.count for grid in split.grids) == len(split.owners)
        assert len(split.names) == len(split.labels) == len(split.kinds) == len(split)
        for i, name in enumerate(split.names):
            pixels = np.asarray(Image.open(folder / "set" / name))
            np.testing.assert_array_equal(split.picture(i), pixels)  # tiles of 16 pixels are not scaled
            first = np.asarray(split.images[split.tiling.rows_of([i])][0])
            np.testing.assert_array_equal(first, pixels[:16, :16])
    marks = [splits.test.mask(i) for i in range(3)]
    assert [mask.shape for mask in marks] == [(50, 40), (50, 40), (30, 30)]
    assert [int(mask.sum()) for mask in marks] == [48, 48, 0]
    assert marks[1][30:38, 10:16].all()
    assert splits.test.is_marked().tolist() == [True, True, False]


def test_a_full_disk_is_one_line(folder, monkeypatch):
    def no_space(self, rows):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(GrowingArray, "append", no_space)
    with pytest.raises(
        UserError, match=r"the image cache needs more than 0 MB, .* set config\.data\.cache_dir"
    ):
        datasets.load(folder_config(folder))
    assert list((folder / "cache").glob("*/images.npy")) == []


def test_tiles_have_sixteen_bits_if_the_files_have(folder):
    train = datasets.load(folder_config(folder, data__bits=16)).train
    assert train.images.dtype == np.uint16
    for i, name in enumerate(train.names):
        with Image.open(folder / "set" / name) as image:
            np.testing.assert_array_equal(train.picture(i), np.asarray(image).astype(np.uint16) * 257)


def test_some_images_of_a_split_keep_their_tiles(folder):
    test = datasets.load(folder_config(folder)).test
    taken = test.take(np.array([2, 0]))
    assert taken.names == [test.names[2], test.names[0]]
    for now, before in ((0, 2), (1, 0)):
        np.testing.assert_array_equal(taken.picture(now), test.picture(before))
        np.testing.assert_array_equal(taken.mask(now), test.mask(before))
    values = np.arange(len(taken.images))
    assert taken.largest(values).tolist() == [values[taken.owners == i].max() for i in range(2)]


def test_the_cache_gives_the_same_tiles_and_notices_damage(folder, capsys):
    config = folder_config(folder)
    first = datasets.load(config)
    (file,) = (folder / "cache").glob("*/images.npy")
    cache._verified.clear()
    again = datasets.load(config)
    assert again.normal_digest == first.normal_digest
    np.testing.assert_array_equal(again.train.images[:], first.train.images[:])
    with file.open("r+b") as opened:
        opened.seek(-100, 2)
        opened.write(bytes(255 - byte for byte in file.read_bytes()[-100:-99]))
    cache._verified.clear()
    mended = datasets.load(config)
    assert "is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(mended.train.images[:], first.train.images[:])
    np.testing.assert_array_equal(mended.test.mask(0), first.test.mask(0))


def test_a_run_without_tiles_shares_no_entry_with_one_in_tiles(folder):
    whole = datasets.load(folder_config(folder, data__tiles=0))
    assert whole.train.images.shape == (5, 16, 16, 3)
    assert whole.train.tiling is None
    datasets.load(folder_config(folder))
    assert len(list((folder / "cache").glob("*/images.npy"))) == 2


def test_images_from_python_are_cut_as_those_of_a_folder(folder):
    names = [f"{folder}/set/train/good/{i}.png" for i in range(6)]
    given = datasets.load_from_memory(names, tiled())
    found = {name: given.train.picture(i) for i, name in enumerate(given.train.names)}
    assert len(found) == 5
    for name, picture in found.items():
        np.testing.assert_array_equal(picture, np.asarray(Image.open(names[int(name.split()[1])])))
    assert sum(image.role == TRAINED for image in given.normal) == 5
    with pytest.raises(UserError, match=r"tiles = 16: splits have images at the size of the model"):
        datasets.load_from_memory(given, tiled())


def test_near_duplicates_are_images_not_tiles(tmp_path):
    """Flat corners are alike in all images, and no reason for a warning; a copy of an image is."""
    images = [RNG.integers(0, 256, (12, 16), np.uint8).repeat(4, 0).repeat(3, 1) for _ in range(20)]
    for image in images:
        image[:24] = 100
    different = datasets.load_from_memory(images, tiled())
    assert near_duplicates.warn(different, "") == []
    copies = [*images, *images[:20]]
    (warning,) = near_duplicates.warn(datasets.load_from_memory(copies, tiled()), "")
    assert "of 4 held-out images show nearly the same" in warning


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__tiles": -1}, r"config\.data\.tiles = -1: must be 0 \(off\) or at least 16 pixels"),
        ({"data__tiles": 15}, r"config\.data\.tiles = 15: must be 0 \(off\) or at least 16 pixels"),
        ({"data__height": 64, "data__tiles": 31}, r"tiles = 31: .* at least 32 pixels \(half"),
        ({"data__fit": "pad"}, r"data\.tiles = 16: needs data\.fit = 'resize', but data\.fit is 'pad'"),
        ({"data__source": "tfds"}, r"config\.data\.tiles = 16: .* data\.protocol is 'one_class'"),
        ({"model__place_weight": 1.0}, r"config\.model\.place_weight = 1\.0: must be 0, .* data\.tiles = 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        validate(tiled(**{"data__source": "folder"} | changes))


def test_a_line_says_when_images_are_shrunk_too_far(folder):
    def notes(**changes):
        config = folder_config(folder, **{"data__tiles": 0} | changes)
        return [note for note in datasets.load(config).notes if "small defects may vanish" in note]

    assert notes() == []  # a median of 24 pixels is 1.5 times the side of 16
    for i in range(6):
        size = (49, 200) if i > 1 else (10, 10)
        Image.fromarray(RNG.integers(0, 256, size, np.uint8)).save(folder / f"set/train/good/{i}.png")
    (note,) = notes()
    assert note.startswith("The shorter side of the training images is shrunk from 49 to 16 pixels (median)")
    assert "set config.data.tiles, for instance to 32: " in note
    assert "for instance to 32 with config.data.fit='resize': " in notes(data__fit="pad")[0]
    assert notes(data__width=32, data__height=32) == []


def test_the_key_of_an_entry_without_tiles_is_as_before(folder):
    """Entries from before there were tiles stay in use, as long as their format stays."""
    config = folder_config(folder, data__tiles=0)
    config.data.range, config.data.bits = "type", 8
    source = datasets._open_source(config.data)
    decoded = cache.load_decoded(source, config.data)
    entry = next((folder / "cache").glob("*/images.npy")).parent.name
    data = config.data
    key = (
        cache.FORMAT,
        source.identity,
        (16, 16, 3),
        (data.range, data.bits, data.max_pixels),
        data.fit,
        data.on_bad_image,
    )
    assert hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()[:24] == entry
    assert decoded.sizes[:2] == [(40, 24), (16, 16)]
