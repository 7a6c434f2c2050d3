"""The compiler gets our options, and only options that it knows."""

import pytest

from daad_jax.runtime import compilation


@pytest.fixture(autouse=True)
def fresh():
    compilation.options.cache_clear()
    yield
    compilation.options.cache_clear()


@pytest.mark.parametrize(("platform", "told"), [("tpu", False), ("gpu", False), ("cpu", True)])
def test_only_the_cpu_compiler_is_told_anything(platform, told):
    assert (compilation.options(platform) is not None) == told


def test_an_option_that_the_compiler_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compilation, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    assert compilation.options("cpu") is None
