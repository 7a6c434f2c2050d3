"""A run on files of 12 bits stored in 16: trained, resumed, evaluated, and asked about other files."""

import dataclasses
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from daad_jax.data import cache, datasets
from daad_jax.detection.detector import Detector
from daad_jax.detection.predictions import predict
from daad_jax.evaluation.outputs import evaluate
from daad_jax.training import checkpoint
from daad_jax.training.loop import train
from tests.tiny import tiny_config

RNG = np.random.default_rng(0)
RAMP = np.linspace(0.05, 0.95, 64)


def part():
    """A smooth picture in [0, 1] with fine grain, 64 x 64."""
    return np.clip(np.add.outer(RAMP, RAMP) / 2 + RNG.normal(0, 0.01, (64, 64)), 0, 1)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.rint(4095 * picture).astype(np.uint16))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir and the configuration of a short training."""
    root = tmp_path_factory.mktemp("deep")
    for i in range(24):
        write(root / f"set/train/good/{i:02d}.tif", part())
    for i in range(4):
        write(root / f"set/test/good/{i}.tif", part())
        defect = part()
        defect[20:40, 20:40] = 0.5 + 0.02 * RNG.random()
        write(root / f"set/test/stain/{i}.tif", defect)
    config = tiny_config(
        data__source="folder", data__protocol="inspection", data__path=str(root / "set"), data__channels=1,
        data__fit="resize", data__cache_dir=str(root / "cache"), train__steps=30, train__batch_size=8,
        train__checkpoint_every=30, train__log_every=30, train__devices=1, score__batch_size=1,
        loss__adversarial=0.0, loss__alignment=0.0, score__gamma=1.0,
    )  # fmt: skip
    train(config, root / "run")
    return root / "run", config


def test_12_bits_keep_their_levels(run):
    workdir, config = run
    splits = datasets.load(config)
    assert len(np.unique(splits.train.images[:])) > 1000
    detector = Detector.load(workdir)
    assert (detector.config.data.range, detector.config.data.bits) == ("uint16:0,4095", 16)
    found = detector.score(sorted(map(str, (workdir.parent / "set/test/good").iterdir())))
    assert (found.images.dtype, found.reconstructions.dtype) == (np.uint16, np.uint16)
    good = [i for i, kind in enumerate(splits.test.kinds) if kind == "good"]
    np.testing.assert_array_equal(found.images, splits.test.images[np.array(good)])


def test_the_same_pictures_score_alike_in_every_type(run):
    detector, pictures = Detector.load(run[0]), [part() for _ in range(4)]
    expected = detector.score([np.rint(4095 * x).astype(np.uint16) for x in pictures])
    for others in (
        [np.rint(255 * x).astype(np.uint8) for x in pictures],
        [x.astype(np.float32) for x in pictures],
        pictures,
    ):
        np.testing.assert_allclose(detector.score(others).scores, expected.scores, rtol=0.01)
    assert not expected.clipped.any()


def test_a_run_is_found_again_by_what_the_user_wrote(run, capsys):
    """config.json has the configuration as it was written, and the checkpoint the range that was found."""
    workdir, config = run
    assert json.loads((workdir / "config.json").read_text())["data"]["range"] == "auto"
    train(config, workdir)
    out = capsys.readouterr().out
    assert (
        "The training images have 12 of 16 bits: pixel values 0..4095 become 0..1 (config.data.range)." in out
    )
    assert "nothing is trained" in out


def test_evaluation_uses_the_images_that_were_decoded(run, monkeypatch, capsys):
    workdir, _ = run
    monkeypatch.setattr(cache, "_fill_entry", None)
    evaluation = evaluate(workdir)
    assert evaluation.gallery_detections.images.dtype == np.uint16
    scores = dict(zip(evaluation.test.names, evaluation.scores))
    name = evaluation.test.names[3]
    alone = Detector.load(workdir).score(str(workdir.parent / "set" / name)).scores[0]
    assert scores[name] == pytest.approx(alone, rel=1e-5)
    gallery = evaluation.gallery_detections.scores
    np.testing.assert_allclose(gallery, evaluation.scores[evaluation.gallery_indices], rtol=1e-5)
    assert (workdir / "report.html").stat().st_size > 10_000
    with Image.open(workdir / "gallery.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_values_outside_the_range_are_counted_and_said(run, tmp_path, capsys):
    workdir, _ = run
    for i in range(3):
        write(tmp_path / f"in/{i}.tif", part() * (1 + (i > 0)))
    predict(Detector.load(workdir), [str(tmp_path / "in")], tmp_path / "out", "all")
    lines = capsys.readouterr().out.splitlines()
    first = tmp_path / "in/1.tif"
    says = f"2 images have pixel values outside uint16:0..4095, which were clipped ({first}, ...)."
    assert lines[-1] == says
    with Image.open(next((tmp_path / "out/overlays").glob("0000000-*"))) as picture:
        shown = np.asarray(picture.convert("L")).astype(float)
    assert shown.max() > 200  # an image of 12 bits is shown as bright as it is
    found = Detector.load(workdir).score([np.full((64, 64), value, np.uint16) for value in (4095, 4096)])
    assert found.clipped.tolist() == [False, True]


def test_a_run_from_before_there_were_ranges_scores_as_it_did(run, tmp_path):
    """It was trained on 8 bits, by the full range of the files' types."""
    workdir, _ = run
    state, config, calibration = checkpoint.load(workdir)
    old = dataclasses.replace(config, data=dataclasses.replace(config.data, range="auto", bits=0))
    checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
    checkpoints.save(state, old, calibration)
    checkpoints.close()
    detector = Detector.load(tmp_path)
    assert (detector.config.data.range, detector.config.data.bits) == ("type", 8)
    deep = RNG.integers(0, 65536, (16, 16), np.uint16)
    np.testing.assert_array_equal(detector.prepare(deep)[..., 0], deep // 257)
    shallow = (deep // 257).astype(np.uint8)
    assert detector.score(deep).scores == detector.score(shallow).scores
    assert datasets.load(detector.config).test.images.dtype == np.uint8
