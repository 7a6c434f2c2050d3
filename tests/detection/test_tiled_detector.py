"""Runs on large images in tiles: scores, heat maps and files are about whole images."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from daad_jax.data.image_files import ImageFile
from daad_jax.data.tiles import TileGrid
from daad_jax.detection.detector import Detector
from daad_jax.detection.predictions import predict
from daad_jax.evaluation import figures
from daad_jax.evaluation.metrics import compute_pixel_metrics
from daad_jax.evaluation.outputs import evaluate
from daad_jax.export import exporter
from daad_jax.method import state
from daad_jax.scoring.anomaly_score import Unit
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import checkpoint, run_data
from daad_jax.training.loop import train
from daad_jax.training.suspects import read_suspects
from tests.tiny import tiny_config

RNG = np.random.default_rng(0)
SIZES = [(40, 24), (16, 16), (30, 70), (12, 33), (50, 50)]


def tiled(**changes):
    tiles = {"data__tiles": 20, "data__fit": "resize", "score__gamma": 0.5, "score__batch_size": 3}
    return tiny_config(**tiles | changes)


def pictures(sizes):
    return [RNG.integers(90, 110, (*size, 3), np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(scope="module")
def networks():
    return state.create_state(tiled())


@pytest.fixture(scope="module")
def held_out():
    """The tiles of images of many sizes, and their grids."""
    config = tiled()
    images = pictures([(int(h), int(w)) for h, w in RNG.integers(10, 60, (12, 2))])
    grids = [TileGrid.of(image.shape[:2], config.data) for image in images]
    tiles = [
        np.asarray(Image.fromarray(image[b.top : b.bottom, b.left : b.right]).resize((16, 16), 2))
        for image, grid in zip(images, grids)
        for b in grid.boxes()
    ]
    return np.stack(tiles), grids


@pytest.fixture(scope="module")
def calibration(one_device, networks, held_out):
    tiles, grids = held_out
    return Scorer(tiled()).calibrate(variables_of(networks), tiles, grids=grids)


@pytest.fixture(scope="module")
def detector(networks, calibration):
    return Detector(networks, tiled(), calibration)


def test_images_calibrate_and_not_tiles(networks, held_out, calibration):
    tiles, grids = held_out
    scorer = Scorer(tiled())
    parts = [d for _, d in scorer.distances(scorer.place(variables_of(networks)), scorer.split(tiles))]
    r, alignment, r_maps, l_maps = (np.concatenate(part) for part in list(zip(*parts))[:4])
    ends = np.cumsum([grid.count for grid in grids])
    images = [slice(end - grid.count, end) for end, grid in zip(ends, grids)]

    def joined(maps):
        for image, grid in zip(images, grids):
            joiner = grid.blend()
            for values in maps[image]:
                joiner.add(values)
            yield joiner.finish()

    assert calibration.reconstruction.mean == pytest.approx(np.mean([r[image].max() for image in images]))
    assert calibration.alignment.std == pytest.approx(np.std([alignment[image].max() for image in images]))
    scores = calibration.score(r.astype(float), alignment.astype(float))
    expected = sorted(scores[image].max() for image in images)
    np.testing.assert_allclose(calibration.scores, expected, rtol=1e-6)
    assert 0.9 < np.mean(calibration.scores) <= 1 + 1e-6
    pixels = np.concatenate([values.ravel() for values in joined(r_maps)])
    unit = Unit.measure(pixels)
    assert calibration.reconstruction_map.mean == pytest.approx(unit.mean, rel=1e-5)
    assert calibration.reconstruction_map.std == pytest.approx(unit.std, rel=1e-5)
    peaks = [calibration.heat(*maps).max() for maps in zip(joined(r_maps), joined(l_maps))]
    assert np.quantile(peaks, 0.95) == pytest.approx(1, rel=1e-4)


def test_an_image_has_the_score_of_its_least_normal_tile(detector):
    images = pictures(SIZES)
    images[2][20:26, 50:58] = 255
    found = detector.score(images)
    assert len(found) == len(found.heat) == len(found.images) == len(found.reconstructions) == 5
    for i, image in enumerate(images):
        tiles = detector.prepare(image)
        grid = TileGrid.of(image.shape[:2], detector.config.data)
        assert tiles.shape == (grid.count, 16, 16, 3)
        alone = [next(detector.score_prepared(tile[None])) for tile in tiles]
        worst = max(alone, key=lambda one: one.scores[0])
        np.testing.assert_allclose(found.scores[i], worst.scores[0], rtol=1e-5)
        np.testing.assert_allclose(found.reconstruction[i], worst.reconstruction[0], rtol=1e-5)
        np.testing.assert_allclose(found.alignment[i], worst.alignment[0], rtol=1e-5)
        joiner = grid.blend()
        for one in alone:
            joiner.add(one.heat[0])
        np.testing.assert_allclose(found.heat[i], joiner.finish(), rtol=1e-3, atol=1e-3)
        assert found.images[i].shape == found.reconstructions[i].shape == (*grid.joined_size, 3)
    np.testing.assert_array_equal(found.p_values, detector.calibration.p_value(found.scores))
    row, column = np.unravel_index(found.heat[2].argmax(), found.heat[2].shape)
    assert abs(row / 0.8 - 23) < 8
    assert abs(column / 0.8 - 54) < 8


def test_scores_do_not_depend_on_how_tiles_are_batched(detector, networks, calibration):
    images = pictures(SIZES)
    expected = detector.score(images)
    reversed_order = detector.score(images[::-1])
    np.testing.assert_allclose(reversed_order.scores[::-1], expected.scores, rtol=1e-5)
    found = Detector(networks, tiled(), calibration, 5).score(images)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    for a, b in zip(found.heat, expected.heat):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    # Images behind an image change nothing, to the last bit.
    np.testing.assert_array_equal(detector.score(images[:3]).scores, expected.scores[:3])


def test_files_are_scored_as_pictures_are_and_broken_ones_are_named(detector, tmp_path):
    images = pictures(SIZES)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "1a.png").write_text("no image")
    (tmp_path / "9.png").write_text("no image")
    expected = detector.score(images).scores
    files = [ImageFile(path) for path in sorted(tmp_path.iterdir())]
    entries, scores = [], []
    for of_batch, detections in detector.stream(files):
        entries += of_batch
        scores += [] if detections is None else detections.scores.tolist()
        assert detections is None or len(detections.clipped) == len(detections)
    assert [entry.file.path.name for entry in entries if entry.error] == ["1a.png", "9.png"]
    assert [entry.file for entry in entries] == files
    np.testing.assert_array_equal(scores, expected)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with defects in large images; one of the good images has a spot, too."""
    root = tmp_path_factory.mktemp("tiled")
    sizes = [(40, 50), (33, 20), (48, 48)]
    for part, count in (("train/good", 24), ("test/good", 3), ("test/spot", 3)):
        (root / "set" / part).mkdir(parents=True)
        for i, image in enumerate(pictures([sizes[n % 3] for n in range(count)])):
            if part == "test/spot" or (part, i) == ("train/good", 7):
                image[22:30, 8:16] = 255
            Image.fromarray(image).save(root / "set" / part / f"{i}.png")
    (root / "set/ground_truth/spot").mkdir(parents=True)
    for i in range(3):
        mask = np.zeros(sizes[i], np.uint8)
        mask[22:30, 8:16] = 255
        Image.fromarray(mask).save(root / "set/ground_truth/spot" / f"{i}_mask.png")
    return root


