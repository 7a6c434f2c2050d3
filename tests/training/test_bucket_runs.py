"""A run in a bucket, in this process: it is the run of a local folder, and it resumes."""

import json
from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from daad_jax import buckets, uploads
from daad_jax.buckets import open_place
from daad_jax.detection.detector import Detector
from daad_jax.detection.predictions import predict
from daad_jax.method.state import abstract_state, init_state
from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.training import calibration_files, checkpoint
from daad_jax.training.checkpoint import Checkpoints
from daad_jax.training.loop import train
from daad_jax.training.workdir import saved_step
from tests.emulator import BUCKET, needs_emulator, upload_folder
from tests.tiny import tiny_config

pytestmark = [pytest.mark.usefixtures("emulator"), needs_emulator]
STEPS = 4
CALIBRATION = Calibration(*[Unit(1.5, 0.5)] * 4, 2.0, 1.0, 0.05, (0.5, 1.25), (2, 2))


def make_images(folder):
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def config_of(images, steps):
    return tiny_config(
        data__source="folder",
        data__path=str(images),
        data__protocol="inspection",
        model__division=((1, 1, 1), (1, 1, 1)),
        train__steps=steps,
        train__batch_size=8,
        train__log_every=1,
        train__checkpoint_every=1,
        train__max_to_keep=2,
    )


def test_a_checkpoint_in_a_bucket_has_the_state(tmp_path):
    config = tiny_config(model__division=((1, 1, 1), (1, 1, 1)))
    state = init_state(abstract_state(config), 3)
    calibration = CALIBRATION
    run = open_place(f"gs://{BUCKET}/saved")
    for step in (1, 2):
        with closing(Checkpoints(run, max_to_keep=1, create=True)) as checkpoints:
            checkpoints.save(replace(state, step=np.int32(step)), config, calibration)
    # A save that was killed is no checkpoint, and its step can be saved again.
    uploads.create(run / "checkpoints" / "3" / "state" / "half", "of an array")
    assert saved_step(run) == 2
    restored, _, found = checkpoint.load(run)
    assert (int(restored.step), found) == (2, calibration)
    jax.tree.map(np.testing.assert_array_equal, restored.generator.params, state.generator.params)
    with closing(Checkpoints(run, create=True)) as checkpoints:
        checkpoints.save(replace(state, step=np.int32(3)), config, calibration)
    assert saved_step(run) == 3


def test_calibrations_of_a_run_in_a_bucket():
    run, of_training = open_place(f"gs://{BUCKET}/calibrated"), CALIBRATION
    later = replace(CALIBRATION, scores=(0.25, 2.5))
    stored = calibration_files.make(
        of_training, 3, later, rate=0.1, confidence=None, folders=["x"], with_held_out=False, images=[]
    )
    assert calibration_files.read_in_use(run) is None
    calibration_files.store(run, stored)
    assert calibration_files.stored_ids(run) == [stored.label.id]
    assert calibration_files.read_in_use(run) == stored.label.id
    assert calibration_files.read(run, stored.label.id).calibration == later
    calibration_files.put_into_use(run, None)
    assert calibration_files.read_in_use(run) is None


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_of_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    images = make_images(tmp_path / "images")
    upload_folder(images, "runs/images")
    place = f"gs://{BUCKET}/runs"

    train(config_of(images, STEPS), tmp_path / "run")
    run = open_place(f"{place}/run")
    train(config_of(f"{place}/images", STEPS - 1), f"{place}/run")
    # A save that was killed is no checkpoint, and its step is saved again.
    uploads.create(run / "checkpoints" / str(STEPS) / "state" / "half", "of an array")
    assert saved_step(run) == STEPS - 1
    train(config_of(f"{place}/images", STEPS), f"{place}/run")
    assert f"resumed from step {STEPS - 1}" in capsys.readouterr().out
    assert saved_step(run) == STEPS

    log = [json.loads(line) for line in buckets.read_bytes(run / "metrics.jsonl").splitlines()]
    assert [line["step"] for line in log] == list(range(1, STEPS + 1))
    events = [found.name for found in buckets.list_objects(run / "tensorboard")]
    assert len(events) == 2  # one for each start
    local, remote = Detector.load(tmp_path / "run"), Detector.load(f"{place}/run")
    assert local.calibration == remote.calibration
    expected = local.score(sorted(images.iterdir()))
    found = remote.score([f"{place}/images/{file.name}" for file in sorted(images.iterdir())])
    np.testing.assert_array_equal(found.scores, expected.scores)

    predict(local, [str(images)], tmp_path / "out", "all")
    predict(remote, [f"{place}/images"], open_place(f"{place}/out"), "all")
    written = {found.name: found.size for found in buckets.list_objects(open_place(f"{place}/out"))}
    files = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*")}
    assert written.keys() == files
    rows = buckets.read_bytes(open_place(f"{place}/out/scores.csv")).decode()
    assert rows.replace(f"{place}/images", str(images)) == (tmp_path / "out" / "scores.csv").read_text()
