"""Exported files against the Detector, loaded and run as a user would."""

import copy
import functools
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image

from daad_jax.data import datasets
from daad_jax.data.decoding import convert_array
from daad_jax.data.images import prepare
from daad_jax.detection.detector import Detector
from daad_jax.errors import UserError
from daad_jax.export import exporter, formats, graph
from daad_jax.export.metadata import metadata
from daad_jax.method import state
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import checkpoint
from daad_jax.training.calibration_files import CalibrationLabel
from tests.tiny import filled_state, tiny_config, tiny_feature_config

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def small(**changes):
    # One number of images at once, so one compilation.
    return tiny_config(**{"model__max_width": 8, "score__batch_size": 8} | changes)


CASES = {
    "DAAD+, l2": small(data__channels=1),
    "DAAD, cosine": small(
        loss__adversarial=0.0, loss__alignment=0.0, score__gamma=1.0, score__distance="cosine",
        score__smoothing=1.0,
    ),
    "pixel-wise memories, correlation": small(
        model__division=((0, 0, 1),) * 2, model__temperature=0.1, model__shrink=0.01,
        score__distance="correlation", score__pooling=4, score__smoothing=0.5, data__width=24,
    ),
}  # fmt: skip


def images_of(config, count):
    return exporter.make_test_images(config, graph.model_size(config), count)


def test_large_test_images_are_few():
    config = small()
    assert exporter.make_test_images(config, (16, 16)).shape == (8, 16, 16, 3)
    images = exporter.make_test_images(small(data__channels=1), (4096, 2730))
    assert images.shape == (3, 4096, 2730, 1)
    assert images[0].std() < 5 < 50 < images[-1].std()


@functools.cache
def begun(case):
    return state.create_state(CASES[case])


def trained(case="DAAD+, l2", **changes):
    """As after training, as far as scoring can tell; `changes` of the data leave the networks as they are."""
    config = copy.deepcopy(CASES[case])
    for name, value in changes.items():
        setattr(config.data, name, value)
    held_out = [prepare(convert_array(image, "x"), config.data, "x") for image in images_of(config, 40)]
    calibration = Scorer(config).calibrate(variables_of(begun(case)), np.stack(held_out))
    return begun(case), config, calibration


def runner_of(name, path, run, size=None, batch_size=None):
    """What runs the exported file of (state, config, calibration)."""
    networks, config, calibration = run
    arguments = variables_of(networks), config, calibration
    if name == "stablehlo":
        path.write_bytes(formats.to_stablehlo(*arguments, size, batch_size))
        return formats.load_stablehlo(path)
    about = metadata(CalibrationLabel.of_training(calibration, 0), config, calibration, size)
    path.write_bytes(formats.to_onnx(*arguments, about, size, batch_size))
    return formats.load_onnx(path)


def same(found, expected, run):
    threshold, held_out = run[2].threshold, np.array(run[2].scores)
    np.testing.assert_allclose(found["score"], expected.scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["heat"], expected.heat, rtol=1e-3, atol=1e-3)
    clear = np.abs(expected.scores - threshold) > 1e-3
    np.testing.assert_array_equal(found["anomalous"][clear], expected.anomalous[clear])
    far = np.abs(expected.scores[:, None] - held_out).min(1) > 1e-3  # from a held-out score
    np.testing.assert_allclose(found["p_value"][far], expected.p_values[far], rtol=1e-6)
    # A value in the middle of two may round either way; networks of float32 are no more exact than that.
    away = np.abs(found["reconstruction"].astype(int) - expected.reconstructions)
    assert away.max() <= (1 if expected.reconstructions.dtype == np.uint8 else 4)
    types = {"score": "float32", "heat": "float32", "anomalous": "bool", "p_value": "float32"}
    types["reconstruction"] = str(expected.reconstructions.dtype)
    assert {k: str(v.dtype) for k, v in found.items()} == types


