"""A release has one version everywhere, and is tried with the oldest and the newest Python."""

import pytest

import daad_jax
from maintenance import release_check
from maintenance.release_check import CheckError
from tests.documentation import pages


def test_the_version_is_the_same_everywhere():
    assert release_check.check_version(pages.ROOT, daad_jax.__version__)


def test_a_forgotten_version_is_named(tmp_path):
    (tmp_path / "CITATION.cff").write_text("title: x\nversion: 0.2.0\nlicense: y\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0 (2026-01-01)\n")
    with pytest.raises(CheckError, match=r"CHANGELOG\.md"):
        release_check.check_version(tmp_path, "0.2.0")
    with pytest.raises(CheckError, match=r"CITATION\.cff"):
        release_check.check_version(tmp_path, "0.1.0")


@pytest.mark.parametrize(
    ("there", "chosen"),
    [(["3.10", "3.11", "3.12", "3.14"], ["3.11", "3.14"]), (["3.12"], ["3.12"]), (["3.9"], [])],
)
def test_the_oldest_and_the_newest_python_are_tried(tmp_path, there, chosen):
    for version in there:
        (tmp_path / f"python{version}").write_text("#!/bin/sh\n")
        (tmp_path / f"python{version}").chmod(0o755)
    (tmp_path / "python3.15").write_text("#!/bin/sh\nexit 127\n")  # a shim without its Python
    (tmp_path / "python3.15").chmod(0o755)
    found = release_check.find_pythons(str(tmp_path))
    assert found == [str(tmp_path / f"python{version}") for version in chosen]


def test_a_failing_command_is_named_with_what_it_printed():
    with pytest.raises(CheckError, match=r"exit status 3\nno space"):
        release_check.run("sh", "-c", "echo no space; exit 3")
