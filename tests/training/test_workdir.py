"""A workdir belongs to one configuration; a damaged or removed one is a line with the remedy."""

import json
import shutil

import pytest

from daad_jax.config import from_json, to_json
from daad_jax.errors import UserError
from daad_jax.training.workdir import claim_workdir, find_claim, require_claim
from tests.tiny import tiny_config

DAMAGED = (b"\xff", b"", b"[1]", b"[" * 10**6, b'{"data": {"name": 5}}', b'{"data": 1}', b'{"x": 1}')


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_config_is_one_line_with_the_remedy(tmp_path, content):
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "config.json").write_bytes(content)
    says = rf"^{tmp_path / 'config.json'}: .*; put the file of the run back, or give another --workdir$"
    with pytest.raises(UserError, match=says), claim_workdir(tmp_path, tiny_config()):
        pass
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_damaged_config_of_a_run_that_never_trained_is_replaced(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff")
    with claim_workdir(tmp_path, tiny_config()):
        assert from_json((tmp_path / "config.json").read_text()) == tiny_config()


def test_a_changed_value_in_the_config_is_noticed(tmp_path):
    """Without the checksum, the file would say that the run was trained in another way."""
    with claim_workdir(tmp_path, tiny_config()):
        pass
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    file = tmp_path / "config.json"
    tree = json.loads(file.read_text())
    tree["loss"]["adversarial"] += 1
    file.write_text(json.dumps(tree))
    with (
        pytest.raises(UserError, match="its checksum differs, so the file was damaged or edited"),
        claim_workdir(tmp_path, tiny_config()),
    ):
        pass
    assert from_json(file.read_text()).loss.adversarial == tree["loss"]["adversarial"]  # as a recipe


def test_a_config_of_an_earlier_version_gets_a_checksum(tmp_path):
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "config.json").write_text(to_json(tiny_config()))
    with claim_workdir(tmp_path, tiny_config()):
        assert "sha256" in json.loads((tmp_path / "config.json").read_text())


def test_a_workdir_that_is_removed_or_replaced_is_noticed(tmp_path):
    workdir, other = tmp_path / "run", tmp_path / "other"
    with claim_workdir(workdir, tiny_config()):
        claim = find_claim(workdir)
        require_claim(workdir, claim)
        workdir.rename(other)
        with pytest.raises(UserError, match="run: this folder was removed or replaced"):
            require_claim(workdir, claim)
        with claim_workdir(workdir, tiny_config()), pytest.raises(UserError, match="removed or replaced"):
            require_claim(workdir, claim)
        shutil.rmtree(workdir)
        other.rename(workdir)
        require_claim(workdir, claim)


def test_a_workdir_that_only_process_0_sees(tmp_path):
    with pytest.raises(UserError, match="process 0 writes another folder"):
        find_claim(tmp_path)
