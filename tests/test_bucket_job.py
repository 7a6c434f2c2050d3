"""A whole run in a bucket by the commands: kills, resumes, results, and data sets of TFDS; all slow."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from daad_jax import buckets
from daad_jax.buckets import open_place
from daad_jax.training.workdir import saved_step
from tests import test_main_job as job
from tests.data import test_tfds_source
from tests.emulator import BUCKET, needs_emulator, upload_folder
from tests.runtime import test_processes
from tests.test_main_job import SMALL, call, folder, start  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulator"), needs_emulator]
ROOT = f"gs://{BUCKET}/job"
CONFIG = f"--config=configs/folder.py:{ROOT}/set,daad_plus,smoke"


@pytest.fixture(scope="module")
def images(folder, emulator):  # noqa: F811
    upload_folder(folder / "set", "job/set")
    return folder


def logged(workdir):
    lines = buckets.read_bytes(open_place(f"{workdir}/metrics.jsonl")).splitlines()
    return [json.loads(line)["step"] for line in lines]


def wait_for_step(child, workdir, step):
    while saved_step(open_place(workdir)) < step:
        assert child.poll() is None, child.communicate()
        time.sleep(0.2)


def test_train_kill_resume_evaluate_predict_export(images, tmp_path):
    cache, workdir, local = images / "c", f"{ROOT}/run", tmp_path / "run"
    code, _, err = call("train.py", job.config_of(images), "--workdir", local, *SMALL, cache=cache)
    assert code == 0, err

    child = start("train.py", CONFIG, "--workdir", workdir, *SMALL, "--config.train.steps=4000", cache=cache)
    wait_for_step(child, workdir, 4)
    second = call("train.py", CONFIG, "--workdir", workdir, *SMALL, cache=cache)
    assert second[0] == 2
    assert f"{workdir}: another process trains here" in second[2].splitlines()[-1]
    child.send_signal(signal.SIGKILL)
    child.communicate()
    killed_at = saved_step(open_place(workdir))
    assert killed_at >= 4

    # The lease of the dead process is free at once, and the run goes on.
    steps = f"--config.train.steps={killed_at + 8}"
    code, out, err = call("train.py", CONFIG, "--workdir", workdir, *SMALL, steps, cache=cache)
    assert code == 0, err
    assert f"resumed from step {killed_at}" in out
    assert logged(workdir)[-1] == killed_at + 8
    assert logged(workdir) == sorted(set(logged(workdir)))

    # SIGTERM saves and gives the lease back.
    child = start("train.py", CONFIG, "--workdir", workdir, *SMALL, "--config.train.steps=9000", cache=cache)
    wait_for_step(child, workdir, killed_at + 12)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=300)
    assert child.returncode == 143, err
    assert "the same command resumes" in out
    assert json.loads(buckets.read_bytes(open_place(f"{workdir}/.training")))["released"]

    # A run of the same length as the local one, uninterrupted, has the same results to the last bit.
    whole = f"{ROOT}/whole"
    code, _, err = call("train.py", CONFIG, "--workdir", whole, *SMALL, cache=cache)
    assert code == 0, err
    for place in (local, whole):
        code, _, err = call("evaluate.py", "--workdir", place, cache=cache)
        assert code == 0, err
    scores = buckets.read_bytes(open_place(f"{whole}/scores.csv")).decode()
    assert scores == (local / "scores.csv").read_text()
    report = buckets.read_bytes(open_place(f"{whole}/report.html")).decode()
    assert f"--workdir {whole}-again" in report

    code, out, err = call(
        "predict.py", "--workdir", whole, f"{ROOT}/set/test", "--out", f"{ROOT}/out", cache=cache
    )
    assert code == 0, err
    rows = buckets.read_bytes(open_place(f"{ROOT}/out/scores.csv")).decode().splitlines()
    assert len(rows) == 13
    assert rows[1].startswith(f"{ROOT}/set/test/")
    code, _, err = call("predict.py", "--workdir", whole, job.ROOT, "--out", f"{ROOT}/out", cache=cache)
    assert (code, "exists already" in err) == (2, True)

    good = f"{ROOT}/set/test/good"
    code, out, err = call("-m", "daad_jax", "calibrate", "--workdir", whole, good, cache=cache)
    assert code == 0, err
    names = [found.name for found in buckets.list_objects(open_place(f"{whole}/calibrations"))]
    assert {".lock", "in_use.json"} <= set(names)

    code, out, err = call("export.py", "--workdir", whole, "--formats=stablehlo", cache=cache)
    assert code == 0, err
    names = [found.name for found in buckets.list_objects(open_place(f"{whole}/export"))]
    assert names == ["model.json", "model.stablehlo", "model.stablehlo.sha256"]


def call_together(program, *arguments, cache):
    """The outputs of two processes with two devices each, as on two hosts of a pod."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    cluster = ["--distributed", f"--coordinator={address}", "--num_processes=2"]
    children = [
        start(program, *arguments, *cluster, f"--process_id={index}", cache=cache) for index in range(2)
    ]
    ended = test_processes.finish(children)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert ended[1][1] == []
    return "\n".join(ended[0][1])


