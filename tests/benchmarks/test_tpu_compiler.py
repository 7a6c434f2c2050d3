"""The TPU's compiler compiles our programs as a TPU VM would, and the page says what it found."""

import importlib.util

import jax
import pytest

from benchmarks import tpu_compiler, tpu_section
from tests.tiny import tiny_config

ROW = {
    "chip": "v5e", "compile_s": 12.0, "compile_core_s": 20.0, "flop": 197e9, "bytes": 819e6 * 4,
    "main_memory_bytes": 819e6, "bytes_per_image": 2e6, "estimated_ms": 5.0,
    "arguments": 2**30, "temporary": 2**30, "updated_in_place": 0, "collectives": 3, "products_ms": 1.0,
    "bytes_ms": 4.0, "versions": {"jax": "1", "libtpu": "2"},
}  # fmt: skip


def test_the_page_says_what_bounds_a_program():
    assert tpu_section.make_section({}, {}) == []
    section = "\n".join(tpu_section.make_section({"folder, step": ROW}, {}))
    assert "(jax 1, libtpu 2)" in section
    assert (
        "| folder, step | 20 | 197.0 | 3.28 | 0.82 | 2.00 | 1.00 | 4.00 | 5.00 | bytes | 12.5% | 3 |"
        in section
    )


def test_a_row_of_an_earlier_version_leaves_new_cells_empty():
    added = ("compile_core_s", "main_memory_bytes", "estimated_ms")
    row = {key: value for key, value in ROW.items() if key not in added}
    section = "\n".join(tpu_section.make_section({"folder, step": row}, {}))
    assert "| folder, step |  | 197.0 | 3.28 |  | 2.00 | 1.00 | 4.00 |  | bytes | 12.5% | 3 |" in section


def test_the_page_compares_with_an_earlier_commit():
    old = {"commit": "abc1234", "bytes": 819e6 * 8, "temporary": 3 * 2**30, "compile_core_s": 40.0}
    before = {"folder, step": old, "mnist, step": old}  # the second was not compiled again
    head, _, line = tpu_section.make_section({"folder, step": ROW}, before)[-1].splitlines()
    assert head.startswith("| commit abc1234 → now | GB | GB of HBM |")
    assert line == "| folder, step | 6.55 → 3.28 (0.50) |  | 3072 → 1024 (0.33) |  | 40 → 20 (0.50) |"
    assert tpu_section.compare_commits({"folder, step": ROW}, {"mnist, step": old}) == ""


def test_programs_are_named_for_the_run_that_they_belong_to():
    programs = list(tpu_compiler.make_programs(tiny_config(), 16, "v5e", ["a", "b", "c", "d"]))
    assert [p.name for p in programs] == [
        "step, float32, 1 x v5e, 16 images",
        "step, float32, 4 x v5e, 64 images",
        "scoring, 1 x v5e, 1024 images",
    ]
    # Training limits the kernels, and scoring does not.
    assert [p.options for p in programs] == [{"xla_tpu_scoped_vmem_limit_kib": "6144"}] * 2 + [None]
    config = tiny_config(train__precision="bfloat16")
    names = [p.name for p in tpu_compiler.make_programs(config, 16, "v5e", ["a", "b", "c", "d"])]
    assert names[-1] == "10 steps a call, bfloat16, 4 x v5e, 64 images"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu-check (libtpu)")
def test_the_compiler_of_the_tpu_compiles_a_step_and_full_products():
    from jax.experimental import topologies

    with tpu_compiler.quiet_libtpu():
        devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
        one, four, _ = tpu_compiler.make_programs(tiny_config(), 4, "v5e", list(devices))
        alone, together = (tpu_compiler.compile_program(program, "v5e") for program in (one, four))
        config = tiny_config()
        abstract = tpu_compiler.abstract_state(config)
        with jax.default_matmul_precision("bfloat16"):  # the program must not depend on it
            lowered = tpu_compiler._lower_scoring(config, abstract, (4, 16, 16, 3), devices[0])
        products = [x for x in lowered.compile().as_text().splitlines() if " convolution(" in x]
    assert alone["collectives"] == 0 < together["collectives"]
    assert alone["updated_in_place"] > 0  # parameters are donated
    assert alone["main_memory_bytes"] > 0
    assert alone["estimated_ms"] > 0
    assert alone["bytes"] > alone["flop"] / 100 > 0
    assert products
    assert all("operand_precision={highest,highest}" in x or "bf16" not in x for x in products)
