"""A score depends on the image alone, not on other images of the call, nor on the form of the input."""

import jax
import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.data.image_files import ImageFile
from daad_jax.data.samples import Split
from daad_jax.detection.detections import Detections
from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.evaluation.figures import evaluate_split
from daad_jax.method import state
from daad_jax.method.step import make_train_step
from daad_jax.scoring.scorer import Scorer, variables_of

RNG = np.random.default_rng(0)


def small() -> Config:
    config = Config()
    config.data.height = config.data.width = 32
    config.data.fit = "resize"
    config.model.base_width = config.model.discriminator_width = 8
    config.model.memory_items = (6,) * 4
    config.score.gamma, config.score.distance, config.score.smoothing = 0.5, "cosine", 1.0
    config.train.learning_rate = 1e-3
    return config


def striped(count):
    images = np.tile(np.arange(32, dtype=np.uint8) % 8 * 20, (count, 32, 1))[..., None]
    return np.repeat(images, 3, -1) + RNG.integers(0, 30, (count, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def trained():
    config = small()
    current = state.create_state(config)
    step = jax.jit(make_train_step(config))
    for _ in range(30):
        current, _ = step(current, striped(8))
    return current, config, Scorer(config).calibrate(variables_of(current), striped(40))


@pytest.fixture(scope="module")
def detector(trained):
    return Detector(*trained)


def test_company_does_not_matter(detector):
    images = striped(64)
    images[5, 8:20, 8:20] = 255
    whole = detector.score(images)
    other = striped(64)
    other[3:9] = images[3:9]
    for company in (other, other[:9]):
        found = detector.score(company)
        for name in Detections.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(found, name)[3:9], getattr(whole, name)[3:9])


def test_order_and_batches_change_the_last_digits_at_most(detector):
    images = striped(64)
    images[5, 8:20, 8:20] = 255
    whole = detector.score(images)
    for size in (1, 7):
        parts = [detector.score(images[i : i + size]) for i in range(0, 14, size)]
        for name in Detections.__dataclass_fields__:
            if name == "calibration":
                assert {part.calibration for part in parts} == {whole.calibration}
                continue
            apart = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(apart, getattr(whole, name)[:14])
    order = RNG.permutation(64)
    np.testing.assert_allclose(detector.score(images[order]).scores, whole.scores[order], rtol=1e-6)


def test_another_batch_size_changes_the_last_digits_at_most(trained, detector):
    images = striped(16)
    whole, other = detector.score(images), Detector(*trained, batch_size=1)
    assert other.batch_size < detector.batch_size
    np.testing.assert_allclose(other.score(images).scores, whole.scores, rtol=1e-4)


def test_one_rule_decides(detector):
    found = detector.score(striped(64))
    np.testing.assert_array_equal(found.anomalous, found.scores > detector.threshold)
    assert detector.threshold == detector.calibration.threshold_at(0.05)


def test_a_defect_is_found_where_it_is(detector):
    image = striped(1)[0]
    image[8:16, 20:28] = 255
    found = detector.score(image)
    assert found.anomalous.tolist() == [True]
    assert found.p_values[0] == pytest.approx(1 / 41)
    row, column = np.unravel_index(found.heat[0].argmax(), (32, 32))
    assert 6 <= row < 18
    assert 18 <= column < 30
    assert found.heat.max() > 1
    np.testing.assert_array_equal(found.images[0], image)
    assert found.reconstructions.shape == (1, 32, 32, 3)


def test_files_and_arrays_are_the_same(detector, tmp_path):
    large = RNG.integers(0, 256, (50, 70, 3), np.uint8)
    grey = RNG.integers(0, 256, (40, 40), np.uint8)
    wide = grey.astype(np.uint16) * 257
    Image.fromarray(large).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "b.bmp")
    Image.fromarray(wide).save(tmp_path / "c.png")
    paths = [tmp_path / name for name in ("a.png", "b.bmp", "c.png")]
    from_files = detector.score(map(str, paths))
    from_arrays = detector.score([large, grey[..., None], wide])
    np.testing.assert_array_equal(from_files.scores, from_arrays.scores)
    np.testing.assert_array_equal(from_files.images, from_arrays.images)
    np.testing.assert_array_equal(detector.score(paths[0]).scores, from_files.scores[:1])


