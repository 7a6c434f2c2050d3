"""Exported files against the Detector, loaded and run as a user would."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

from daad_jax import checkpoint, export, state
from daad_jax.config import Config
from daad_jax.detector import Detector
from daad_jax.errors import UserError
from daad_jax.scorer import Scorer, variables_of

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
ONNX = ("jax2onnx", "onnx", "onnxruntime")


def small(**changes):
    """A config of tiny networks of two levels; `changes` are keys with __ for the dot."""
    config = Config(name="tiny")
    config.data.height = config.data.width = 16
    config.model.levels, config.model.skips = 2, (True,)
    config.model.base_width, config.model.discriminator_width, config.model.max_width = 4, 4, 8
    config.model.memory_items, config.model.division = (3, 3), ((1, 1, 1), (2, 2, 1))
    config.score.batch_size = 8  # one compilation: that many devices
    for key, value in changes.items():
        part, _, name = key.partition("__")
        setattr(getattr(config, part), name, value)
    return config


CASES = {
    "DAAD+, l2": small(),
    "DAAD, cosine": small(
        loss__adversarial=0.0, loss__alignment=0.0, score__gamma=1.0, score__distance="cosine",
        score__smoothing=1.0, data__channels=1,
    ),
    "pixel-wise memories, cosine": small(
        model__division=((0, 0, 1),) * 2, model__temperature=0.1, model__shrink=0.01,
        score__distance="cosine", data__width=24,
    ),
}  # fmt: skip


def images_of(config, count):
    data = config.data
    return export.probes((data.height, data.width), data.channels, count)


def trained(config):
    """As after training, as far as scoring can tell: batch statistics and calibration of images."""
    begun = state.create(config)
    calibration = Scorer(config).calibrate(variables_of(begun), images_of(config, 40))
    return begun, calibration


def runner_of(name, path, config, begun, calibration, size=None):
    """What runs the exported file of a run."""
    arguments = variables_of(begun), config, calibration
    if name == "stablehlo":
        path.write_bytes(export.to_stablehlo(*arguments, size))
        return export.load_stablehlo(path)
    about = export.metadata(0, config, calibration, size)
    path.write_bytes(export.to_onnx(*arguments, about, size))
    return export.load_onnx(path)


def same(found, expected, threshold):
    np.testing.assert_allclose(found["score"], expected.scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["heat"], expected.heat, rtol=1e-3, atol=1e-3)
    clear = np.abs(expected.scores - threshold) > 1e-3
    np.testing.assert_array_equal(found["anomalous"][clear], expected.anomalous[clear])
    away = np.abs(found["reconstruction"].astype(int) - expected.reconstructions)
    assert away.max() <= 1  # a value in the middle of two may round either way
    types = {"score": "float32", "heat": "float32", "anomalous": "bool", "reconstruction": "uint8"}
    assert {k: str(v.dtype) for k, v in found.items()} == types


FORMATS = [name for name in export.FORMATS if name != "onnx" or all(map(find_spec, ONNX))]


@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_detectors(case, tmp_path):
    config = CASES[case]
    begun, calibration = trained(config)
    detector = Detector(begun, config, calibration)
    fresh = RNG.integers(0, 256, images_of(config, 3).shape, np.uint8)
    for name in FORMATS:
        run = runner_of(name, tmp_path / "model", config, begun, calibration)
        for images in (fresh[:1], fresh, images_of(config, 8)):
            same(run(images), detector.score(images), calibration.threshold)


@pytest.mark.parametrize("how", ["resize", "pad"])
def test_other_sizes_come_in_as_the_data_pipeline_brings_them(how, tmp_path):
    config = small(data__fit=how, data__channels=1)
    begun, calibration = trained(config)
    detector = Detector(begun, config, calibration)
    for name, size in zip(FORMATS[::-1], [(40, 21), (11, 25)]):
        run = runner_of(name, tmp_path / "model", config, begun, calibration, size)
        images = RNG.integers(0, 256, (2, *size, 1), np.uint8)
        same(run(images), detector.score(images), calibration.threshold)


def test_every_platform_has_its_own_convolutions(tmp_path):
    """Traced on a CPU, yet native on TPU and GPU: the transposed convolutions are a case of the platform."""
    config = small()
    begun, calibration = trained(config)
    data = export.to_stablehlo(variables_of(begun), config, calibration)
    exported = jax_export.deserialize(bytearray(data))
    assert exported.platforms == export.PLATFORMS
    (images,) = exported.in_avals  # everything else is inside
    assert (str(images.dtype), [str(n) for n in images.shape]) == ("uint8", ["b", "16", "16", "3"])
    text = exported.mlir_module()
    assert text.count("stablehlo.case") == config.model.levels
    dilated = text.count("lhs_dilate = [2, 2]")
    assert dilated == config.model.levels
    # Where one platform is left, nothing of the others' is.
    lowered = jax.jit(exported.call).lower(images_of(config, 1)).compile().as_text()
    assert "lhs_dilate" not in lowered


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with a checkpoint of a run that resizes."""
    workdir = tmp_path_factory.mktemp("run")
    config = small(data__fit="resize")
    begun, calibration = trained(config)
    checkpoints = checkpoint.Checkpoints(workdir, create=True)
    checkpoints.save(jax.device_get(begun), config, calibration)
    checkpoints.close()
    return workdir


