"""The commands as a user runs them: child processes, real files, real kills."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from daad_jax.training import checkpoint
from tests.faults import child_commands

ROOT = Path(__file__).parent.parent
SMALL = [
    "--config.data.height=32",
    "--config.data.width=32",
    "--config.train.steps=12",
    "--config.train.batch_size=4",
    "--config.train.checkpoint_every=4",
    "--config.train.log_every=2",
]


def start(*arguments, cache):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"DAAD_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def call(*arguments, cache):
    child = start(*arguments, cache=cache)
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def call_forked(program, *arguments, cache):
    """`call` without the seconds in which Python imports JAX, for what ends before it computes."""
    with tempfile.TemporaryDirectory() as outputs:
        environment = {"DAAD_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
        return child_commands.start(Path(outputs) / "child", program, arguments, environment).wait(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, striped_images):
    """A folder for runs, with the images in `set`."""
    root = tmp_path_factory.mktemp("job")
    shutil.copytree(striped_images, root / "set")
    return root


def config_of(folder):
    return f"--config=configs/folder.py:{folder / 'set'},daad_plus,smoke"


@pytest.fixture(scope="module")
def finished(folder):
    workdir = folder / "whole"
    code, out, err = call("train.py", config_of(folder), "--workdir", workdir, *SMALL, cache=folder / "c")
    assert code == 0, err
    assert out.splitlines()[0] == f"workdir: {workdir}"
    return workdir


def test_evaluate_prints_and_writes(folder, finished):
    code, out, err = call("evaluate.py", "--workdir", finished, cache=folder / "c")
    assert code == 0, err
    line = next(x for x in out.splitlines() if x.startswith("image AUROC"))
    report = json.loads((finished / "evaluation.json").read_text())
    low, high = report["intervals"]["auroc"]
    assert line == f"image AUROC {report['auroc']:.4f} [{low:.4f}, {high:.4f}]"
    assert low <= report["auroc"] <= high
    rows = (finished / "scores.csv").read_text().splitlines()
    assert rows[0] == "name,label,defect_type,R,L,A,p_value,verdict,calibration"
    assert len(rows) == 13
    table = list(csv.DictReader(rows))
    labels, scores = [int(row["label"]) for row in table], [float(row["A"]) for row in table]
    assert [int("blot" in row["name"]) for row in table] == labels
    assert roc_auc_score(labels, scores) == pytest.approx(report["auroc"])
    verdicts = ["anomalous" if score > report["threshold"] else "normal" for score in scores]
    assert [row["verdict"] for row in table] == verdicts
    known = report["calibration"]
    r, alignment = (
        np.array([float(row[column]) for row in table]) / known[unit]["std"]
        for column, unit in (("R", "reconstruction"), ("L", "alignment"))
    )
    both = known["gamma"] * r + (1 - known["gamma"]) * alignment
    np.testing.assert_allclose(both / both[0], np.array(scores) / scores[0], rtol=1e-5)
    lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [2, 4, 6, 8, 10, 12]
    assert any((finished / "tensorboard").iterdir())


@pytest.mark.slow
def test_recipes_are_ranked_by_separation(folder, finished):
    again = folder / "copy"
    shutil.copytree(finished, again)
    code, out, err = call("select_recipe.py", finished, again, cache=folder / "c")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("separation of held-out normal images")
    best = lines[lines.index("the best way to score of every run:") + 1 :][:2]
    assert {line.split()[1] for line in best} == {str(finished), str(again)}
    separations = {float(line.split()[0]) for line in best}
    assert len(separations) == 1  # one run, twice
    assert separations.pop() > 0.5
    # What is printed is what train.py takes.
    ways = [word for word in best[0].split() if word.startswith("--config.score.")]
    code, _, err = call(
        "train.py", config_of(folder), f"--workdir={folder / 'chosen'}", *SMALL, *ways, cache=folder / "c"
    )
    assert code == 0, err


def test_a_finished_run_takes_no_step(folder, finished):
    def files() -> dict:
        found = [
            *finished.glob("checkpoints/**/*"),
            *finished.glob("tensorboard/*"),
            finished / "metrics.jsonl",
        ]
        return {path: path.stat().st_mtime_ns for path in found if path.is_file()}

    before = files()
    code, out, err = call("train.py", config_of(folder), "--workdir", finished, *SMALL, cache=folder / "c")
    assert code == 0, err
    assert "trained to step 12" in out
    assert files() == before


def test_a_killed_run_resumes_to_the_same_bits(folder, finished):
    workdir = folder / "killed"
    arguments = ("train.py", config_of(folder), "--workdir", workdir, *SMALL)
    child = start(*arguments, cache=folder / "c")
    deadline = time.monotonic() + 240
    while not (workdir / "checkpoints" / "4").is_dir() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    code, out, err = call(*arguments, cache=folder / "c")
    assert code == 0, err
    assert re.search(r"^resumed from step [48]$", out, re.MULTILINE)  # else it was finished, and not killed
    whole, again = (checkpoint.load(path)[0] for path in (finished, workdir))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    lines = [json.loads(x)["step"] for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves(folder, number):
    workdir = folder / f"signal-{number}"
    child = start(*endless(folder, workdir), cache=folder / "c")
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("step 4/"):
            break
    child.send_signal(number)
    out, err = child.communicate(timeout=300)
    assert child.returncode == 128 + number, err
    assert err == ""
    step = int(checkpoint.load(workdir)[0].step)
    assert step >= 4
    assert out.splitlines()[-1].startswith(f"stopped by {number.name}, saved at step {step};")


# Runs a script, and has SIGTERM come between a step's numbers and the question whether to save it.
AFTER_THE_LOG = """
import os, runpy, signal, sys
from daad_jax.training import logs
write = logs.FileLog.write
def write_and_signal(self, step, metrics):
    write(self, step, metrics)
    if step == 4:
        os.kill(os.getpid(), signal.SIGTERM)
