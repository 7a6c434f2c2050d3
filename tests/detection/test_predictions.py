"""predict.py as a user runs it: files, folders and patterns of all kinds, broken ones among them."""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax.config import Config
from daad_jax.detection import overlay_files, predictions, scored_images, sources
from daad_jax.detection.detector import Detector
from daad_jax.detection.predictions import predict as scores_of_files
from daad_jax.errors import UserError
from tests.faults import child_commands
from tests.tiny import save_untrained

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of an untrained model."""
    config = Config()
    config.data.height = config.data.width = 32
    config.data.fit = "pad"
    config.model.base_width = config.model.discriminator_width = 4
    config.model.memory_items = (3,) * 4
    workdir = tmp_path_factory.mktemp("run")
    held_out = RNG.integers(0, 256, (30, 32, 32, 3), np.uint8)
    save_untrained(workdir, config, held_out)
    return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    (root / "deep").mkdir()
    for name, shape in (("a.png", (40, 30, 3)), ("deep/b.jpg", (9, 70)), ("deep/<i>c.webp", (32, 32, 3))):
        Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(root / name)
    (root / "broken.png").write_text("no")
    (root / "notes.txt").write_text("not asked for")
    (root / ".hidden.png").write_text("no")
    return root


def predict(run, *arguments):
    """(exit status, standard output, standard error) of the command, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--workdir={run}", *arguments]
        return child_commands.start(Path(folder) / "outputs", "predict.py", words).wait(300)


def table(out):
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_everything(run, images, tmp_path):
    out = tmp_path / "out"
    code, printed, err = predict(run, images, images / "a.png", "--overlays=all", f"--out={out}")
    assert "/scores.csv, scores.jsonl, data.json, overlays/\n" in printed
    assert code == 0, err
    rows = table(out)
    names = ["a.png", "broken.png", "deep/<i>c.webp", "deep/b.jpg", "a.png"]
    assert [row["name"] for row in rows] == [str(images / name) for name in names]
    assert [row["verdict"] == "unreadable" for row in rows] == [False, True, False, False, False]
    assert "broken.png: the image cannot be read" in rows[1]["error"]
    assert "broken.png: the image cannot be read" in err
    assert "4 image(s) scored" in printed
    assert "1 image(s) could not be read" in printed

    detector = Detector.load(run)
    expected = detector.score([images / name for name in names if name != "broken.png"])
    scores = [float(row["score"]) for row in rows if row["score"]]
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)  # one device there, eight here
    for column, values in (
        ("p_value", expected.p_values), ("R", expected.reconstruction), ("L", expected.alignment),
    ):  # fmt: skip
        got = [float(row[column]) for row in rows if row["score"]]
        np.testing.assert_allclose(got, values, rtol=1e-4)
    verdicts = [row["verdict"] == "anomalous" for row in rows if row["score"]]
    assert verdicts == [score > detector.threshold for score in scores]
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [row["name"] for row in rows]
    # A picture of the image's own size each, and nothing else.
    with Image.open(out / rows[3]["overlay"]) as picture:
        assert picture.size == (70, 9)
    assert {p.name for p in out.rglob("*") if p.is_file()} == {
        "scores.csv", "scores.jsonl", "data.json",
        *(Path(row["overlay"]).name for row in rows if row["overlay"]),
    }  # fmt: skip
    # The account: every file that was named, with its hash or the reason why it is left out.
    account = json.loads((out / "data.json").read_text())
    given = [str(images / name) for name in names]
    found = {(file["name"], file["reason"], file["sha256"]) for file in account["files"]}
    hashes = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in given}
    left_out = {".hidden.png": "hidden", "notes.txt": "not an image (.txt)"}
    assert found == {
        *((str(images / name), reason, "") for name, reason in left_out.items()),
        *((row["name"], row["error"], hashes[row["name"]]) for row in rows),
    }
    assert len(account["files"]) == len(names) + 2
    assert sum(row["used"] for row in account["rows"]) == 4
    assert printed.splitlines()[0].split() == [
        "role",
        "folder",
        "files",
        "images",
        "masks",
        "used",
        "left",
        "out",
    ]
    assert printed.splitlines()[-1] == "2 files were left out: 1 hidden, 1 not an image (.txt)"


def test_every_page_of_a_file_is_scored(run, tmp_path, capsys):
    rng, folder, out = np.random.default_rng(0), tmp_path / "given", tmp_path / "out"
    folder.mkdir()
    pixels = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    pages = [Image.fromarray(page) for page in pixels]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    detector = Detector.load(run)
    scores_of_files(detector, [str(folder)], out, "all")
    rows, name = table(out), str(folder / "stack.tif")
    assert [row["name"] for row in rows] == [f"{name}#{page}" for page in (1, 2, 3)]
    np.testing.assert_allclose(
        [float(row["score"]) for row in rows], detector.score(pixels).scores, rtol=1e-6
    )
    assert len(list((out / "overlays").iterdir())) == 3
    (record,) = json.loads((out / "data.json").read_text())["files"]
    digest = hashlib.sha256((folder / "stack.tif").read_bytes()).hexdigest()
    assert (record["name"], record["images"], record["sha256"]) == (name, 3, digest)
    assert "3 image(s) scored" in capsys.readouterr().out


