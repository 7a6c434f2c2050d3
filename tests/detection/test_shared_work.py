"""predict and evaluate in several processes on this machine write the same files as one process."""

import csv
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from daad_jax.runtime.shares import Share
from tests.faults import child_commands
from tests.runtime.test_supervision import free_port
from tests.tiny import save_untrained, tiny_config

RNG = np.random.default_rng(0)
COUNT = 11  # images; with a batch of 2, the last block is not full
NUMBERS = ("score", "p_value", "R", "L")
COMPARED = ("scores.csv", "scores.jsonl", "data.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of an untrained model."""
    workdir = tmp_path_factory.mktemp("run")
    held_out = RNG.integers(0, 256, (30, 16, 16, 3), np.uint8)
    save_untrained(workdir, tiny_config(data__fit="resize"), held_out)
    return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two kinds of images, with masks of one kind; beside them, files that are no images."""
    root = tmp_path_factory.mktemp("images")
    for kind, count in (("good", COUNT // 2), ("hole", COUNT - COUNT // 2)):
        (root / "test" / kind).mkdir(parents=True)
        for i in range(count):
            pixels = RNG.integers(0, 256, (18, 20, 3), np.uint8)
            Image.fromarray(pixels).save(root / "test" / kind / f"{i}.png")
    (root / "ground_truth" / "hole").mkdir(parents=True)
    for i in range(COUNT - COUNT // 2):
        mask = np.zeros((18, 20), np.uint8)
        mask[2:9, 3:8] = 255
        Image.fromarray(mask).save(root / "ground_truth" / "hole" / f"{i}_mask.png")
    (root / "test" / "notes.txt").write_text("not an image")
    return root


def start(folder, program, words, processes, machines=None, last_word=""):
    """Starts the processes.

    Args:
        folder: for their output.
        program: the script.
        words: its options.
        processes: how many.
        machines: the current folder of each.
        last_word: what the last process gets instead of the last word.
    """
    address, folder = f"localhost:{free_port()}", folder / f"{program}-{processes}"
    environment = {"DAAD_CACHE_DIR": str(folder / "cache"), "XLA_FLAGS": ""}
    children = []
    for index in range(processes):
        own = [*words[:-1], last_word] if last_word and index == processes - 1 else [*words]
        if processes > 1:
            own += ["--distributed", f"--coordinator={address}", f"--num_processes={processes}"]
            own += [f"--process_id={index}"]
        place = machines[index] if machines else None
        children.append(child_commands.start(folder / str(index), program, own, environment, place=place))
    return children


def finish(children):
    """The output of the processes, which end well and in silence."""
    ended = [child.wait(200) for child in children]
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    assert [out for _, out, _ in ended[1:]] == [""] * (len(ended) - 1)
    return ended[0][1]


def test_a_share_has_blocks_of_images():
    shares = [Share(index, 3, 4) for index in range(3)]
    taken = [list(share.take("abcdefghijklmnopqrstu")) for share in shares]
    assert taken[0] == [*enumerate("abcd"), *zip(range(12, 16), "mnop")]
    assert taken[2] == [*zip(range(8, 12), "ijkl"), (20, "u")]
    assert sorted(itertools.chain(*taken)) == list(enumerate("abcdefghijklmnopqrstu"))
    for total in range(40):
        sizes = [share.size(total) for share in shares]
        assert sizes == [len(list(share.take(range(total)))) for share in shares]


@pytest.mark.slow
def test_predictions_of_two_processes_are_those_of_one(run, images, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(images / "test", folder)
    (folder / "good" / "1.png").write_text("broken")
    words = [f"--workdir={run}", str(folder), "--overlays=all", "--batch_size=2"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    finish(start(tmp_path, "predict.py", [*words, f"--out={alone}"], 1))
    children = start(tmp_path, "predict.py", [*words, f"--out={together}"], 2)
    ended = [child.wait(200) for child in children]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert f"{COUNT - 1} image(s) scored" in ended[0][1]
    assert "1 image(s) could not be read" in ended[0][1]
    assert not ended[1][1]
    # The warning about the broken image comes from the process that has it, once.
    assert sum(err.count("good/1.png") for _, _, err in ended) == 1
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    assert not (together / "parts").exists()
    assert (together / "data.json").read_bytes() == (alone / "data.json").read_bytes()
    rows = [
        list(csv.DictReader((place / "scores.csv").read_text().splitlines())) for place in (alone, together)
    ]
    for one, other in zip(*rows, strict=True):
        assert all(one[column] == other[column] for column in {*one} - {*NUMBERS})
        if one["verdict"] != "unreadable":
            assert [float(other[k]) for k in NUMBERS] == pytest.approx([float(one[k]) for k in NUMBERS], 1e-5)
    names = [sorted(path.name for path in (place / "overlays").iterdir()) for place in (alone, together)]
    assert names[0] == names[1]
    assert len(names[0]) == COUNT - 1


def test_the_scores_of_whole_batches_are_the_same_to_the_last_bit(run, images, tmp_path):
    words = [f"--workdir={run}", str(images / "test"), "--overlays=none", "--batch_size=2"]
    finish(start(tmp_path, "predict.py", [*words, f"--out={tmp_path / 'alone'}"], 1))
    printed = finish(start(tmp_path, "predict.py", [*words, f"--out={tmp_path / 'together'}"], 3))
    assert "3 processes share the images" in printed
    for name in COMPARED:
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_an_evaluation_of_two_processes_is_that_of_one(run, images, tmp_path):
    words = [f"--workdir={run}", f"--data={images}", "--batch_size=2"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    finish(start(tmp_path, "evaluate.py", [*words, f"--out={alone}"], 1))
    printed = finish(start(tmp_path, "evaluate.py", [*words, f"--out={together}"], 2))
    assert "pixel AUROC" in printed
    assert (together / "scores.csv").read_bytes() == (alone / "scores.csv").read_bytes()
    figures = [json.loads((place / "evaluation.json").read_text()) for place in (alone, together)]
    assert figures[0]["pixel_auroc"] > 0
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_processes_that_score_other_images_end_in_a_line(run, images, tmp_path):
    words = [f"--workdir={run}", "--batch_size=2", str(images / "test")]
    other = str(images / "test" / "good")
    for code, _, err in [c.wait(200) for c in start(tmp_path, "predict.py", words, 2, last_word=other)]:
        assert code == 2
        assert err.count("\n") == 1
        assert "the processes of this run do not agree" in err


def test_processes_that_do_not_share_the_folder_end_in_a_line(run, images, tmp_path):
    # As on two machines, this path leads to another folder for each process.
    words = [f"--workdir={run}", str(images / "test"), "--batch_size=2", "--out=results"]
    machines = [tmp_path / "machine0", tmp_path / "machine1"]
    for machine in machines:
        machine.mkdir()
    for code, _, err in [child.wait(200) for child in start(tmp_path, "predict.py", words, 2, machines)]:
        assert code == 2
        assert err.count("\n") == 1
        assert "give --out a folder that all processes share" in err
