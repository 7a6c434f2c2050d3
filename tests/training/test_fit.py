"""Memories that are filled with blocks of images: their scaling, and whole runs on made-up images."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf

from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.extractors.extractor import Extractor
from daad_jax.method.features import abstract_features, needed_layers
from daad_jax.training import block_sample, checkpoint
from daad_jax.training.block_sample import ImageReader
from daad_jax.training.fit import measure_scaling
from daad_jax.training.loop import train
from daad_jax.training.suspects import read_suspects
from tests.extractors.test_extractor import random_params
from tests.tiny import tiny_feature_config

RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((5, 5))


def correlated(count):
    return (RNG.standard_normal((count, 5)) @ MIX * [1, 10, 0.1, 1, 1] + 3).astype(np.float32)


def transformed(blocks, scaling):
    centred, transform = blocks - scaling["mean"], scaling["transform"]
    return centred * transform if transform.ndim == 1 else centred @ transform


def test_whitened_blocks_are_not_correlated():
    blocks = correlated(20_000)
    scaled = transformed(blocks, measure_scaling(blocks, "whitened"))
    np.testing.assert_allclose(np.cov(scaled.T), np.eye(5), atol=0.02)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-3)


def test_few_blocks_are_whitened_as_ledoit_and_wolf_say():
    blocks = correlated(12)
    scaling = measure_scaling(blocks, "whitened")
    spread = blocks.std(0, dtype=np.float64)
    expected = LedoitWolf(assume_centered=True).fit((blocks - blocks.mean(0)) / spread)
    assert 0.02 < expected.shrinkage_ < 1
    transform = spread[:, None] * scaling["transform"]
    np.testing.assert_allclose(transform @ transform.T, expected.precision_, rtol=1e-3, atol=1e-3)


def test_standardised_and_raw():
    blocks = correlated(50)
    scaled = transformed(blocks, measure_scaling(blocks, "standardised"))
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-4)
    np.testing.assert_array_equal(transformed(blocks, measure_scaling(blocks, "raw")), blocks)


@pytest.mark.parametrize("kind", ["raw", "standardised", "whitened"])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_constant_channels_and_few_blocks_stay_finite(kind, count):
    blocks = correlated(count)
    blocks[:, 1] = 7
    scaling = measure_scaling(blocks, kind)
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in scaling.values())
    assert np.abs(transformed(blocks, scaling)).max() < 1e3


def make_images(count):
    """Smooth stripes with a little noise, uint8 `[count, 64, 64, 3]`."""
    y, x = np.mgrid[:64, :64]
    stripes = 120 + 40 * np.sin(0.4 * x + 0.1 * y)[None, :, :, None]
    return (stripes + RNG.normal(0, 4, (count, 64, 64, 3))).clip(0, 255).astype(np.uint8)


def with_square(images):
    """A defect: squares of 4 pixels, black and white."""
    changed = images.copy()
    changed[:, 20:36, 20:36] = np.kron(np.indices((4, 4)).sum(0) % 2, np.full((4, 4), 255))[..., None]
    return changed


@pytest.fixture(scope="module", autouse=True)
def extractor():
    """Random parameters, so that these tests need no weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Extractor, "load", lambda self, layers, weights="": random_params(self, layers))
        yield


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])


@pytest.fixture(scope="module")
def images():
    return make_images(24)


@pytest.fixture(scope="module")
def workdir(images, tmp_path_factory):
    """A run whose items come from the data."""
    path = tmp_path_factory.mktemp("runs") / "coreset"
    train(tiny_feature_config(), path, data=images)
    return path


@pytest.fixture(scope="module")
def detector(workdir):
    return Detector.load(workdir)


def test_a_run_finds_what_is_not_normal(detector):
    normal, square = make_images(3), with_square(make_images(3))
    found = detector.score(np.concatenate([normal, square]))
    assert found.scores[:3].max() * 1.5 < found.scores[3:].min()
    assert found.anomalous.tolist() == (found.scores > detector.threshold).tolist()
    assert found.anomalous[3:].all()
    assert found.reconstructions is None
    assert found.heat.shape == (6, 64, 64)
    for heat in found.heat[3:]:
        row, column = np.unravel_index(heat.argmax(), (64, 64))
        assert 12 <= row < 44
        assert 12 <= column < 44