def test_the_folder_of_the_results_may_lie_among_the_images(run, images, tmp_path):
    out, link = images / "deep" / "out", tmp_path / "link"
    link.symlink_to(out)
    code, printed, err = predict(run, images, "--overlays=all", f"--out={out}")
    assert code == 0, err
    assert "3 image(s) scored" in printed
    assert len(list((out / "overlays").iterdir())) == 3
    everything = [images / "deep" / "b.jpg", *sorted((out / "overlays").iterdir())]  # now images like any
    for given in (images / "deep", images / "deep" / "*", images / "**" / "*.*"):
        assert set(everything) <= set(sources.find([str(given)], tmp_path))
        for left in (out, link):
            assert not set(everything[1:]) & set(sources.find([str(given)], left))
    shutil.rmtree(out)


def test_overlays_of_large_images_are_small_and_of_lost_ones_left_out(run, tmp_path, monkeypatch, capsys):
    large, lost = tmp_path / "large.png", tmp_path / "lost.png"
    for path in (large, lost):
        Image.fromarray(RNG.integers(0, 256, (1536, 2048, 3), np.uint8)).save(path)
    areas, over = [], overlay_files.draw_overlay

    def overlay(image, heat):
        lost.unlink(missing_ok=True)
        areas.append(image.shape)
        return over(image, heat)

    monkeypatch.setattr(overlay_files, "draw_overlay", overlay)
    monkeypatch.setattr(scored_images, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))
    predictions.predict(Detector.load(run), [str(large), str(lost)], tmp_path / "out", "all")
    assert areas == [(768, 1024, 3)]
    rows = table(tmp_path / "out")
    assert [bool(row["score"]) for row in rows] == [True, True]
    assert [row["overlay"] for row in rows] == ["overlays/0000000-large.png", ""]
    assert "warning: no overlay: " in capsys.readouterr().err


def test_thresholds_and_folders_of_ones_own(run, images):
    code, printed, err = predict(run, images / "**" / "*.[jw]*", "--threshold=-1")
    assert code == 0, err
    assert "2 anomalous (score above the threshold -1.0000), 0 normal" in printed
    first = table(run / "predictions")
    code, printed, err = predict(run, images / "a.png", "--threshold=1e9", "--overlays=none")
    assert "/scores.csv, scores.jsonl, data.json\n" in printed
    assert code == 0, err
    assert "0 anomalous (score above the threshold 1000000000.0000), 1 normal" in printed
    assert table(run / "predictions") == first
    assert len(table(run / "predictions-2")) == 1
    assert not (run / "predictions-2" / "overlays").exists()
    code, printed, err = predict(run, images / "a.png", "--false_alarm_rate=0.5", "--overlays=none")
    assert (code, err) == (0, "")
    calibration = Detector.load(run).calibration
    assert f"(score above the threshold {calibration.threshold_at(0.5):.4f})" in printed
    assert calibration.threshold_at(0.5) < calibration.threshold


def test_bad_input_is_one_line_and_leaves_nothing(run, images, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("precious")
    os.mkfifo(tmp_path / "pipe.png")
    for arguments, says in (
        ([], "no images were named"),
        ([""], "has an empty name"),
        ([images, "--threshold=nan"], "must be a number"),
        ([images, "--config=mnist"], "--config: no such option"),
        (["/nonexistent/x.png"], "/nonexistent/x.png: there is no such file or folder, and no file matches"),
        ([full], f"{full}: this folder has no images (1 file was left out: 1 not an image (.txt))"),
        ([tmp_path / "pipe.png"], "pipe.png: not a regular file; give files"),
        ([images, f"--out={full}"], "exists already"),
        ([images, "--out=/proc/x"], "/proc/x: cannot be written"),
        ([images, "--threshold=1", "--false_alarm_rate=0.1"], "give one of them"),
        ([images, "--false_alarm_rate=2"], "must be between 0 and 1; 5 % is 0.05"),
        ([images, "--overlays=some"], "overlays"),
        ([images, f"--workdir={full}"], "this folder has no checkpoints"),
    ):
        before = sorted(run.iterdir())
        code, _, err = predict(run, *arguments)
        assert code == 2, (arguments, err)
        assert len(err.splitlines()) == 1, err
        assert says in err
        assert sorted(run.iterdir()) == before
    assert (full / "mine.txt").read_text() == "precious"
    code, _, err = predict(
        run, images / "broken.png", f"--out={tmp_path / 'none'}", "--false_alarm_rate=0.01"
    )
    assert "warning: only 30 image(s) are held out, so the threshold may flag up to 0.0323" in err
    assert code == 2
    assert "none of the 1 image(s) could be read" in err.splitlines()[-1]


def test_a_folder_that_another_command_fills_is_refused(run, images, tmp_path):
    """Two commands were given the same new folder, and one of them was first."""
    (tmp_path / "scores.jsonl").write_text("of the other command")
    with pytest.raises(UserError, match=r"cannot be written \(File exists\); give another --out"):
        scores_of_files(Detector.load(run), [str(images / "a.png")], tmp_path, "none")
    assert (tmp_path / "scores.jsonl").read_text() == "of the other command"