@pytest.fixture(scope="module")
def workdir(place, one_device):
    config = tiled(
        data__source="folder", data__path=str(place / "set"), data__protocol="inspection",
        data__cache_dir=str(place / "cache"), train__steps=10, train__batch_size=8, score__gamma=1.0,
        loss__adversarial=0.0, loss__alignment=0.0, score__false_alarm_rate=0.3, score__pooling=8,
    )  # fmt: skip
    result = train(config, place / "run")
    assert (result.train_images, result.held_out_images, result.test_images) == (22, 2, 6)
    return place / "run"


def test_a_run_remembers_images(workdir):
    stored = json.loads((workdir / "data.json").read_text())
    assert stored["normal_images"] == 24
    assert len(stored["images"]) == len({image["name"] for image in stored["images"]}) == 24
    assert len(checkpoint.load(workdir)[2].scores) == 2
    names = [suspect.name for suspect in read_suspects(workdir)]
    assert len(names) == len(set(names)) == 20
    roles = {image["name"]: image["role"] for image in stored["images"]}
    assert {roles[name] for name in names} == {"trained"}
    if roles["train/good/7.png"] == "trained":
        assert names[0] == "train/good/7.png"


def test_an_evaluation_is_about_images(workdir, place, monkeypatch):
    evaluation = evaluate(workdir)
    assert evaluation.image_metrics["auroc"] == 1
    with (workdir / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    detector = Detector.load(workdir)
    found = detector.score([place / "set" / row["name"] for row in rows])
    np.testing.assert_allclose([float(row["A"]) for row in rows], found.scores, rtol=1e-5)
    # Pixels are compared over whole images, at the resolution of the tiles.
    test = run_data.load_splits(workdir, detector.config).test
    masks = [test.mask(i) for i in range(6)]
    assert [mask.shape for mask in masks] == [heat.shape for heat in found.heat]
    metrics = compute_pixel_metrics(masks, found.heat)
    assert evaluation.pixel_metrics == pytest.approx(metrics, abs=1e-3)
    assert metrics["pixel_auroc"] > 0.9
    # Of very large maps, some rows and columns are compared. Pictures of the report are small.
    monkeypatch.setattr(figures, "MAX_FIGURE_PIXELS", sum(mask.size for mask in masks) // 3)
    monkeypatch.setattr(figures, "MAX_GALLERY_SIDE", 20)
    coarse = figures.evaluate_split(detector, test)
    assert coarse.pixel_stride == 2
    expected = compute_pixel_metrics([m[::2, ::2] for m in masks], [h[::2, ::2] for h in found.heat])
    assert coarse.pixel_metrics == pytest.approx(expected, abs=1e-3)
    gallery = coarse.gallery_detections
    assert [heat.shape for heat in gallery.heat] == [image.shape[:2] for image in gallery.images]
    assert {max(heat.shape) for heat in gallery.heat} == {20}
    assert "spot" in (workdir / "report.html").read_text()


def test_predictions_draw_overlays_at_the_size_of_the_file(workdir, place, tmp_path):
    predict(Detector.load(workdir), [str(place / "set/test")], tmp_path / "out", "all")
    with (tmp_path / "out/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        with Image.open(tmp_path / "out" / row["overlay"]) as overlay, Image.open(row["name"]) as image:
            assert overlay.size == image.size


@pytest.mark.slow
def test_an_exported_file_scores_one_tile(workdir, tmp_path, capsys):
    paths = exporter.export(workdir, ["stablehlo"], output=tmp_path)
    assert "Such a file scores one tile (config.data.tiles = 20)" in capsys.readouterr().out
    about = json.loads((tmp_path / "model.json").read_text())
    assert (about["tiles"], about["height"], about["width"]) == (20, 16, 16)
    detector = Detector.load(workdir)
    image = pictures([(45, 61)])[0]
    run = exporter.load_stablehlo(paths["stablehlo"])
    assert max(run(detector.prepare(image))["score"]) == pytest.approx(
        detector.score(image).scores[0], rel=1e-3
    )