FORMATS = [name for name in exporter.FORMATS if name != "onnx" or not exporter.find_onnx_problem()]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(name not in FORMATS, reason="not installed: pip install .[export]"),
        )
        for name in exporter.FORMATS
    ],
)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case == "DAAD+, l2" else case for case in CASES]
)
def test_scores_are_the_detectors(case, name, tmp_path):
    run = trained(case)
    detector = Detector(*run)
    near = images_of(run[1], 8)
    fresh = RNG.integers(0, 256, near[:3].shape, np.uint8)
    call = runner_of(name, tmp_path / "model", run)
    for images in (fresh[:1], fresh, near):
        same(call(images), detector.score(images), run)


@pytest.mark.parametrize(
    "name", ["stablehlo", pytest.param("onnx", marks=[pytest.mark.slow, pytest.mark.skipif(
        "onnx" not in FORMATS, reason="not installed: pip install .[export]")])]
)  # fmt: skip
@pytest.mark.parametrize(("items", "nearest"), [(70, 1), (40, 3)])
def test_a_run_on_features_exports_no_reconstruction(name, items, nearest, tmp_path):
    """The frozen network and the items are inside the file."""
    config = tiny_feature_config(
        model__nearest=nearest, model__memory_items=(items, 8), model__place_weight=1.0, score__batch_size=8
    )
    networks, pictures = filled_state(config), images_of(config, 12)
    run = networks, config, Scorer(config).calibrate(variables_of(networks), pictures)
    call = runner_of(name, tmp_path / "model", run)
    for images in (pictures[:1], pictures[:3]):
        found, expected = call(images), Detector(*run).score(images)
        assert set(found) == {"score", "heat", "anomalous", "p_value"} == set(graph.outputs_of(config))
        np.testing.assert_allclose(found["score"], expected.scores, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["heat"], expected.heat, rtol=1e-3, atol=1e-3)
        assert found["anomalous"].dtype == bool
    assert exporter.max_differences(call, Detector(*run), pictures)[0] < exporter.MAX_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize("how", ["resize", "pad"])
def test_other_sizes_come_in_as_the_data_pipeline_brings_them(how, tmp_path):
    run = trained(fit=how)
    detector = Detector(*run)
    for name, size in zip(FORMATS[::-1], [(40, 21), (11, 25)]):
        images = RNG.integers(0, 256, (2, *size, 1), np.uint8)
        same(runner_of(name, tmp_path / "model", run, size)(images), detector.score(images), run)


def test_a_run_of_16_bits_takes_the_values_of_its_files(tmp_path):
    """What lies outside the range is clipped in the function, too."""
    run = trained(fit="resize", range="uint16:0,4095", bits=16)
    images = RNG.integers(0, 5000, (2, 40, 21, 1), np.uint16)
    for name in FORMATS:
        call = runner_of(name, tmp_path / "model", run, (40, 21))
        same(call(images.astype(np.float32)), Detector(*run).score(images), run)
    about = metadata(CalibrationLabel.of_training(run[2], 0), *run[1:])
    stated = {key: about[key] for key in ("input_type", "stored_type", "range")}
    assert stated == {"input_type": "float32", "stored_type": "uint16", "range": (0.0, 4095.0)}


@pytest.mark.parametrize("how", ["resize", "pad"])
@pytest.mark.parametrize(
    ("chosen", "bits", "files"),
    [
        ("uint16:0,4095", 16, RNG.integers(0, 5000, (2, 40, 21, 1), np.uint16)),
        ("float32:21.5,38.25", 16, RNG.normal(30, 5, (2, 21, 40, 1)).astype(np.float32)),
        ("int16:-100,900", 16, RNG.integers(-200, 1000, (2, 16, 16, 1), np.int16)),
        # Pillow's scaling of 8 bits has tests of its own.
        ("uint16:0,1023", 8, RNG.integers(0, 1200, (2, 16, 16, 1), np.uint16)),
        ("type", 8, RNG.integers(0, 256, (2, 16, 16, 1), np.uint8)),
    ],
)
def test_images_are_prepared_as_the_data_pipeline_prepares_them(chosen, bits, files, how):
    config = small(data__channels=1, data__fit=how, data__range=chosen, data__bits=bits)
    expected = np.stack([prepare(convert_array(image, "x"), config.data, "x") for image in files])
    taken = files.astype(graph.find_input(config).pixel_type)
    got = np.asarray(graph.make_fit(config, files.shape[1:3])(graph.make_range(config)(taken)))
    assert got.dtype == expected.dtype
    assert np.abs(got.astype(int) - expected).max() <= (1 if bits == 16 else 0)


