"""Paths are found from the right folder, and a URL stays as it is."""

import os
from pathlib import Path

import pytest
from etils import epath

from daad_jax.config import DataConfig
from daad_jax.data import tfds_source
from daad_jax.data.catalogue import DATA_SETS
from daad_jax.data.locations import absolute_locations, locate, make_absolute, tfds_directory
from daad_jax.errors import UserError

BUCKET = "gs://bucket/dir"


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path


def test_a_url_stays_as_it_is(places, monkeypatch):
    assert make_absolute(BUCKET) == BUCKET
    assert make_absolute("") == ""
    assert make_absolute("a/../b") == str(places / "there" / "b")
    assert make_absolute("~/b") == str(Path("~/b").expanduser())
    assert tfds_directory(DataConfig(data_dir=BUCKET)) == BUCKET
    monkeypatch.setenv("TFDS_DATA_DIR", BUCKET)
    assert tfds_directory(DataConfig()) == BUCKET
    assert absolute_locations(DataConfig()) == {"path": "", "data_dir": BUCKET}
    assert locate(DataConfig(data_dir=BUCKET), {"path": "", "data_dir": BUCKET}, False).data_dir == BUCKET


def test_tfds_gets_a_url_as_it_was_typed(monkeypatch):
    monkeypatch.delenv("DAAD_MVTEC_DIR", raising=False)
    import tensorflow_datasets as tfds

    asked = []
    monkeypatch.setattr(tfds, "builder", lambda name, **how: asked.append((name, how["data_dir"])))
    monkeypatch.setattr(tfds_source, "open_place", Path)  # there is no such bucket
    tfds_source._make_builder(DataConfig(name="own", data_dir=BUCKET))
    assert asked == [("own", BUCKET)]
    folder = tfds_source._originals_folder(DATA_SETS["mvtec_ad"], "", BUCKET)
    assert str(folder) == f"{BUCKET}/downloads/manual"
    assert isinstance(folder, epath.Path)


def test_a_file_in_a_bucket_is_stamped_by_what_the_bucket_says():
    class File:
        name = "data_info.json"

        def __str__(self):
            return f"{BUCKET}/{self.name}"

        def stat(self):
            return epath.stat_utils.StatResult(is_directory=False, length=7, mtime=5)

    assert tfds_source._stamp(File()) == ("data_info.json", 7, 5)


def folder_config(path):
    return DataConfig(source="folder", path=path)


def test_a_relative_path_is_found_from_another_directory(places):
    remembered = {"path": str(places / "here" / "parts"), "data_dir": ""}
    (places / "here" / "parts").mkdir()
    assert locate(folder_config("parts"), remembered, False).path == remembered["path"]
    assert locate(folder_config("parts"), remembered, True).path == remembered["path"]
    # What is typed now is meant from here; what a run remembers is meant from where it trained.
    (places / "there" / "parts").mkdir()
    assert locate(folder_config("parts"), remembered, True).path == "parts"
    assert locate(folder_config("parts"), remembered, False).path == remembered["path"]
    # The project has moved, and somebody works inside of it.
    os.rmdir(remembered["path"])
    assert locate(folder_config("parts"), remembered, False).path == "parts"


def test_both_places_and_the_remedy_are_named(places):
    remembered = {"path": str(places / "here" / "parts"), "data_dir": ""}
    with pytest.raises(UserError, match=r"the images of this run are not there; .*--data FOLDER") as error:
        locate(folder_config("parts"), remembered, False)
    assert str(error.value).startswith(f"{remembered['path']} and {places / 'there' / 'parts'}: ")
    gone = str(places / "gone")
    with pytest.raises(UserError, match=f"^{gone}: the images"):
        locate(folder_config(gone), {"path": gone, "data_dir": ""}, False)


def test_a_tfds_directory_that_the_environment_named_is_remembered(places, monkeypatch):
    remembered = {"path": "", "data_dir": str(places / "here")}
    assert locate(DataConfig(), remembered, False).data_dir == str(places / "here")
    monkeypatch.setenv("TFDS_DATA_DIR", str(places / "there"))
    assert locate(DataConfig(), remembered, False).data_dir == ""  # the environment says where, absolutely
