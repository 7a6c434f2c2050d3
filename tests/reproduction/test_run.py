"""reproduce.py on a small folder in MVTec AD's layout: results, failures, interruptions, bad commands."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax import variants
from daad_jax.errors import UserError
from daad_jax.evaluation.outputs import evaluate
from daad_jax.files import exclusive
from daad_jax.training import logs
from reproduction import cells, experiment, results, results_page, run
from reproduction.cells import TABLES

ROOT = Path(__file__).parents[2]
TABLE = TABLES["mvtec_ad"]
ROWS = ["mean_intensity", "nearest_l2", "ae"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Grey stripes are normal; with a white blot they are not. "tile" and "wood" have the same."""
    root, rng = tmp_path_factory.mktemp("mvtec"), np.random.default_rng(0)
    blot = np.zeros((32, 32), np.uint8)
    blot[8:20, 8:20] = 255
    for category in ("tile", "wood"):
        for part, count in (("train/good", 20), ("test/good", 6), ("test/blot", 6)):
            path = root / category / part
            path.mkdir(parents=True)
            for i in range(count):
                image = np.tile(np.arange(32, dtype=np.uint8) % 8 * 20, (32, 1))
                image = np.stack([image] * 3, -1) + rng.integers(0, 20, (32, 32, 3)).astype(np.uint8)
                image[(blot > 0) & ("blot" in part)] = 255
                Image.fromarray(image).save(path / f"{i}.png")
        masks = root / category / "ground_truth" / "blot"
        masks.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(blot).save(masks / f"{i}_mask.png")
    return root


@pytest.fixture
def small(monkeypatch, original, tmp_path):
    """Configurations of seconds, and data that this test alone has."""
    finish = variants.finish

    def shrink(config, *rest):
        model = config.model
        config.data.height = config.data.width = 32
        model.levels, model.base_width, model.discriminator_width = 2, 4, 4
        model.skips, model.memory_items, model.division = (True,), (3, 5), ((1, 1, 1),) * 2
        config = finish(config, *rest)
        config.train.steps, config.train.batch_size, config.train.log_every = 12, 8, 4
        config.train.devices = 1
        return config

    monkeypatch.setattr(variants, "finish", shrink)
    monkeypatch.setenv("DAAD_MVTEC_DIR", str(original))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    return run.Places(tmp_path / "out", tmp_path / "docs")


def chosen(only, rows, seeds=("0",)):
    return cells.choose(TABLE, only, rows, seeds, smoke=False)


def stored_in(places):
    return results.load(results.results_path(places.docs, TABLE), TABLE)


def test_a_table_cell_by_cell(small, capsys, monkeypatch):
    write = logs.FileLog.write

    def interrupt(self, step, metrics):
        write(self, step, metrics)
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(logs.FileLog, "write", interrupt)
        with pytest.raises(SystemExit) as stopped:
            run.reproduce(TABLE, chosen(["tile"], ROWS), small)
    assert stopped.value.code == 130
    assert "stopped; the same command continues" in capsys.readouterr().out.splitlines()
    assert [r.row for r in stored_in(small).results] == ["mean_intensity", "nearest_l2"]
    assert "| tile | 1.000 | 1.000 |" in (small.docs / "results.md").read_text()
    run.dry_run(TABLE, chosen(["tile"], ["ae"]), small)
    assert capsys.readouterr().out.startswith("at step ")

    assert run.reproduce(TABLE, chosen(["tile"], ROWS), small) == []
    out = capsys.readouterr().out
    assert "cell 3/3: mvtec_ad tile ae seed 0" in out
    assert f"cells write their progress to {small.out}/mvtec_ad/*/cell.log" in out
    folder = cells.make_cell(TABLE, "tile", "ae", 0, False).folder(small.out)
    assert "resumed from step" in (folder / "cell.log").read_text()
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["12"]
    stored = stored_in(small)
    keys = [(r.row, r.seed, r.step) for r in stored.results]
    assert keys == [("mean_intensity", None, 0), ("nearest_l2", None, 0), ("ae", 0, 12)]
    assert stored.row_results("ae")[0].images == {"train": 18, "held_out": 2, "normal": 6, "anomalous": 6}
    assert set(stored.row_results("ae")[0].figures) == {
        "auroc", "average_precision", "f1", "pixel_auroc", "aupro", "levelled_auroc",
    }  # fmt: skip
    # A white blot is brighter, and far from all normal images, also at the same mean intensity.
    assert stored.row_results("mean_intensity")[0].figures == {"auroc": 1.0, "anomalous_is_brighter": 1.0}
    assert stored.row_results("nearest_l2")[0].figures["levelled_auroc"] == 1.0
    assert stored.row_results("nearest_l2")[0].figures["aupro"] > 0.9

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_cell", lambda *_: pytest.fail("ran again"))
        assert run.reproduce(TABLE, chosen(["tile"], ROWS), small) == []
    assert "3 cells of mvtec_ad: 3 done, 0 to run" in capsys.readouterr().out
    run.dry_run(TABLE, chosen(["tile", "wood", "zipper"], ["nearest_l2", "ae"]), small)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "not run, because DAAD_MVTEC_DIR has no images for: zipper"
    assert lines[1] == "done         mvtec_ad tile nearest_l2"
    assert lines[4].startswith("to run       mvtec_ad wood ae seed 0  about ")

    # How long cells took on another machine, a GPU perhaps, says nothing of this one.
    run.dry_run(TABLE, chosen(["wood"], ["ae"]), run.Places(small.out / "none", small.docs))
    assert capsys.readouterr().out.splitlines()[-1] == "1 cells of mvtec_ad: 0 done, 1 to run, time unknown"