@pytest.mark.parametrize("is_kept", [True, False])
def test_images_are_read_once_if_their_blocks_are_kept(images, monkeypatch, is_kept):
    config = tiny_feature_config()
    reader = ImageReader(config, random_params(*needed_layers(config.model)), False)
    size = sum(each.nbytes for _, blocks in reader.read(images, "") for each in blocks)
    monkeypatch.setattr(block_sample, "MAX_KEPT_BYTES", size if is_kept else size - 1)
    reader.sample(images, "")
    expected = list(reader.read(images, ""))
    if is_kept:
        monkeypatch.setattr(reader, "read", None)
    again = list(reader.read_again(images, ""))
    assert [rows for rows, _ in again] == [rows for rows, _ in expected]
    for (_, found), (_, known) in zip(again, expected):
        jax.tree.map(np.testing.assert_array_equal, found, known)
    if not is_kept:
        assert reader._kept == []


def test_a_second_training_does_nothing(workdir, images, capsys):
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert train(tiny_feature_config(), workdir, data=images).step == 1
    assert "the memories of this run are filled already; nothing is done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_the_state_has_the_shapes_that_its_configuration_tells(workdir):
    state, config, _ = checkpoint.load(workdir)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.features)
    assert shapes == abstract_features(config)
    assert (state.generator, state.discriminator, int(state.step)) == (None, None, 1)
    assert config.model.memory_items == (40, 8)


def test_scores_do_not_depend_on_the_batch(workdir, detector):
    pictures = np.concatenate([make_images(2), with_square(make_images(1))])
    together = detector.score(pictures)
    alone = [detector.score(picture[None]) for picture in pictures]
    np.testing.assert_array_equal([one.scores[0] for one in alone], together.scores)
    large = Detector.load(workdir, batch_size=8)
    assert large.batch_size > detector.batch_size
    found = large.score(pictures)
    np.testing.assert_allclose(found.scores, together.scores, rtol=1e-4)
    np.testing.assert_allclose(found.heat, together.heat, rtol=1e-3, atol=1e-3)


def test_features_that_are_not_finite_are_refused(images, tmp_path, monkeypatch):
    says = "the features of the training images are not finite; give other weights"
    monkeypatch.setattr(Extractor, "load", lambda self, layers, _: broken_params(self, layers))
    with pytest.raises(UserError, match=says):
        train(tiny_feature_config(), tmp_path / "run", data=images)
    blocks = np.ones((4, 3), np.float32)
    blocks[2, 1] = np.inf
    for kind in ("raw", "standardised", "whitened"):
        with pytest.raises(UserError, match=says):
            measure_scaling(blocks, kind)


def test_equal_training_images_are_refused(images, tmp_path):
    with pytest.raises(UserError, match="all training images have the same pixels"):
        train(tiny_feature_config(), tmp_path / "run", data=np.repeat(images[:1], 6, 0))


def broken_params(extractor, layers):
    return jax.tree.map(lambda leaf: leaf * np.float32(np.nan), random_params(extractor, layers))


def test_one_device_chooses_the_items_of_eight(workdir, images, tmp_path, one_device):
    train(tiny_feature_config(), tmp_path / "one", data=images)
    one, eight = checkpoint.load(tmp_path / "one")[0], checkpoint.load(workdir)[0]
    for a, b in zip(one.features["memories"], eight.features["memories"]):
        # Rounding may turn the axes of whitened features, but it does not change distances.
        for name in ("mean", "unit"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)
        expected = cdist(b["items"], b["items"])
        np.testing.assert_allclose(cdist(a["items"], a["items"]), expected, atol=1e-2 * expected.max())