def test_a_run_of_several_types_is_not_exported():
    config = small(data__range="float32:0,1;uint16:0,4095", data__bits=16)
    with pytest.raises(UserError, match="an exported file knows one range; convert the images to one type"):
        graph.find_input(config)


def test_every_platform_has_its_own_convolutions():
    """Traced on a CPU, yet native on TPU and GPU."""
    networks, config, calibration = trained()
    arguments = variables_of(networks), config, calibration
    exported = jax_export.deserialize(bytearray(formats.to_stablehlo(*arguments)))
    assert exported.platforms == formats.PLATFORMS
    (images,) = exported.in_avals  # everything else is inside
    assert (str(images.dtype), [str(n) for n in images.shape]) == ("uint8", ["b", "16", "16", "1"])
    exportable = jax.jit(graph.make_graph(*arguments, None, "portable"))
    for platform in formats.PLATFORMS:
        text = jax_export.export(exportable, platforms=[platform])(images_of(config, 1)).mlir_module()
        transposed = text.count("lhs_dilate = [2, 2]")
        assert transposed == (0 if platform == "cpu" else config.model.levels)
    assert "lhs_dilate = [2, 2]" in exported.mlir_module()


@pytest.mark.slow
@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="needs MNIST in TFDS_DATA_DIR")
def test_200_real_images(tmp_path):
    config = small(
        data__name="mnist", data__channels=1, data__height=32, data__width=32, data__fit="pad",
        data__normal_class="8", data__limit_train=200, data__limit_test=100, score__distance="cosine",
    )  # fmt: skip
    splits = datasets.load(config)
    networks = state.create_state(config)
    run = networks, config, Scorer(config).calibrate(variables_of(networks), splits.train.images)
    images = splits.test.images[:]
    assert len(images) == 200
    expected = Detector(*run).score(images)
    for name in FORMATS:
        same(runner_of(name, tmp_path / "model", run)(images), expected, run)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with a checkpoint of a run that resizes."""
    workdir = tmp_path_factory.mktemp("run")
    networks, config, calibration = trained(fit="resize")
    checkpoints = checkpoint.Checkpoints(workdir, create=True)
    checkpoints.save(jax.device_get(networks), config, calibration)
    checkpoints.close()
    return workdir


def call(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, text=True, capture_output=True
    )
    return done.returncode, done.stdout, done.stderr


def test_the_script_and_the_examples(run, tmp_path):
    code, out, err = call("export.py", "--workdir", run, "--formats", ",".join(FORMATS))
    assert (code, err) == (0, "")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(RNG.integers(0, 256, (50, 41), np.uint8)).save(path)
    expected = Detector.load(run).score(paths)
    deep = tmp_path / "deep.png"
    Image.fromarray(RNG.integers(0, 65536, (50, 41), np.uint16)).save(deep)
    for name in FORMATS:
        model = run / "export" / f"model.{name}"
        assert f"next: python examples/score_{name}.py {model}" in out
        code, lines, err = call(f"examples/score_{name}.py", model, *paths)
        assert (code, err) == (0, "")
        rows = [line.split("\t") for line in lines.splitlines()]
        assert [row[0] for row in rows] == [str(path) for path in paths]
        np.testing.assert_allclose([float(row[1]) for row in rows], expected.scores, rtol=1e-4, atol=1e-4)
        assert [row[2] == "anomalous" for row in rows] == expected.anomalous.tolist()
        code, _, err = call(f"examples/score_{name}.py", model, deep)
        assert code == 1
        assert "deep.png: pixels of mode I;16; store 8 bit" in err
        refuse_damage(name, model, paths[0])


def refuse_damage(name, model, image):
    """One bit of a file of an export, and an export without checksums."""
    checksums = model.with_name(f"{model.name}.sha256")
    for line in checksums.read_text().splitlines():
        digest, file = line.split("  ")
        whole = model.with_name(file).read_bytes()
        assert digest == hashlib.sha256(whole).hexdigest()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 4
        model.with_name(file).write_bytes(damaged)
        code, out, err = call(f"examples/score_{name}.py", model, image)
        model.with_name(file).write_bytes(whole)
        assert (code, out) == (1, "")
        assert err == f"{model.with_name(file)}: damaged, {checksums} has another checksum; export it again\n"
    checksums.unlink()
    code, out, err = call(f"examples/score_{name}.py", model, image)
    assert (code, out.count("\n")) == (0, 1)
    assert err == f"warning: {checksums} is missing, so damage of the model may go unnoticed\n"


@pytest.mark.parametrize("name", exporter.FORMATS)
def test_examples_are_short_and_import_nothing_of_ours(name):
    text = (ROOT / "examples" / f"score_{name}.py").read_text()
    code = [line for line in text.splitlines()[1:] if line.strip() and not line.startswith("#")]
    assert len(code) <= 32
    assert "flax" not in text
    assert "daad" not in text


@pytest.mark.slow
def test_metadata_says_what_the_detector_does(run):
    exporter.export(run, ["stablehlo"], output=run / "other")
    about = json.loads((run / "other" / "model.json").read_text())
    assert about["threshold"] == Detector.load(run).threshold
    assert about["held_out"] == len(about["held_out_scores"]) == 40
    assert about["calibration"] == {"id": Detector.load(run).calibration_label.id, "created": ""}
    assert (about["height"], about["width"], about["channels"], about["fit"]) == (16, 16, 1, "resize")
    assert about["config"]["name"] == "tiny"
    assert sorted(p.name for p in (run / "other").iterdir()) == [
        "model.json",
        "model.stablehlo",
        "model.stablehlo.sha256",
    ]


def test_what_is_no_number_counts_as_a_difference():
    detector = Detector(*trained())

    def broken(images):
        found = detector.score(images)
        return {
            "score": found.scores,
            "heat": np.where(found.heat > np.median(found.heat), np.nan, found.heat),
        }

    score, heat = exporter.max_differences(broken, detector, images_of(detector.config, 4))
    assert score == 0
    assert np.isnan(heat)


def test_a_score_that_is_no_number_is_not_normal():
    networks, config, calibration = trained()
    variables = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), variables_of(networks))
    run_graph = graph.make_graph(variables, config, calibration, None, "portable")
    found = jax.jit(run_graph)(images_of(config, 3))
    assert np.isnan(found["score"]).all()
    assert found["anomalous"].all()


@pytest.mark.slow
def test_a_file_that_scores_otherwise_does_not_appear(run, monkeypatch):
    monkeypatch.setattr(exporter, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(UserError, match="differs from the run"):
        exporter.export(run, ["stablehlo"], output=run / "wrong")
    assert list((run / "wrong").iterdir()) == []


def test_bad_requests(run, tmp_path, monkeypatch):
    for arguments, says in (([], "--workdir is missing"), (["--workdir=x", "--height=5"], "belong together")):
        code, _, err = call("export.py", *arguments)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert says in err
    (tmp_path / "file").write_text("")
    for workdir, names, size, output, says in (
        (tmp_path, ["onyx"], None, None, "'onyx' is unknown"),
        (tmp_path, ["stablehlo"], None, None, "this folder has no checkpoints"),
        (run, ["stablehlo"], None, tmp_path / "file" / "x", "cannot be written"),
        (run, ["stablehlo"], (9000, 16), None, "over 256 times"),
        (run, ["stablehlo"], (65536, 65536), None, "more pixels than config.data.max_pixels = 134217728"),
    ):
        with pytest.raises(UserError, match=says):
            exporter.export(workdir, names, size, output)
    with pytest.raises(UserError, match="leave both options out"):
        graph.make_fit(small(), (64, 64))
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package jax2onnx is missing; ONNX needs the extra export"):
        exporter.export(run, ["onnx"])
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(exporter.importlib.metadata, "version", lambda name: "0.13.0")
    with pytest.raises(UserError, match=r"jax2onnx 0.13.0 is too old, 0.17 or newer is needed; ONNX needs"):
        exporter.export(run, ["onnx"])
    for version in ("0.17.1", "0.18rc1", "1.0"):
        monkeypatch.setattr(exporter.importlib.metadata, "version", lambda name, version=version: version)
        assert not exporter.find_onnx_problem()


@pytest.mark.parametrize("group_sizes", [(), (2, 2, 1, 3, 3, 3)])
def test_p_values_are_the_calibrations(group_sizes):
    held_out = (0.5, 0.75, 0.75, 1.0, 1.5, 2.0)
    calibration = replace(trained()[2], scores=held_out, group_sizes=group_sizes)
    scores = np.array([-1, 0.5, 0.6, 0.75, 1.5, 2.0, 2.1, np.nan], np.float32)
    found = jax.jit(lambda score: graph.p_value(calibration, score))(scores)
    np.testing.assert_allclose(found, calibration.p_value(scores.astype(float)), rtol=1e-6)
    if not group_sizes:
        np.testing.assert_allclose(found, np.array([7, 7, 6, 6, 3, 2, 1, 1]) / 7, rtol=1e-6)


def test_files_for_a_fixed_number_of_images(run, tmp_path, capsys):
    folder = tmp_path / "out"
    (tmp_path / "out").mkdir()
    (folder / "model.onnx").write_bytes(b"of an earlier export")
    first = exporter.export(run, ["stablehlo"], output=folder, batch_sizes=["3", "any", "3"])
    assert first == {"stablehlo": folder / "model-3.stablehlo"}
    said = capsys.readouterr()
    assert said.out.count("scores differ from the run's by at most") == 2
    assert said.err.count("\n") == 1
    assert "model.onnx of an earlier export stay there" in said.err
    about = json.loads((folder / "model.json").read_text())
    assert {name: entry["batch_size"] for name, entry in about["files"].items()} == {
        "model-3.stablehlo": 3,
        "model.stablehlo": None,
    }
    for name, entry in about["files"].items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        (images,) = jax_export.deserialize(bytearray(content)).in_avals
        assert str(images.shape[0]) == ("3" if entry["batch_size"] else "b")
        assert len((folder / f"{name}.sha256").read_text().splitlines()) == 2
    images = images_of(trained(fit="resize")[1], 7)
    call = formats.load_stablehlo(first["stablehlo"])
    same(call(images), Detector.load(run).score(images), trained(fit="resize"))


@pytest.mark.parametrize("words", [[], ["0"], ["-1"], ["16.0"], ["all"], ["9" * 5000], ["٣"]])
def test_batch_sizes_that_are_none(words, tmp_path):
    with pytest.raises(UserError, match=r"^--batch_sizes: "):
        exporter.export(tmp_path, ["stablehlo"], batch_sizes=words)


@pytest.mark.skipif("onnx" not in FORMATS, reason="not installed: pip install .[export]")
def test_an_onnx_file_stores_no_weight_twice_and_takes_a_fixed_number(tmp_path):
    import onnx

    run = trained("DAAD, cosine")
    call = runner_of("onnx", tmp_path / "model.onnx", run, batch_size=4)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, formats.OPSET)
    stored = [
        (x.data_type, tuple(x.dims), onnx.numpy_helper.to_array(x).tobytes()) for x in model.graph.initializer
    ]
    assert len(stored) == len(set(stored))
    images = images_of(run[1], 6)
    same(call(images), Detector(*run).score(images), run)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


@pytest.mark.skipif("onnx" not in FORMATS, reason="not installed: pip install .[export]")
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_an_image_is_exact_in_onnxruntime(keepdims):
    import onnxruntime
    from onnx import helper, numpy_helper

    from daad_jax.export.onnx_rewriting import rewrite

    taken = helper.make_tensor_value_info("x", 1, ["b", 64, 64, 1])
    given = helper.make_tensor_value_info("y", 1, None)
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], "mean", keepdims=keepdims)
    axes = numpy_helper.from_array(np.array([1, 3, 2], np.int64), "axes")
    model = helper.make_model(
        helper.make_graph([node], "means", [taken], [given], [axes]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    levels = np.rint(np.random.default_rng(0).normal(120, 3, (3, 64, 64, 1)))
    images = (levels / 255).astype(np.float32)  # of random numbers, the errors of a sum would cancel
    session = onnxruntime.InferenceSession(
        rewrite(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["y"], {"x": images})
    expected = images.mean((1, 2, 3), dtype=np.float64, keepdims=bool(keepdims))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=4e-7)