def test_what_is_stored_joins_and_goes(small, capsys, monkeypatch):
    rows = ["mean_intensity", "nearest_l2"]
    run.reproduce(TABLE, chosen(["tile"], rows), small)
    run.reproduce(TABLE, chosen(["wood"], rows[1:]), small)
    assert [r.subject for r in stored_in(small).row_results("nearest_l2")] == ["tile", "wood"]

    # A killed run's stored file lacks a finished cell: the next run takes it up.
    results.save(results.results_path(small.docs, TABLE), results.TableResults(TABLE))
    run.reproduce(TABLE, chosen(["wood"], rows[1:]), small)
    assert len(stored_in(small).results) == 3

    # Another run has measured the cells again, a day later or a day earlier: the later result stays.
    path = results.results_path(small.docs, TABLE)
    for date, stays in (("9999-12-31", True), ("2000-01-01", False)):
        stored = stored_in(small)
        elsewhere = [dataclasses.replace(result, date=date) for result in stored.results]
        results.save(path, dataclasses.replace(stored, results=elsewhere))
        run.reproduce(TABLE, chosen(["wood"], rows[1:]), small)
        assert [result.date == date for result in stored_in(small).results] == [stays] * 3

    # Another recipe is another cell, and the stored result of the old cell goes.
    shrink = variants.finish

    def other(config, *rest):
        config = shrink(config, *rest)
        config.data.height = 64
        return config

    monkeypatch.setattr(variants, "finish", other)
    capsys.readouterr()
    run.reproduce(TABLE, chosen(["wood"], rows), small)
    assert "dropped 3 results from " in capsys.readouterr().out
    assert [r.key for r in stored_in(small).results] == [("wood", row, -1) for row in rows]

    # On a machine where no cell has run, stored results can count as done.
    elsewhere = run.Places(small.out / "empty", small.docs)
    run.dry_run(TABLE, chosen(["wood"], rows), elsewhere, only_missing=True)
    assert capsys.readouterr().out.startswith("0 cells of mvtec_ad: 0 done, 0 to run")
    run.reproduce(TABLE, chosen(["wood"], rows), elsewhere, only_missing=True)
    assert "0 cells of mvtec_ad" in capsys.readouterr().out
    run.reproduce(TABLE, chosen(["wood"], rows[:1]), elsewhere)
    assert "1 cells of mvtec_ad: 0 done, 1 to run" in capsys.readouterr().out


@pytest.mark.slow
def test_figures_are_those_of_evaluate(small):
    """Of the same checkpoint, by the other command."""
    assert run.reproduce(TABLE, chosen(["tile"], ["daad_plus"]), small) == []
    figures = stored_in(small).row_results("daad_plus")[0].figures
    evaluation = evaluate(cells.make_cell(TABLE, "tile", "daad_plus", 0, False).folder(small.out))
    for key in ("auroc", "average_precision", "f1"):
        assert figures[key] == pytest.approx(evaluation.image_metrics[key], abs=1e-6)
    for key in ("pixel_auroc", "aupro"):
        assert figures[key] == pytest.approx(evaluation.pixel_metrics[key], abs=1e-6)