def test_the_place_counts_if_it_should(images, tmp_path):
    """Fewer blocks than items, another kind of scaling, and three items that are read."""
    config = tiny_feature_config(
        model__place_weight=1.0, model__feature_scaling="standardised", model__memory_items=(30, 1000),
        model__nearest=3,
    )  # fmt: skip
    train(config, tmp_path / "run", data=images)
    state, found, _ = checkpoint.load(tmp_path / "run")
    blocks, whole = state.features["memories"]
    assert found.model.memory_items == (30, 22) == (len(blocks["items"]), len(whole["items"]))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.features)
    assert shapes == abstract_features(found)
    places = {round(float(x) / float(blocks["place"]), 4) for x in blocks["items"][:, -2:].flat}
    assert places <= {-0.375, -0.125, 0.125, 0.375}
    turned = Detector.load(tmp_path / "run").score(np.concatenate([images[:2], images[:2, ::-1]]))
    assert np.isfinite(turned.scores).all()


def test_a_defect_among_the_good_images_is_the_first_suspect(images, tmp_path, capsys):
    """Its own blocks are items, too, but an image is not compared with items of its own."""
    dirty = images.copy()
    dirty[5] = with_square(images[5:6])[0]
    config = tiny_feature_config(model__memory_items=(4000, 4000), model__nearest=50)
    train(config, tmp_path, data=dirty)
    _, found, _ = checkpoint.load(tmp_path)
    assert found.model.nearest == min(found.model.memory_items)  # no more items can be read than there are
    first = read_suspects(tmp_path)[0]
    assert first.name in capsys.readouterr().out
    assert first.name == "image 5"
    assert first.score > 1


def test_a_tile_is_not_compared_with_tiles_of_its_own_image(tmp_path, capsys):
    """Tiles overlap, so a defect in one tile of an image is often in another one, too."""
    images = [np.concatenate(list(make_images(2)), 1)[:, :112] for _ in range(12)]
    images[5] = images[5].copy()
    images[5][:, 44:68] = with_square(images[5][None, :, 28:92])[0, :, 16:40]  # in the overlap of both tiles
    config = tiny_feature_config(
        model__memory_items=(4000, 4000), model__place_weight=-1.0, data__tiles=64, data__fit="resize",
    )  # fmt: skip
    train(config, tmp_path, data=images)
    state, found, _ = checkpoint.load(tmp_path)
    assert found.model.memory_items == (22 * 16, 22)  # of two tiles of each of the eleven training images
    assert "the place of a block does not count in tiles" in capsys.readouterr().out
    assert found.model.place_weight == 0
    assert "place" not in state.features["memories"][0]
    suspects = read_suspects(tmp_path)
    assert len(suspects) == 11
    assert suspects[0].name == "image 5"
    assert suspects[0].score > 1.5 * suspects[1].score
    assert min(suspect.score for suspect in suspects) > 0.1


@pytest.mark.slow
def test_networks_learn_to_reconstruct_features(images, tmp_path, capsys, one_device):
    config = tiny_feature_config(
        model__items="learned", model__blocks=(8,), model__feature_layers=((1,),), model__levels=2,
        model__feature_scaling="standardised", train__steps=2, train__batch_size=8,
    )  # fmt: skip
    run = tmp_path / "run"
    train(config, run, data=images)
    frozen = checkpoint.load(run)[0].features
    config.train.steps = 3
    assert train(config, run, data=images).step == 3
    assert "resumed from step 2" in capsys.readouterr().out
    state, _, _ = checkpoint.load(run)
    jax.tree.map(np.testing.assert_array_equal, state.features, frozen)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.features)
    assert shapes == abstract_features(config)
    detector = Detector.load(run)
    found = detector.score(np.concatenate([images[:3], with_square(images[:3])]))
    assert found.reconstructions is None
    assert found.heat.shape == (6, 64, 64)
    assert found.alignment.min() > 0
    assert (found.scores[:3] < found.scores[3:]).all()
    for change in found.heat[3:] - found.heat[:3]:
        row, column = np.unravel_index(change.argmax(), (64, 64))
        assert 12 <= row < 44
        assert 12 <= column < 44
