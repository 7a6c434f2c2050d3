"""A batch that certainly exceeds the memory is refused before anything is computed."""

import jax
import pytest

from daad_jax.errors import UserError
from daad_jax.runtime import memory_limit
from daad_jax.runtime.memory_limit import host_memory, require_memory
from daad_jax.scoring.scorer import Scorer
from tests.tiny import tiny_config


def test_this_machine_has_memory():
    assert 2**27 < host_memory() < 2**50


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory_limit, "CONTAINER_LIMITS", (tmp_path / "none", limit))
    limit.write_text("1000000\n")
    assert host_memory() == 1_000_000
    limit.write_text("max\n")
    assert host_memory() > 2**27


def test_the_message_has_the_largest_size(monkeypatch):
    config = tiny_config()  # 4 channels of 16 x 16 in 4 bytes: 4096 bytes each image
    images = 100
    needed = images * jax.local_device_count() * 4096
    monkeypatch.setattr(memory_limit, "host_memory", lambda: needed)
    require_memory("config.score.batch_size = 100", images, config)
    monkeypatch.setattr(memory_limit, "host_memory", lambda: needed // 2)
    with pytest.raises(UserError, match=r"config\.score\.batch_size = 100 is too large: .* give at most 50$"):
        require_memory("config.score.batch_size = 100", images, config)
    monkeypatch.setattr(memory_limit, "host_memory", lambda: 0)  # the system does not tell
    require_memory("config.score.batch_size = 100", images, config)


def test_a_scorer_refuses_before_it_has_an_image(monkeypatch):
    monkeypatch.setattr(memory_limit, "host_memory", lambda: 10**6)
    with pytest.raises(UserError, match=r"config\.score\.batch_size = 4000 is too large"):
        Scorer(tiny_config(score__batch_size=4000))
    with pytest.raises(UserError, match="the batch size is too large"):
        Scorer(tiny_config(), batch_size=4000)