def test_a_cell_that_fails_is_named_and_the_rest_go_on(small, capsys, monkeypatch):
    """One asks for too many devices, one meets a defect of ours, one is another process'."""

    def refused(config, *rest, finish=variants.finish):
        config = finish(config, *rest)
        config.train.devices = 99
        return config

    monkeypatch.setattr(variants, "finish", refused)
    baseline = experiment._measure_baseline

    def broken(cell):
        if cell.row == "nearest_cosine":
            raise ZeroDivisionError("a defect")
        return baseline(cell)

    monkeypatch.setattr(experiment, "_measure_baseline", broken)
    rows = ["nearest_cosine", "nearest_l2", "ae", "mean_intensity"]
    cell = chosen(["tile"], ["nearest_l2"])[0]
    folder = cell.folder(small.out)
    folder.mkdir(parents=True)
    with exclusive(folder / ".lock", "ours"):
        failed = run.reproduce(TABLE, chosen(["tile"], rows), small)
    assert len(failed) == 3
    defect, locked, impossible = failed
    assert defect.startswith("mvtec_ad tile nearest_cosine: ZeroDivisionError: a defect (traceback in ")
    log = Path(defect.split("traceback in ")[1].rstrip(")"))
    assert "in broken" in log.read_text()
    assert locked == "mvtec_ad tile nearest_l2: another process is running it"
    assert impossible.startswith("mvtec_ad tile ae seed 0: config.train.devices = 99: this process has ")
    assert [r.row for r in stored_in(small).results] == ["mean_intensity"]
    assert run.reproduce(TABLE, [cell], small) == []


def test_places_that_cannot_be_written(small):
    nowhere, cell = Path("/proc/nowhere"), chosen(["tile"], ["mean_intensity"])
    with pytest.raises(UserError, match=r"/proc/nowhere.*give another --out"):
        run.reproduce(TABLE, cell, run.Places(nowhere, small.docs))
    with pytest.raises(UserError, match=r"/proc/nowhere.*give another --docs"):
        run.reproduce(TABLE, cell, run.Places(small.out, nowhere))
    with pytest.raises(UserError, match=r"/proc/nowhere.*give another --docs"):
        results_page.write(nowhere)


