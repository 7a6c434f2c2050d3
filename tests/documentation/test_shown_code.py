"""The commands and the Python code of the pages run as they are shown, on small images.

`NOT_RUN` names each command that does not run here, with the reason; `test_commands.py` checks its options.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import daad_jax
from daad_jax import recipes
from tests.documentation import pages

pytestmark = pytest.mark.slow
SHOWN = [page for page in pages.PAGES if page.name != "commands.md"]
# The first pattern that a command matches says why it does not run.
NOT_RUN = {
    r"^(pip|gcloud|curl|sha256sum) ": "programs of others",
    r"^make ": "the developer's own commands; make test runs this test",
    r"^daad-jax (COMMAND|serve|review)|--help": "a placeholder, or a server, which tests/serving starts",
    r"^daad-jax [\w-]+$": "a name in a sentence, without options",
    r"gs://": "needs a bucket; tests/test_bucket_job.py runs such commands with an emulator",
    r"tfds:|cifar10|mnist:|DIRECTORY|data_dir": "downloads a data set",
    r"--distributed|--coordinator": "needs several processes; tests/runtime starts them",
    r"^python (-m|train\.py|evaluate\.py)": "the developer's own modules, or a recipe that downloads",
    r"^python reproduce\.py": "hours of training; tests/reproduction runs a small table",
    r"select.recipe": "only for networks; tests/selection ranks small runs",
    r"--fresh_hold_out|--use ID": "needs a run with a history, which tests/training make",
    r"onnx": "the extra `export` needs an environment of its own",
}
HAVE_RUN: set[str] = set()  # several pages show the same command
SIZE = ["--config.data.height=64", "--config.data.width=64"]
NETWORKS = ["--config.model.base_width=4", "--config.model.discriminator_width=4"]
NETWORKS += ["--config.train.steps=4", "--config.train.batch_size=4"]


def reason_not_to_run(command: str) -> str:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), "")


def draw(folder: Path, count: int, seed: int, blot: bool = False) -> None:
    """Images of noisy stripes, 64 x 64, with or without a white blot."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.tile(np.arange(64) % 8 * 20, (64, 1)) + rng.integers(0, 20, (64, 64))
        if blot:
            image[20:40, 20:40] = 255
        Image.fromarray(np.stack([image.astype(np.uint8)] * 3, -1)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the images that the pages name, in which the shown commands run one after another."""
    place = tmp_path_factory.mktemp("shown")
    draw(place / "parts" / "train" / "good", 20, 0)
    for set_name, seed in (("parts/test", 1), ("second_test_set", 2), ("labelled_images", 3)):
        draw(place / set_name / "good", 4, seed)
        draw(place / set_name / "scratch", 4, seed + 10, blot=True)
    for number, name in enumerate(("new_images", "more/good/images", "more_good_images", "FOLDER", "PATH")):
        draw(place / name, 6, 20 + number, blot=name == "new_images")
    for name in ("a.png", "b.jpg", "new_images/a.png", "new_images/b.png"):
        Image.open(place / "new_images" / "0.png").save(place / name)
    (place / "my_parts.py").write_text(next(b for b in blocks("add_data_set.md") if "def get_config" in b))
    for number in range(20):  # the recipe of that page groups by these names
        (place / "parts" / "train" / "good" / f"{number}.png").rename(
            place / "parts" / "train" / "good" / f"part{number}_0.png"
        )
    for workdir in ("RUN", "runs/folder-parts"):
        run(place, ["train", "--config", "folder:parts", *SIZE, "--workdir", workdir])
        run(place, ["evaluate", "--workdir", workdir])
    return place


def load_small_recipe(recipe: str) -> daad_jax.Config:
    config = recipes.load_recipe(recipe)
    config.data.height = config.data.width = 64
    return config


def blocks(page: str) -> list[str]:
    path = pages.ROOT / page if page == "README.md" else pages.DOCS / page
    return pages.code_blocks(path)


def run(place: Path, arguments: list[str]) -> None:
    clean = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "daad_jax", *arguments]
    environment = clean | {"PYTHONPATH": str(pages.ROOT), "DAAD_CACHE_DIR": str(place / "cache")}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (arguments, done.stderr)


def at_smoke_size(words: list[str], workdir: str) -> list[str]:
    """A shown command on small images. A training goes to `workdir`, except the one that others use."""
    words = [word.removesuffix("...") for word in words]
    if words[0] == "compare":  # two different runs
        words[words.index("RUN")] = "runs/folder-parts"
    if words[0] != "train":
        return words
    learns = "daad_plus" in " ".join(words)
    keys = {word.partition("=")[0] for word in words}
    small = [word for word in SIZE + NETWORKS * learns if word.partition("=")[0] not in keys]
    is_used_later = words == ["train", "--config", "folder:parts"]
    return [*words, *small, *([] if is_used_later else ["--workdir", workdir])]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_shown_commands_run(place, page):
    shown = dict.fromkeys(" ".join(words) for words in pages.commands(page))
    for number, command in enumerate(shown):
        if command not in HAVE_RUN and not reason_not_to_run(command):
            run(place, at_smoke_size(command.split()[1:], f"runs/{page.stem}-{number}"))
            HAVE_RUN.add(command)


def test_the_list_of_what_does_not_run_has_no_idle_entry():
    commands = {" ".join(words) for page in SHOWN for words in pages.commands(page)}
    assert all(any(re.search(pattern, c) for c in commands) for pattern in NOT_RUN)


@pytest.mark.parametrize(("page", "count"), [("README.md", 1), ("train.md", 1), ("data.md", 2)])
def test_shown_python_runs(place, page, count, monkeypatch):
    shown = [block for block in blocks(page) if re.search(r"^(from|import) |train\(", block, re.MULTILINE)]
    assert len(shown) == count
    monkeypatch.chdir(place)
    monkeypatch.setenv("DAAD_CACHE_DIR", str(place / "cache"))
    monkeypatch.setattr(daad_jax, "load_recipe", load_small_recipe)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (20, 64, 64, 3)).astype(np.uint8)
    names = {
        "images": pictures[:12],
        "good": pictures[:12],
        "held_out": pictures[12:16],
        "tested": pictures[16:20],
    }
    names["labels"] = np.array([0, 0, 1, 1])
    for number, block in enumerate(shown):
        exec(block.replace('"runs/parts"', f'"runs/{page}-{number}"'), names)


def test_shown_orbax_code_reads_a_checkpoint(place):
    (block,) = [block for block in blocks("checkpoints.md") if "import orbax" in block]
    step = max((place / "RUN" / "checkpoints").iterdir())
    names: dict = {}
    code = block.replace("/absolute/path/to/checkpoints/300", str(step))
    exec(code.replace('tree["generator"]["params"]["stem"]["kernel"]', "tree"), names)
    assert int(np.asarray(names["tree"]["step"])) == int(step.name)
