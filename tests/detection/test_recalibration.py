"""Calibrating a finished run: the same scores, images that are left out, history, and the command itself."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax.data.samples import Split
from daad_jax.detection import detector as detector_module
from daad_jax.detection import recalibration
from daad_jax.detection.detector import Detector
from daad_jax.detection.recalibration import calibrate_run, say_calibrations
from daad_jax.errors import UserError
from daad_jax.evaluation import outputs
from daad_jax.export.metadata import metadata
from daad_jax.training import calibrations, checkpoint, run_data
from daad_jax.training.checkpoint import Checkpoints
from tests.tiny import filled_state, tiny_config, tiny_feature_config
from tests.untrained_run import make_run, reused_scorer

ROOT = Path(__file__).parents[2]
LOADED = {}


@pytest.fixture(autouse=True)
def compile_and_load_once(monkeypatch):
    for module in (recalibration, detector_module):
        monkeypatch.setattr(module, "Scorer", reused_scorer)
    load = checkpoint.load

    def load_once(workdir):
        key = "".join(str(sorted((workdir / "checkpoints").glob("*"))[-1].name))
        about = (workdir / "checkpoints" / key / "about" / "metadata").read_bytes()
        return LOADED.setdefault(about, None) or LOADED.update({about: load(workdir)}) or LOADED[about]

    monkeypatch.setattr(checkpoint, "load", load_once)


def draw(folder, count, seed, low=90, high=110, size=(16, 16)):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(rng.integers(low, high, (*size, 3), np.uint8)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrate")
    os.environ["DAAD_CACHE_DIR"] = str(folder / "cache")
    yield folder
    del os.environ["DAAD_CACHE_DIR"]


@pytest.fixture(scope="module")
def made(root):
    draw(root / "set", 60, 0)
    draw(root / "new", 25, 1)
    config = tiny_config(
        data__source="folder", data__path=str(root / "set"), data__calibration_fraction=0.4,
        data__protocol="inspection", score__batch_size=4,
    )  # fmt: skip
    return make_run(root / "run", config)


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def test_new_images_go_the_way_of_the_training(run, root):
    """Calibrated with the images that training held out, the calibration is the training's to the bit."""
    known = run_data.read(run)
    names = {image.name for image in known.history.held_out}
    copy = run.parent / "held_out"
    copy.mkdir()
    for name in names:
        shutil.copy(root / "set" / name, copy / name)
    (run / "data.json").unlink()  # else they are left out, because they are known
    stored = calibrate_run(run, [str(copy)])
    assert stored.calibration == checkpoint.load(run)[2]


@pytest.mark.parametrize(
    "kind",
    ["tiles", "features", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("groups", "sixteen"))],
)
def test_tiles_features_groups_and_deep_pixels(root, kind, tmp_path):
    """The calibration of a folder is that which the training makes of the same images held out."""
    config, networks, size = tiny_config(), None, (16, 16)
    if kind == "tiles":
        config, size = tiny_config(data__tiles=16, data__fit="resize"), (24, 40)
    elif kind == "features":
        config, size = tiny_feature_config(), (64, 64)
        networks = filled_state(config)
    elif kind == "groups":
        config = tiny_config(data__group=r"(\d\d)\d\.png")
    config.data.source, config.data.path = "folder", str(tmp_path / "set")
    config.data.calibration_fraction, config.data.protocol = 0.5, "inspection"
    config.score.batch_size = 4
    draw(tmp_path / "set", 24, 2, size=size)
    draw(tmp_path / "new", 12, 3, size=size)
    if kind == "sixteen":
        for folder in ("set", "new"):
            for path in (tmp_path / folder).iterdir():
                grey = np.asarray(Image.open(path)).astype(np.uint16)[..., 0] * 200
                Image.fromarray(grey).save(path)
        config.data.channels = 1
    run = make_run(tmp_path / "run", config, networks)
    stored = calibrate_run(run, [str(tmp_path / "new")])
    detector = Detector.load(run)
    found = detector.score(sorted((tmp_path / "new").iterdir()))
    np.testing.assert_allclose(np.sort(found.scores), stored.calibration.scores, rtol=1e-6)
    assert detector.calibration == stored.calibration
    assert detector.threshold == stored.calibration.threshold
    if kind == "groups":
        assert stored.calibration.group_count == 2
        assert (stored.label.images, stored.label.groups) == (12, 2)