# The command with configurations of seconds.
COMMAND = """
import os, sys
from daad_jax import variants
finish = variants.finish
def shrink(config, *rest):
    config.data.height = config.data.width = 32
    config.model.levels, config.model.base_width = 2, 4
    config.model.skips, config.model.memory_items, config.model.division = (True,), (3, 5), ((1, 1, 1),) * 2
    config = finish(config, *rest)
    config.train.steps, config.train.batch_size, config.train.log_every = 400, 4, 2
    config.train.checkpoint_every = 5
    return config
variants.finish = shrink
import runpy
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(original, tmp_path, *words):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "DAAD_MVTEC_DIR": str(original)}
    environment |= {"DAAD_CACHE_DIR": str(tmp_path / "cache"), "TFDS_DATA_DIR": str(tmp_path / "tfds")}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "reproduce.py", *map(str, words)],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_broken_category_does_not_cost_the_others(original, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(original, copy)
    (copy / "wood" / "train" / "good" / "0.png").write_text("no")
    words = ("mvtec_ad", "--only=wood,tile", "--variants=mean_intensity", f"--docs={tmp_path}")
    child = start(copy, tmp_path, *words, f"--out={tmp_path}")
    out, err = child.communicate(timeout=300)
    assert child.returncode == 1, err
    (line,) = err.splitlines()
    assert line.startswith("reproduce.py: not done: mvtec_ad wood mean_intensity: ")
    assert "0.png: the image cannot be read" in line
    assert "cell 2/2: mvtec_ad tile mean_intensity" in out
    assert "| tile | 1.000 |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_continued(original, tmp_path, number):
    def arguments(name):
        place = tmp_path / name
        words = ("mvtec_ad", "--only=tile", "--variants=mean_intensity,ae", "--seeds=0")
        return (*words, f"--out={place}", f"--docs={place}")

    def finish(child):
        out, err = child.communicate(timeout=300)
        return child.returncode, out, err

    child = start(original, tmp_path, *arguments("cut"))
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("cut/mvtec_ad/tile-ae-*/checkpoints/5")) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(number)
    code, out, err = finish(child)
    if number == signal.SIGINT:
        assert code == 130, err
        assert out.splitlines()[-1] == "stopped; the same command continues"
        assert "| tile | 1.000 |" in (tmp_path / "cut" / "results.md").read_text()
    (folder,) = tmp_path.glob("cut/mvtec_ad/tile-ae-*")
    assert not (folder / "result.json").exists()
    code, out, err = finish(start(original, tmp_path, *arguments("cut")))
    assert code == 0, err
    assert "2 cells of mvtec_ad: 1 done, 1 to run" in out
    assert "cell 2/2: mvtec_ad tile ae seed 0" in out
    assert "resumed from step" in (folder / "cell.log").read_text()
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["400"]
    code, out, err = finish(start(original, tmp_path, *arguments("whole"), "--drop_checkpoints"))
    assert code == 0, err
    assert not list(tmp_path.glob("whole/mvtec_ad/tile-ae-*/checkpoints/*"))
    cut, whole = (
        json.loads((tmp_path / n / "results" / "mvtec_ad.json").read_text()) for n in ("cut", "whole")
    )
    assert [c["figures"] for c in cut["cells"]] == [c["figures"] for c in whole["cells"]]


@pytest.mark.parametrize("words", [[], ["--only=3", "--variants=ae"]])  # more than a buffer, and less
def test_a_reader_that_leaves_is_one_line(original, tmp_path, words):
    child = start(original, tmp_path, f"--docs={tmp_path}", "mnist", "--dry_run", *words)
    child.stdout.close()
    code, err = child.wait(timeout=300), child.stderr.read()
    child.stderr.close()
    assert (code, err) == (128 + signal.SIGPIPE, "reproduce.py: stopped: nobody reads the output any more\n")


@pytest.mark.slow
def test_the_status_stays_where_nobody_reads_the_errors_either(original, tmp_path):
    for table, status in (("mnist", 128 + signal.SIGPIPE), ("mnits", 2)):
        child = start(original, tmp_path, f"--docs={tmp_path}", table, "--dry_run")
        child.stdout.close()
        child.stderr.close()
        assert child.wait(timeout=300) == status


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give one table: mnist, cifar10, mvtec_ad, solar_cells, granularity"),
        (["mnist", "cifar10"], "give one table"),
        (["mnits"], "did you mean 'mnist'"),
        (["mvtec_ad", "--only=botle"], "no such category; did you mean 'bottle'"),
        (["mnist", "--variants=dad"], "no such variant; did you mean 'daad'"),
        (["mnist", "--seeds=one"], "--seeds: 'one' is not a whole number"),
        (["mnist", "--sedes=1"], "sedes"),
        (["mvtec_ad", "--only=screw"], "screw"),
    ],
)
def test_bad_commands_are_one_line(original, tmp_path, words, says):
    child = start(original, tmp_path, f"--docs={tmp_path}", *words)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 2, err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("reproduce.py: error: ")
    assert says in lines[0]


def test_results_of_another_table_need_not_run_again(tmp_path, monkeypatch, capsys):
    """Also where this table still has a result of an old recipe."""
    inspection = TABLES["inspection"]
    cell = cells.make_cell(inspection, "bottle", "ae", 0, smoke=False)
    figures = {
        "subject": "bottle", "row": "ae", "seed": 0, "environment": "e", "date": "2026-11-28", "step": 1,
        "images": {"train": 9, "held_out": 1, "normal": 2, "anomalous": 2}, "figures": {"auroc": 0.9},
        "images_per_s": 1.0, "wall_s": 1.0,
    }  # fmt: skip
    environment = {"e": {"python": "3.11", "packages": {"jax": "0.10.2"}, "device": "CPU"}}
    (baseline,) = cells.choose(TABLE, ["bottle"], ["nearest_l2"], ["0"], smoke=False)
    measured = {
        inspection: [(cell.recipe, {})],
        TABLE: [("old", {}), (baseline.recipe, {"row": "nearest_l2", "seed": None})],
    }
    for table, rows in measured.items():
        known = [results.Result(recipe=recipe, **(figures | changes)) for recipe, changes in rows]
        recipes = {result.recipe: cells.make_recipe(cell) for result in known}
        stored = results.TableResults(table, recipes, environment, known)
        results.save(results.results_path(tmp_path / "docs", table), stored)
    monkeypatch.setenv("DAAD_MVTEC_DIR", str(tmp_path))
    places = run.Places(tmp_path / "out", tmp_path / "docs")
    assert run.reproduce(TABLE, chosen(["bottle"], ["ae"]), places, only_missing=True) == []
    assert "0 cells of mvtec_ad: 0 done, 0 to run" in capsys.readouterr().out
    assert [result.row for result in stored_in(places).results] == ["nearest_l2"]
