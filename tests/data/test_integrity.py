"""The cache notices bytes that are not what was written, files that changed unseen, and full disks."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import DataConfig
from daad_jax.data import cache
from daad_jax.data.integrity import take_space
from daad_jax.data.samples import TEST, FileRecord, Listing, Sample, Source
from daad_jax.errors import UserError

RNG = np.random.default_rng(0)
MASK = np.eye(16, dtype=np.uint8)


@pytest.fixture
def config(tmp_path):
    return DataConfig(height=16, width=16, cache_dir=str(tmp_path / "cache"), range="type", bits=8)


def source(pixels, mask=MASK):
    """Anomalous images, whose identity never changes."""
    samples = [
        Sample(
            f"{i}.png",
            TEST,
            "crack",
            lambda p=p: (Image.fromarray(p), str(p.sum())),
            lambda: (mask, {}),
            f"{i}.png",
        )
        for i, p in enumerate(pixels)
    ]
    return Source("made here", lambda: Listing(samples, [FileRecord(s.name, "test") for s in samples]))


@pytest.fixture
def pixels():
    return RNG.integers(0, 256, (5, 16, 16, 3), np.uint8)


def forget():
    """What a new process knows of the entries."""
    cache._checked.clear()


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "index.json"])
def test_one_flipped_bit_is_noticed(config, pixels, name, capsys):
    first = cache.load_decoded(source(pixels), config)
    (entry,) = config.cache_directory.iterdir()
    for place in (-1, -300, -40, 200):
        damaged = bytearray((entry / name).read_bytes())
        damaged[place] ^= 4
        (entry / name).write_bytes(damaged)
        forget()
        again = cache.load_decoded(source(pixels), config)
        assert (
            capsys.readouterr().err == f"{entry}: this image cache is damaged; the images are decoded again\n"
        )
        np.testing.assert_array_equal(again.images, pixels)
        np.testing.assert_array_equal(again.masks, np.stack([MASK] * 5))
        assert (again.names, again.checksums, again.files) == (first.names, first.checksums, first.files)
        assert list(config.cache_directory.iterdir()) == [entry]


def test_other_shapes_and_types_are_noticed(config, pixels):
    cache.load_decoded(source(pixels), config)
    (entry,) = config.cache_directory.iterdir()
    for array in (pixels[:, :8], pixels.astype(np.uint16), pixels[:4], np.zeros(5, object)):
        np.save(entry / "images.npy", array, allow_pickle=True)
        forget()
        np.testing.assert_array_equal(cache.load_decoded(source(pixels), config).images, pixels)


def test_a_process_compares_the_checksums_of_an_entry_once(config, pixels, monkeypatch):
    cache.load_decoded(source(pixels), config)
    monkeypatch.setattr(cache, "has_checksums", lambda *_: pytest.fail("compared again"))
    cache.load_decoded(source(pixels), config)


def test_files_that_changed_unseen(config, pixels, capsys):
    """The same name, size and times: the identity of the source does not tell."""
    cache.load_decoded(source(pixels), config)
    others = pixels.copy()
    others[3, 0, 0] ^= 1
    assert cache.load_decoded(source(others), config).images[3, 0, 0, 0] == pixels[3, 0, 0, 0]
    assert capsys.readouterr().out == ""
    checked = cache.load_decoded(source(others), config, check=True)
    np.testing.assert_array_equal(checked.images, others)
    assert "check: 1 of 5 images (3.png, ...) have changed without a new time" in capsys.readouterr().out
    np.testing.assert_array_equal(cache.load_decoded(source(pixels), config).images, others)
    cache.load_decoded(source(others), config, check=True)
    assert capsys.readouterr().out == "check: all 5 images in the cache have the pixels of their files\n"
    assert len(list(config.cache_directory.iterdir())) == 1


def test_a_disk_that_fills_up_is_one_line(config, pixels, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match=r"the image cache needs 0 MB.*set config.data.cache_dir or"):
        cache.load_decoded(source(pixels), config)
    assert list(config.cache_directory.iterdir()) == []


def test_space_is_taken_before_it_is_written(tmp_path):
    file = tmp_path / "sparse"
    with file.open("wb") as opened:
        opened.truncate(2**20)
    before = file.stat().st_blocks
    take_space(file)
    assert file.stat().st_size == 2**20
    assert file.stat().st_blocks >= max(before, 2**20 // 512)
