"""A workdir belongs to one configuration; a damaged or removed one is a line with the remedy."""

import shutil

import pytest

from daad_jax.config import to_json
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
        assert (tmp_path / "config.json").read_text() == to_json(tiny_config())


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