def call(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, text=True, capture_output=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_the_script_and_the_example(run, name, tmp_path):
    code, out, err = call("export.py", "--workdir", run, "--formats", name)
    assert code == 0, err
    assert err == ""
    assert f"next: python examples/score_{name}.py {run / 'export'}" in out
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(RNG.integers(0, 256, (50, 41, 3), np.uint8)).save(path)
    code, out, err = call(f"examples/score_{name}.py", run / "export" / f"model.{name}", *paths)
    assert code == 0, err
    expected = Detector.load(run).score(paths)
    for line, path, score, anomalous in zip(out.splitlines(), paths, expected.scores, expected.anomalous):
        shown, value, verdict = line.split("\t")
        assert shown == str(path)
        assert float(value) == pytest.approx(score, rel=1e-4, abs=1e-4)
        assert verdict == ("anomalous" if anomalous else "normal")
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("name", export.FORMATS)
def test_examples_are_short_and_import_nothing_of_ours(name):
    text = (ROOT / "examples" / f"score_{name}.py").read_text()
    code = [line for line in text.splitlines()[1:] if line.strip() and not line.startswith("#")]
    assert len(code) <= 20
    assert "flax" not in text
    assert "daad" not in text


def test_metadata_says_what_the_detector_does(run):
    export.export(run, ["stablehlo"], output=run / "other")
    about = json.loads((run / "other" / "model.json").read_text())
    detector = Detector.load(run)
    assert about["threshold"] == detector.threshold
    assert about["held_out"] == 40
    assert (about["height"], about["width"], about["channels"], about["fit"]) == (16, 16, 3, "resize")
    assert about["config"]["name"] == "tiny"
    assert sorted(p.name for p in (run / "other").iterdir()) == ["model.json", "model.stablehlo"]


def test_a_file_that_scores_otherwise_does_not_appear(run, monkeypatch):
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(UserError, match="differs from the run"):
        export.export(run, ["stablehlo"], output=run / "wrong")
    assert list((run / "wrong").iterdir()) == []


def test_bad_requests_are_one_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, says in (
        ([], "--workdir is missing"),
        (["--workdir", tmp_path], "no checkpoints here"),
        (["--workdir", run, "--formats", "onyx"], "'onyx' is unknown"),
        (["--workdir", run, "--height", "50"], "belong together"),
        (["--workdir", run, "--formats=stablehlo", "--output", tmp_path / "file" / "x"], "cannot be written"),
        (["--workdir", run, "--formats=stablehlo", "--height=9000", "--width=32"], "over 256 times"),
    ):
        code, _, err = call("export.py", *arguments)
        assert code == 2, err
        assert len(err.splitlines()) == 1, err
        assert says in err


def test_a_missing_package_is_named(run, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-export\.txt"):
        export.export(run, ["onnx"])
    with pytest.raises(UserError, match="leave both out"):
        export.make_fit(small(), (64, 64))