logs.FileLog.write = write_and_signal
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_signal_in_the_middle_of_a_step_saves_the_next(folder):
    workdir = folder / "between"
    code, out, err = call("-c", AFTER_THE_LOG, *endless(folder, workdir), cache=folder / "c")
    assert code == 143, err
    assert "saved at step 5;" in out
    assert int(checkpoint.load(workdir)[0].step) == 5
    lines = [json.loads(x)["step"] for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines == [2, 4, 5]


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "interrupted")]
)
def test_a_signal_before_the_first_step_leaves_nothing(folder, number, says):
    workdir, cache = folder / f"early-{number}", folder / f"early-cache-{number}"
    child = start(*endless(folder, workdir), cache=cache)
    assert child.stdout is not None
    assert child.stdout.readline().startswith("workdir:")
    child.send_signal(number)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 128 + number, err
    assert err == f"train.py: {says}\n"
    assert not (workdir / "checkpoints").exists()
    assert not cache.exists() or not list(cache.glob(".filling*"))


# Runs a command that gets a signal at a place where Python ignores exceptions, and then goes on for a while.
IN_A_COLLECTION = """
import gc, os, sys, time
from daad_jax import cli
def command(call):
    number = int(rest.pop())
    gc.callbacks.append(lambda phase, info: phase == "stop" and os.kill(os.getpid(), number))
    gc.collect()
    gc.callbacks.clear()
    time.sleep(100)
rest = sys.argv[1:]
sys.argv = ["command"]
cli.run(cli.Command('', '', lambda *_: None, command))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_collection_of_garbage_stops(folder, number):
    code, _, err = call("-c", IN_A_COLLECTION, int(number), cache=folder / "c")
    assert code == 128 + number, err
    assert err == {15: "command: stopped by SIGTERM\n", 2: "command: interrupted\n"}[number]


def endless(folder, workdir):
    """A run that only a signal ends, and only a signal saves."""
    never = ("--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    return ("train.py", config_of(folder), "--workdir", workdir, *SMALL, *never)


def test_a_damaged_newest_checkpoint_falls_back(folder, finished):
    workdir = folder / "damaged"
    shutil.copytree(finished, workdir)
    for path in (workdir / "checkpoints" / "12" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, err = call("evaluate.py", "--workdir", workdir, cache=folder / "c")
    assert code == 0, err
    assert "step 8," in out
    assert "12 cannot be read" in err


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_one_line(folder, monkeypatch, platform):
    monkeypatch.setenv("DAAD_CACHE_DIR", str(folder / "c"))
    child = subprocess.run(
        [sys.executable, "train.py", config_of(folder), f"--workdir={folder / 'device'}", *SMALL],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 2, child.stderr
    assert f"error: JAX finds no device (JAX_PLATFORMS='{platform}')" in child.stderr.splitlines()[-1]
    assert "Traceback" not in child.stderr


BAD = {
    "unknown key": (["--config.train.batchsize=3"], "did you mean config.train.batch_size"),
    "wrong type": (["--config.train.steps=many"], "steps"),
    "out of range": (["--config.score.gamma=2.0"], "config.score.gamma = 2.0"),
    "rates": (["--config.model.division=((3,1,1),(1,1,1),(1,1,1),(1,1,1))"], "memory1"),
    "folder": (["--config.data.path=/nonexistent"], "/nonexistent: this folder does not exist"),
    "stray word": (["stray"], "unexpected argument 'stray'"),
    "url": (["--workdir=s3://bucket/run"], "must be a folder of a mounted file system, or gs://"),
    "workdir": (["--workdir=/proc/nowhere"], "/proc/nowhere: cannot be written"),
    "devices": (["--config.train.devices=99"], "config.train.devices = 99"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(folder, case):
    extra, says = BAD[case]
    workdir = folder / "bad" / case
    code, _, err = call_forked(
        "train.py", config_of(folder), f"--workdir={workdir}", *SMALL, *extra, cache=folder / "c"
    )
    lines = [line for line in err.splitlines() if not line.startswith("WARNING")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert lines[0].startswith("train.py: error: ")
    assert says in lines[0]


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_says_what_a_script_does_and_its_own_options(folder, name):
    code, out, err = call(name, "-h", cache=folder / "c")
    assert (code, err) == (0, "")
    assert out.startswith(f"python {name} ")
    defined = re.findall(r"define_(\w+)\(|DEFINE_\w+\(\s*\"(\w+)\"", (ROOT / name).read_text())
    for option in ("".join(names) for names in defined):
        assert re.search(rf"^  --(\[no\])?{option}: ", out, re.MULTILINE), option


def test_other_bad_commands(folder, finished):
    other = ["--config.seed=5"]
    for arguments, says in (
        (["train.py"], "--config is missing"),
        (
            ["train.py", "--config=configs/none.py"],
            "configs/none.py: no such file; built-in recipes: cifar10, ",
        ),
        (["train.py", "--config=mnits"], "no such built-in recipe; did you mean 'mnist'"),
        (["train.py", "--config=configs/mnist.py:8,memea"], "did you mean 'memae'"),
        (["train.py", config_of(folder), f"--workdir={finished}", *SMALL, *other], "another configuration"),
        (["evaluate.py"], "--workdir is missing"),
        (["evaluate.py", f"--workdir={folder}"], "this folder has no checkpoints"),
        (["evaluate.py", "--wrkdir=x"], "did you mean --workdir?"),
        (["train.py", "--config=mnist", "--steps=20"], "did you mean --config.train.steps?"),
        (["train.py", "--config=mnist", "--config.train.steps=many"], "'many' is not a whole number"),
        (["train.py", f"--config={folder}"], "this is a folder, not a recipe; did you mean folder:"),
        (["select_recipe.py"], "give one or more folders"),
        (["select_recipe.py", folder], "this folder has no checkpoints"),
    ):
        code, _, err = call_forked(*arguments, cache=folder / "c")
        assert code == 2, err
        assert len(err.splitlines()) == 1, err
        assert says in err
