"""Checks that a release can be made and tagged: make release-check

1. The version is the same in the package, in CITATION.cff and in CHANGELOG.md, and has no tag yet.
2. Everything is committed.
3. The wheel and the sdist build, and their metadata is what PyPI takes.
4. The site builds.
5. The wheel and the sdist install into clean environments of the oldest and the newest Python of this
   machine, and the commands and all public names are there.

The first failure ends the check with one line and exit status 1. Nothing is published and nothing is tagged.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import daad_jax

ROOT = Path(__file__).parents[1]
OLDEST = 11  # Python 3.11
TRIAL = """
import daad_jax
for name in daad_jax.__all__:
    getattr(daad_jax, name)
config = daad_jax.load_recipe("folder:parts")
print(daad_jax.__version__)
"""


class CheckError(Exception):
    """Something that a release must not have."""


def run(*command: object, folder: Path = ROOT) -> str:
    """The output of a command.

    Raises:
        CheckError: the command failed; the message has its last lines.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-15:]
        raise CheckError("\n".join([f"{' '.join(words)}: exit status {done.returncode}", *lines]))
    return done.stdout


def check_version(root: Path, version: str) -> str:
    """The section of CHANGELOG.md about a version.

    Args:
        root: the folder of CITATION.cff and CHANGELOG.md.
        version: the version of the package.

    Raises:
        CheckError: a file has another version.
    """
    if f"\nversion: {version}\n" not in (root / "CITATION.cff").read_text(encoding="utf-8"):
        raise CheckError(f"CITATION.cff: needs the line 'version: {version}'")
    heading, *_ = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if heading.split()[0] != version:
        raise CheckError(f"CHANGELOG.md: the first section is {heading!r}; it must be about {version}")
    return heading


def find_pythons(path: str | None = None) -> list[str]:
    """The programs of the oldest and the newest usable Python of this machine; one if there is only one.

    Args:
        path: the folders to search, as in PATH; None: PATH.
    """
    names = [f"python3.{minor}" for minor in range(OLDEST, 30)]
    found = [program for name in names if (program := shutil.which(name, path=path))]
    # A version manager leaves programs for versions that are not there; those fail.
    found = [p for p in found if subprocess.run([p, "--version"], capture_output=True).returncode == 0]
    return found[:1] + found[1:][-1:]


def check_installation(python: str, distributions: Sequence[Path], folder: Path) -> None:
    """Installs the wheel and the sdist into a clean environment, and tries the commands and the public names.

    Args:
        python: the program of the Python to use.
        distributions: the files to install, one after the other. The first one brings the dependencies.
        folder: the folder of the environment; it is made.

    Raises:
        CheckError: an installation failed, or something is missing in it.
    """
    run(python, "-m", "venv", folder)
    options: list[str] = []
    for distribution in distributions:
        run(folder / "bin" / "python", "-m", "pip", "install", "-q", *options, distribution)
        run(folder / "bin" / "python", "-m", "pip", "check")
        version = run(folder / "bin" / "python", "-c", TRIAL, folder=folder).split()[-1]
        if version != daad_jax.__version__:
            raise CheckError(f"{distribution.name}: has version {version}, not {daad_jax.__version__}")
        run(folder / "bin" / "daad-jax", "train", "--help", folder=folder)
        print(f"{python}: {distribution.name} installs and runs", flush=True)
        options = ["--force-reinstall", "--no-deps"]


def main() -> None:
    version = daad_jax.__version__
    heading = check_version(ROOT, version)
    if run("git", "tag", "--list", f"v{version}").strip():
        raise CheckError(f"the tag v{version} exists; raise __version__ in daad_jax/__init__.py")
    if changed := run("git", "status", "--porcelain").strip():
        raise CheckError(f"not committed:\n{changed}")
    print(f"version {version}: the same everywhere", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT)
        files = sorted((folder / "dist").iterdir())
        run(sys.executable, "-m", "twine", "check", "--strict", *files)
        print(f"built: {', '.join(file.name for file in files)}", flush=True)
        run(sys.executable, "-m", "zensical", "build", "--clean", "--strict")
        print("site: built", flush=True)
        for python in find_pythons():
            check_installation(python, files, folder / Path(python).name)
    if "not released" in heading:
        print(f"before the tag: replace '(not released yet)' in CHANGELOG.md by the date of {version}")
    print(f"ready: git tag v{version}")


if __name__ == "__main__":
    try:
        main()
    except CheckError as error:
        sys.exit(f"release-check: {error}")
