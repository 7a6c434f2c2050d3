"""The package as pip installs it: built from the checkout, tried outside of it."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import daad_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SMALL = [
    "--config.data.height=32",
    "--config.data.width=32",
    "--config.model.base_width=4",
    "--config.model.discriminator_width=4",
    "--config.train.steps=4",
    "--config.train.batch_size=4",
]


def run(*command, cwd, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def site(built, tmp_path_factory):
    """A folder into which the wheel is installed, without its dependencies: this environment has them."""
    target = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel,
        cwd=target,
    )  # fmt: skip
    return target


def test_the_wheel_holds_the_library_and_the_recipes(built):
    (wheel,) = built.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    library = {p.relative_to(ROOT).as_posix() for p in (ROOT / "daad_jax").rglob("*") if p.is_file()}
    recipes = {f"daad_jax/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
    assert names == {n for n in library | recipes if "__pycache__" not in n}
    for name in ("report.html.j2", "comparison.html.j2", "page.css"):
        assert f"daad_jax/evaluation/{name}" in names


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert not tops & {"tests", "docs", "benchmarks", "reproduction", "runs", ".venv"}
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation",
        "-w", tmp_path, sdist, cwd=tmp_path,
    )  # fmt: skip
    again = zipfile.ZipFile(tmp_path / wheel.name)
    assert sorted(again.namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_installed_package_works_in_an_empty_folder(site, tmp_path):
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        (tmp_path / "good").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "good" / f"{i}.png")
    environment = {"PYTHONPATH": str(site), "DAAD_CACHE_DIR": str(tmp_path / "cache")}

    def here(*command):
        return run(*command, cwd=tmp_path, **environment)

    file = here(sys.executable, "-c", "import daad_jax; print(daad_jax.__file__)").strip()
    assert Path(file).is_relative_to(site)
    command = site / "bin" / "daad-jax"
    assert here(command, "--version") == f"daad_jax {daad_jax.__version__}\n"
    # Train on ten images, predict, export; then the same checkpoint from Python.
    out = here(command, "train", "--config", "folder:good,daad_plus", "--workdir", "run", *SMALL)
    assert out.splitlines()[-1] == "next: daad-jax predict --workdir run IMAGE_OR_FOLDER..."
    here(command, "predict", "--workdir", "run", "good")
    assert len((tmp_path / "run" / "predictions" / "scores.csv").read_text().splitlines()) == 11
    here(sys.executable, "-m", "daad_jax", "export", "--workdir", "run", "--formats", "stablehlo")
    assert (tmp_path / "run" / "export" / "model.stablehlo").is_file()
    code = (
        "from daad_jax import Detector; print(len(Detector.load('run').score(['good/0.png', 'good/1.png'])))"
    )
    assert here(sys.executable, "-c", code) == "2\n"
    # A recipe that is not a folder of the user's, by its name; and a file of the user's.
    (tmp_path / "mine.py").write_text(
        "from daad_jax.config import Config\n\ndef get_config(words=''):\n    return Config()\n"
    )
    code = "from daad_jax import load_recipe; print(load_recipe('mnist:3').name, load_recipe('mine.py').name)"
    assert here(sys.executable, "-c", code) == "mnist-3 default\n"


def test_the_console_command_ends_as_the_others_do(site, tmp_path):
    """One line for a mistake; a reader that leaves is no error of ours."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    for words, status, says in (
        ("trian", 2, "daad-jax: error: 'trian': no such command; did you mean 'train'?\n"),
        ("--help | true", 141, "daad-jax: stopped: nobody reads the output any more\n"),
    ):
        script = f"set -o pipefail; sleep 0.1; '{site / 'bin' / 'daad-jax'}' {words}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        if status == 2 or done.returncode:  # `true` may end after the help was written
            assert (done.returncode, done.stderr) == (status, says)


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "export", "select-recipe"])
def test_console_commands_explain_themselves(site, tmp_path, name):
    out = run(site / "bin" / "daad-jax", name, "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert out.startswith(f"daad-jax {name} ")
    assert name in run(site / "bin" / "daad-jax", "--help", cwd=tmp_path, PYTHONPATH=str(site))


def test_requirements_are_those_of_the_project():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["prepare"]


def test_locks_pin_what_the_project_needs():
    def package(line):
        name = line.split(";")[0].split("[")[0]
        for mark in (">=", "=="):
            name = name.split(mark)[0]
        return name.strip().lower().replace("_", "-")

    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["dev"]]
    own = [line.removeprefix("daad_jax[").removesuffix("]") for line in lines if line.startswith("daad_jax[")]
    lines += [line for extra in own for line in extras[extra]]
    needed = {package(line) for line in lines} - {"daad-jax"}
    for lock in sorted((ROOT / "locks").glob("*.txt")):
        pinned = {package(line) for line in lock.read_text(encoding="utf-8").splitlines()}
        assert needed <= pinned, lock