def test_what_is_left_out_is_counted_and_named(run, root, tmp_path, capsys):
    folder = shutil.copytree(root / "new", tmp_path / "mixed")
    known = run_data.read(run).history
    shutil.copy(root / "set" / known.trained[0].name, folder / "trained.png")
    shutil.copy(root / "set" / known.held_out[0].name, folder / "held.png")
    shutil.copy(folder / "001.png", folder / "copy.png")
    (folder / "broken.png").write_text("no image")
    Image.fromarray(np.full((16, 16, 3), 255, np.uint8) * np.eye(16, dtype=np.uint8)[..., None]).save(
        folder / "strange.png"
    )
    stored = calibrate_run(run, [str(folder)])
    printed = capsys.readouterr().out
    for name, why in (
        ("trained.png", "1 have trained this run"), ("held.png", "1 were held out by the training"),
        ("copy.png", "1 are copies of others"), ("broken.png", "1 cannot be read"),
    ):  # fmt: skip
        assert f"{why}" in printed
        assert f"({folder / name})" in printed
    assert f"1 of the images score far above the others: {folder / 'strange.png'}." in printed
    assert stored.outliers == (str(folder / "strange.png"),)
    assert sum(stored.left_out.values()) == 4
    assert {Path(image.name).name for image in stored.images} == {
        *(path.name for path in (root / "new").iterdir()), "strange.png",
    }  # fmt: skip


def test_with_the_held_out_images(run, root):
    alone, together = (calibrate_run(run, [str(root / "new")], with_held_out=w) for w in (False, True))
    assert (alone.label.images, together.label.images) == (25, 25 + 24)
    detector = Detector.load(run)
    files = [root / "set" / image.name for image in run_data.read(run).history.held_out]
    scores = detector.score([*files, *sorted((root / "new").iterdir())]).scores
    np.testing.assert_allclose(np.sort(scores), together.calibration.scores, rtol=1e-6)


def test_verdicts_say_which_calibration_and_one_can_go_back(run, root, capsys):
    image = root / "new" / "000.png"
    before = Detector.load(run)
    assert before.score(image).calibration == before.calibration_label.id
    assert before.calibration_label.describe().endswith("(of the training, step 1, 24 images)")
    first = calibrate_run(run, [str(root / "new")])
    second = calibrate_run(run, [str(root / "new")], rate=0.2, confidence=0.9)
    now = Detector.load(run)
    assert now.score(image).calibration == second.label.id == now.calibration_label.id
    about = metadata(now.calibration_label, now.config, now.calibration)
    assert about["calibration"] == {"id": second.label.id, "created": second.label.created}
    assert about["step"] == 1

    capsys.readouterr()
    say_calibrations(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0][2:10] == before.calibration_label.id
    assert {line[2:10] for line in lines[1:]} == {first.label.id, second.label.id}
    assert [line[2:10] for line in lines if line.startswith("*")] == [second.label.id]

    calibrations.use(run, first.label.id[:5])
    assert Detector.load(run).calibration == first.calibration
    calibrations.use(run, "training")
    again = Detector.load(run)
    assert (again.calibration, again.calibration_label) == (before.calibration, before.calibration_label)
    calibrations.use(run, second.label.id)
    assert Detector.load(run).threshold == second.calibration.threshold
    with pytest.raises(UserError, match="--use nothing: no such calibration; known: training, "):
        calibrations.use(run, "nothing")