def test_streams_keep_the_order_and_go_past_bad_files(detector, tmp_path):
    paths, good = [], []
    for i in range(2 * detector.batch_size + 3):
        paths.append(tmp_path / f"{i:03d}.png")
        if i % 5 == 3:
            paths[-1].write_text("no image")
        else:
            good.append(striped(1)[0])
            Image.fromarray(good[-1]).save(paths[-1])
    entries, scores = [], []
    for some, found in detector.stream(map(ImageFile, paths)):
        entries += some
        scores += [] if found is None else found.scores.tolist()
    assert [entry.file.path for entry in entries] == paths
    assert [i for i, entry in enumerate(entries) if entry.error] == list(range(3, len(paths), 5))
    assert "003.png: the image cannot be read" in str(entries[3][1])
    assert entries[3][1].__traceback__ is None  # a traceback would keep the decoded image
    np.testing.assert_array_equal(scores, detector.score(np.stack(good)).scores)
    broken = list(detector.stream([ImageFile(paths[3]), ImageFile(tmp_path / "none.png")]))
    assert [len(broken), broken[0][1]] == [1, None]
    assert "none.png" in str(broken[0][0][1][1])


def test_a_score_that_is_not_finite_names_its_image(trained, tmp_path, monkeypatch):
    """It is an error in every way to score, and no verdict."""
    detector, images = Detector(*trained, batch_size=1), striped(30)
    score_all = detector._scorer.distances

    def distances(placed, batches):
        """As if the model gave no number for one image, or for a place of it."""
        for batch, found in score_all(placed, batches):
            is_bad = (batch == images[20]).all(axis=(1, 2, 3))
            values = np.where(is_bad, value, found.reconstruction)
            maps = np.where(is_bad[:, None, None], value, found.reconstruction_map)
            name, changed = ("reconstruction", values) if in_score else ("reconstruction_map", maps)
            yield batch, found._replace(**{name: changed})

    monkeypatch.setattr(detector._scorer, "distances", distances)
    paths = [tmp_path / f"{i:02d}.png" for i in range(30)]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    paths.insert(3, tmp_path / "none.png")
    names = [f"name {i}" for i in range(30)]
    for value, in_score in ((np.nan, True), (np.inf, True), (np.nan, False)):
        shown = rf"\({value}\)" if in_score else ""
        says = rf"20\.png: its score .*{shown}.* is not finite, so there is no verdict; the model of step 30"
        for part in (images[:20], images[21:]):
            assert np.isfinite(detector.score(part).scores).all()
        with pytest.raises(UserError, match=r"^image 20: its score"):
            detector.score(images)
        with pytest.raises(UserError, match=says):
            detector.score([path for path in paths if path.name != "none.png"])
        with pytest.raises(UserError, match=r"^name 20: its score"):
            list(detector.score_prepared(images, names))
        with pytest.raises(UserError, match=says):
            list(detector.stream(map(ImageFile, paths)))
        split = Split(images, np.arange(30) % 2, [""] * 30, names, None)
        with pytest.raises(UserError, match=r"^name 20: its score"):
            evaluate_split(detector, split)


def test_a_file_of_several_images_is_no_single_image(detector, tmp_path):
    pages = [Image.fromarray(image) for image in striped(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    for source in (tmp_path / "stack.tif", (tmp_path / "stack.tif").read_bytes()):
        with pytest.raises(UserError, match="the file holds 3 images, but one is expected; give its pages"):
            detector.score([source])


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "no images"),
        (np.zeros((4, 4, 3), np.int64), "image 0: the array is of type int64"),
        ([np.zeros((4, 4), np.uint8), np.zeros((4, 4, 7), np.uint8)], "image 1: the array has the shape"),
        (np.zeros((0, 4), np.uint8), "image 0: the array has the shape"),
        ("nowhere.png", "nowhere.png: this file does not exist"),
    ],
)
def test_what_is_no_image_is_named(detector, images, says):
    with pytest.raises(UserError, match=says):
        detector.score(images)


def test_an_exact_size_is_an_exact_size(detector):
    detector.config.data.fit = "exact"
    try:
        with pytest.raises(UserError, match="image 0: the image has 9 x 8 pixels"):
            detector.score(np.zeros((9, 8, 3), np.uint8))
    finally:
        detector.config.data.fit = "resize"
