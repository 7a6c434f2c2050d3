"""The catalogue: its names, its errors, and that it costs no heavy import."""

import subprocess
import sys

import pytest

from daad_jax.data.catalogue import DATA_SETS, find_data_set
from daad_jax.errors import UserError


def test_every_configuration_name_finds_its_entry():
    for data_set in DATA_SETS.values():
        assert all(find_data_set(name) is data_set for name in data_set.config_names)
    assert find_data_set("mvtec_ad/bottle").parts[0] == "bottle"
    assert find_data_set("mnist").classes == tuple("0123456789")


def test_an_entry_has_classes_or_parts_and_its_defaults_are_among_them():
    for name, data_set in DATA_SETS.items():
        assert data_set.name == name
        assert bool(data_set.classes) != bool(data_set.parts)
        assert {data_set.default_subject, *data_set.default_subjects} <= set(data_set.subjects)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnits", "'mnits': no such data set; did you mean 'mnist'"),
        ("mnist/3", "did you mean 'mnist'"),
        ("mvtec_ad/botle", "did you mean 'mvtec_ad/bottle'"),
        ("mvtec_ad", "known: mvtec_ad/bottle, mvtec_ad/cable"),
        ("qqq", "known: mnist, cifar10, mvtec_ad/bottle"),
    ],
)
def test_unknown_names(name, says):
    with pytest.raises(UserError, match=says):
        find_data_set(name)


def test_neither_jax_nor_tfds_is_imported():
    code = (
        "import sys, daad_jax.data.catalogue;"
        "print([m for m in ('jax', 'tensorflow_datasets', 'numpy') if m in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "[]\n"
