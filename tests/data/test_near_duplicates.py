"""Photos of one part that are divided between training and held out are noticed; similar parts are not."""

import numpy as np
import pytest

from daad_jax.data import near_duplicates
from daad_jax.data.samples import Split, Splits

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def surface(rng, count, smoothness):
    """Random surfaces [count, SIDE, SIDE] without any structure finer than some pixels, of spread 1."""
    spectrum = np.fft.rfft2(rng.normal(size=(count, SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    images = np.fft.irfft2(spectrum * np.exp(-((frequency * smoothness) ** 2)), (SIDE, SIDE))
    return images / images.std(axis=(1, 2), keepdims=True)


def parts(rng, count):
    """Parts of one kind at one place: the same body, and a surface of its own for each of them."""
    body = 100.0 * (np.hypot(ROWS - 31, COLUMNS - 31) < 22)
    return 60 + body + 15 * surface(rng, count, 6)


def screws(rng, count):
    """Long parts that lie at any angle, but are otherwise alike up to a faint surface."""
    angles = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    along = (ROWS - 31) * np.cos(angles) + (COLUMNS - 31) * np.sin(angles)
    across = (ROWS - 31) * np.sin(angles) - (COLUMNS - 31) * np.cos(angles)
    inside = 1 / (1 + np.exp(np.abs(across) - 5 - 0.1 * along)) / (1 + np.exp(np.abs(along) - 22))
    return 60 + 120 * inside + 5 * surface(rng, count, 3)


def photo(rng, part, noise, shift):
    """A photo of a part that moves by up to `shift` pixels, with other light (3 %) and a camera's noise."""
    moves = rng.integers(-shift, shift + 1, 2)
    moved = np.roll(part, moves, axis=(0, 1)) * rng.uniform(0.97, 1.03)
    return np.clip(np.round(moved + rng.normal(0, noise, part.shape)), 0, 255).astype(np.uint8)[..., None]


def bursts(rng, all_parts, each, noise, shift):
    return np.stack([photo(rng, part, noise, shift) for part in all_parts for _ in range(each)])


def divide(rng, images, fraction=0.1):
    order = rng.permutation(len(images))
    count = round(fraction * len(images))
    return order[:count], order[count:]


@pytest.mark.parametrize("make", [parts, screws])
@pytest.mark.parametrize("noise", [1, 3])
@pytest.mark.parametrize("shift", [0, 1])
def test_bursts_are_found(make, noise, shift):
    rng = np.random.default_rng(noise)
    images = bursts(rng, make(rng, 80), 3, noise, shift)
    held_out, train = divide(rng, images)
    found = near_duplicates.find(images[held_out], images[train])
    assert len(found.pairs) > len(held_out) / 2
    assert all(held_out[i] // 3 == train[j] // 3 for i, j in found.pairs)
    assert not found.identical


@pytest.mark.parametrize("make", [parts, screws])
def test_one_photo_of_every_part_is_no_burst(make):
    rng = np.random.default_rng(5)
    images = bursts(rng, make(rng, 300), 1, 2, 1)
    held_out, train = divide(rng, images)
    found = near_duplicates.find(images[held_out], images[train])
    assert found == near_duplicates.NearDuplicates([], [], len(held_out))


def test_parts_that_differ_by_noise_only_are_no_burst():
    """All pairs are then alike, and new parts will look like these."""
    rng = np.random.default_rng(0)
    images = bursts(rng, np.repeat(parts(rng, 1), 200, axis=0), 1, 2, 0)
    held_out, train = divide(rng, images)
    assert not near_duplicates.find(images[held_out], images[train]).pairs


def test_another_type_of_pixels_makes_no_difference():
    rng = np.random.default_rng(1)
    images = np.repeat(bursts(rng, parts(rng, 40), 3, 1, 1), 3, axis=-1)
    held_out, train = divide(rng, images)
    found = near_duplicates.find(images[held_out], images[train])
    deep = images.astype(np.uint16) * 257
    assert near_duplicates.find(deep[held_out], deep[train]) == found
    assert found.pairs


@pytest.mark.parametrize("shape", [(16, 16, 3), (8, 20, 1), (2, 4, 1), (300, 70, 1)])
def test_copies_are_found_at_any_size(shape):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (40, *shape)).astype(np.uint8)
    held_out = images[[3, 7, 11]].copy()
    held_out[1] = 255 - held_out[1]
    found = near_duplicates.find(held_out, images)
    assert found.identical == [(0, 3), (2, 11)]
    assert set(found.identical) <= set(found.pairs)


def test_flat_images_are_no_error():
    flat = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    assert not near_duplicates.find(flat[:4], flat[4:]).pairs
    assert near_duplicates.find(flat[:2], flat[:3]).identical == [(0, 0), (1, 1)]


def test_distances_against_plain_ones(monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(near_duplicates, "ROWS_AT_ONCE", 3)
    a, b = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    found = np.concatenate(list(near_duplicates._distances(a, b)))
    np.testing.assert_allclose(found, ((a[:, None] - b) ** 2).sum(-1), rtol=1e-4)


def test_the_warning_names_counts_pairs_and_the_remedy(monkeypatch):
    rng = np.random.default_rng(4)
    images = bursts(rng, parts(rng, 50), 2, 1, 0)
    names = [f"p{i // 2}/{i % 2}.png" for i in range(100)]
    held_out, train = np.arange(0, 12, 2), np.setdiff1d(np.arange(100), np.arange(0, 12, 2))
    images[held_out[0]] = images[1]

    def split(indices):
        return Split(
            images[indices], np.zeros(len(indices)), ["good"] * len(indices), [names[i] for i in indices]
        )

    splits = Splits(split(train), split(held_out), split(held_out[:0]), [], "")
    (note,) = near_duplicates.warn(splits, "")
    assert note.startswith(
        "warning: 6 of 6 held-out images show nearly the same as an image that trains, 1 of them exactly the "
        "same, for instance p0/0.png and p0/1.png; p1/0.png and p1/1.png. "
    )
    assert "set config.data.group so that" in note
    assert "choose another config.data.group than 'folder'" in near_duplicates.warn(splits, "folder")[0]
    monkeypatch.setattr(near_duplicates, "MAX_CHECKED", 2)
    assert "warning: at least 3 of 6 held-out" in near_duplicates.warn(splits, "")[0]
    alone = Splits(split(train[12:]), split(held_out), split(held_out[:0]), [], "")
    assert near_duplicates.warn(alone, "") == []