def test_damage_and_another_checkpoint(run, root, capsys):
    stored = calibrate_run(run, [str(root / "new")])
    file = run / "calibrations" / f"{stored.label.id}.json"
    text = file.read_text()
    for broken in (text.replace("0.05", "0.06", 1), text[:-20], "[]", "[" * 100_000):
        file.write_text(broken)
        with pytest.raises(UserError, match=r"cannot be used \(.*--use training"):
            Detector.load(run)
    capsys.readouterr()
    say_calibrations(run)
    assert "not usable" in capsys.readouterr().out
    file.unlink()
    with pytest.raises(UserError, match="it is missing"):
        Detector.load(run)
    file.write_text(text)
    (run / "calibrations" / "in_use.json").write_text("{}")
    with pytest.raises(UserError, match=r"in_use\.json"):
        Detector.load(run)
    calibrations.use(run, "training")
    Detector.load(run)
    calibrations.use(run, stored.label.id)

    # The run trains on, so the calibration does not belong to the new checkpoint.
    networks, config, calibration = checkpoint.load(run)
    with closing(Checkpoints(run)) as checkpoints:
        checkpoints.save(networks.replace(step=np.int32(2)), config, calibration)
    capsys.readouterr()
    assert Detector.load(run).calibration == calibration
    assert "belongs to the checkpoint of step 1, not to this one of step 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="the run has trained since, to step 2"):
        calibrations.use(run, stored.label.id)


def test_test_images_that_calibrated_are_counted(run, root):
    stored = calibrate_run(run, [str(root / "new")])
    detector = Detector.load(run)
    names = [root / "new" / "003.png", root / "set" / "000.png", root / "new" / "007.png"]
    test = Split.of(np.stack([detector.prepare(name) for name in names]))
    assert outputs._count_calibrating(run, detector, test) == 2
    assert stored.label.images == 25
    calibrations.use(run, "training")
    assert outputs._count_calibrating(run, Detector.load(run), test) == 0


def test_mistakes_are_one_line(run, root, tmp_path):
    draw(tmp_path / "one", 1, 5)
    for folders, options, says in (
        ([root / "new"], {"rate": 1.5}, "--rate=1.5: must be between 0 and 1"),
        ([root / "new"], {"confidence": 0.0}, "--confidence=0: must be between 0 and 1"),
        ([tmp_path / "none"], {}, "none: this folder does not exist"),
        ([tmp_path / "one"], {}, "only 1 image is left"),
        ([root / "set"], {}, "no image is left to calibrate with: 24 were held .*; 36 have trained"),
    ):
        with pytest.raises(UserError, match=says):
            calibrate_run(run, [str(folder) for folder in folders], **options)
    assert not (run / "calibrations").exists()


@pytest.mark.slow
def test_by_the_command(run, root):
    """Drift, promises and the list, as they are printed; then predict names the calibration."""
    draw(run.parent / "light", 60, 7, low=60, high=200)

    def call(*words):
        child = subprocess.run(
            [sys.executable, "-m", "daad_jax", *map(str, words)], cwd=ROOT, capture_output=True, text=True,
            timeout=300, env=os.environ | {"XLA_FLAGS": ""},
        )  # fmt: skip
        return child.returncode, child.stdout, child.stderr

    code, printed, err = call("calibrate", "--workdir", run, run.parent / "light")
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    (drift,) = (line for line in lines if line.startswith("drift: "))
    assert "are higher than" in drift
    assert any("flags at most 5 % of normal images" in line for line in lines)
    assert any("With a confidence of 95 %, it flags at most 10.1 % of them." in line for line in lines)
    assert any("59 images are needed, and 60 are here: --confidence 0.95" in line for line in lines)
    id_ = next(line for line in lines if "is in use now" in line).split()[1]
    code, printed, err = call("predict", "--workdir", run, run.parent / "light", "--overlays=none")
    assert (code, err) == (0, "")
    assert f"scores and p-values are of calibration {id_} (" in printed
    assert "drift" not in printed
    rows = [json.loads(line) for line in (run / "predictions" / "scores.jsonl").read_text().splitlines()]
    assert {row["calibration"] for row in rows} == {id_}
    code, printed, _ = call("calibrate", "--workdir", run, "--use", "training")
    assert code == 0
    code, printed, _ = call("predict", "--workdir", run, run.parent / "light", "--overlays=none")
    assert "drift: the scores of these 60 images are higher" in printed
    code, _, err = call("calibrate", "--workdir", run, "--list", "--use", "x")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "one of these three" in err