def test_a_pod_trains_evaluates_and_predicts(images, monkeypatch):
    cache, workdir, new = images / "c", f"{ROOT}/pod", f"{ROOT}/set/test"
    monkeypatch.setenv("JAX_CPU_COLLECTIVES_IMPLEMENTATION", "gloo")
    printed = call_together("train.py", CONFIG, "--workdir", workdir, *SMALL, cache=cache)
    assert "trained to step 12" in printed
    batch = "--batch_size=2"
    printed = call_together("evaluate.py", "--workdir", workdir, batch, cache=cache)
    assert "Scored 12 test images" in printed
    printed = call_together(
        "predict.py", "--workdir", workdir, new, batch, f"--out={ROOT}/pod-out", cache=cache
    )
    assert "2 processes share the images" in printed
    found = sorted(each.name for each in buckets.list_objects(open_place(f"{ROOT}/pod-out")))
    assert not [name for name in found if name.startswith("parts/")]
    assert {"data.json", "scores.csv", "scores.jsonl"} <= set(found)

    # One process gives the same rows.
    alone = f"{ROOT}/pod-alone"
    code, _, err = call("predict.py", "--workdir", workdir, new, batch, f"--out={alone}", cache=cache)
    assert code == 0, err
    together, expected = (
        buckets.read_bytes(open_place(f"{place}/scores.csv")) for place in (f"{ROOT}/pod-out", alone)
    )
    assert together == expected
    tested = buckets.read_bytes(open_place(f"{workdir}/scores.csv")).decode().splitlines()
    assert len(tested) == 13


def test_a_data_set_of_tfds_in_a_bucket(images, tmp_path):
    def example(i):
        return {"photo": test_tfds_source.picture(4 * i), "shape": i % 3}

    test_tfds_source.prepare(tmp_path / "tfds", splits={"train": 60, "test": 12}, make=example)
    upload_folder(tmp_path / "tfds", "job/tfds")
    arguments = ["--config=tfds:own_parts:nut,daad_plus,smoke", f"--config.data.data_dir={ROOT}/tfds"]
    arguments += [f"--workdir={ROOT}/tfds-run", *SMALL]
    code, out, err = call("train.py", *arguments, cache=images / "c")
    assert code == 0, err
    assert "trained to step 12" in out
    code, out, err = call("evaluate.py", f"--workdir={ROOT}/tfds-run", cache=images / "c")
    assert code == 0, err
    assert "Scored 12 test images" in out
    missing = ["--config=mnist:1", f"--config.data.data_dir={ROOT}/tfds", f"--workdir={ROOT}/none"]
    code, _, err = call("train.py", *missing, cache=images / "c")
    assert code == 2
    assert f"not prepared in {ROOT}/tfds, and TFDS cannot prepare it in a bucket" in err.splitlines()[-1]


def test_two_processes_write_one_run(images):
    workdir, data = f"{ROOT}/two", f"--config.data.path={ROOT}/set"
    first, second = test_processes.finish(test_processes.start(images, workdir, data))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert second[1] == []
    assert saved_step(open_place(workdir)) == 12
    assert logged(workdir) == [2, 4, 6, 8, 10, 12]
    children = test_processes.start(images, workdir, data, "--config.train.steps=4000")
    try:
        wait_for_step(children[0], workdir, 16)
        children[1].kill()
        ended = test_processes.finish(children)
    finally:
        for child in children:
            child.kill()
    assert ended[0][0] == 3, ended  # another process was lost
    step = saved_step(open_place(workdir))
    first, second = test_processes.finish(
        test_processes.start(images, workdir, data, f"--config.train.steps={step + 4}")
    )
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert f"resumed from step {step}" in first[1]


def test_a_bucket_that_does_not_answer_is_one_line(images):
    environment = os.environ | {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}
    child = subprocess.run(
        [os.sys.executable, "evaluate.py", f"--workdir={ROOT}/run"],
        cwd=job.ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 2
    (line,) = child.stderr.splitlines()
    assert f"gs://{BUCKET}: it does not answer" in line
