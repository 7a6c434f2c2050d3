"""An exported program, served without its run."""

import json
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2")
from starlette.testclient import TestClient

from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.export import exporter
from daad_jax.export.exported_detector import ExportedDetector
from daad_jax.method import state
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.serving.app import Limits, make_app
from daad_jax.training import checkpoint
from tests.serving.test_app import noise, png
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(data__fit="resize", data__channels=1, model__max_width=8, score__batch_size=2)
    networks = state.create_state(config)
    held_out = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), np.uint8)
    calibration = Scorer(config).calibrate(variables_of(networks), held_out)
    checkpoints = checkpoint.Checkpoints(folder, create=True)
    checkpoints.save(jax.device_get(networks), config, calibration)
    checkpoints.close()
    exporter.export(folder, ["stablehlo"], batch_sizes=["any", "4"])
    return folder


@pytest.fixture(scope="module")
def detector(workdir):
    return Detector.load(workdir)


@pytest.mark.parametrize(("name", "batch_size"), [("model.stablehlo", 16), ("model-4.stablehlo", 4)])
def test_a_server_of_an_exported_file_answers_as_the_run(workdir, detector, name, batch_size):
    exported = ExportedDetector(workdir / "export" / name, 16 if "4" not in name else None)
    assert exported.batch_size == batch_size
    images = [png(pixels[..., 0]) for pixels in noise(7)]
    expected = detector.score(images)
    with TestClient(make_app(exported, "bolts", 64, Limits(), 2)) as client:
        files = [("image", (f"{i}.png", image)) for i, image in enumerate(images)]
        answer = client.post("/score?heat=overlay", files=files).json()
    assert answer["calibration"] == detector.calibration_label.id
    assert answer["threshold"] == detector.threshold
    found = answer["images"]
    np.testing.assert_allclose([x["score"] for x in found], expected.scores, rtol=1e-4)
    np.testing.assert_allclose([x["p_value"] for x in found], expected.p_values, rtol=1e-6)
    assert [x["anomalous"] for x in found] == expected.anomalous.tolist()
    assert all("reconstruction" not in x and x["heat"]["base64"] for x in found)


def test_files_that_cannot_be_served(workdir, tmp_path):
    original, folder = workdir / "export", tmp_path / "export"
    path = folder / "model-4.stablehlo"

    def refused(change, says, batch_size=None):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        change()
        with pytest.raises(UserError, match=says) as error:
            ExportedDetector(path, batch_size)
        assert "\n" not in str(error.value)

    def edit(**keys):
        path.with_name("model-4.stablehlo.sha256").unlink()
        about = json.loads((folder / "model.json").read_text()) | keys
        (folder / "model.json").write_text(json.dumps(about))

    refused(path.unlink, "no such file; give the .stablehlo file")
    refused((folder / "model.json").unlink, "no such file")
    refused(lambda: path.write_bytes(b"x"), "has another checksum; export the run again")
    refused(lambda: None, "takes 4 images at once", batch_size=8)
    refused(lambda: edit(format=2), "of an older version")
    refused(lambda: edit(units=[]), "damaged")
    refused(lambda: edit(held_out_scores=[float("nan")]), "damaged")
    refused(lambda: edit(threshold=float("nan")), "damaged \\(the threshold is nan\\)")
    refused(lambda: edit(height=20), "without --height and --width")
    refused(lambda: (edit(), path.write_bytes(b"x")), "cannot load this program")
    refused(lambda: (edit(), (folder / "model.json").write_text("[" * 100_000)), "cannot be read")


def test_a_score_that_is_no_number_has_no_verdict(workdir, detector):
    exported = ExportedDetector(workdir / "export" / "model-4.stablehlo")
    call = exported._call

    def broken(images):
        found = call(images)
        return found | {"score": np.where(np.arange(4) == 1, np.nan, found["score"])}

    exported._call = broken
    with pytest.raises(UserError, match=r"^b\.png: its score or its heat map is not finite"):
        list(exported.judge([np.zeros((3, 16, 16, 1), np.uint8)], ["a.png", "b.png", "c.png"].__getitem__))
