"""docs/performance.md shows the stored measurements and which engine was faster."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import performance_page

PLAN = command.Plan(["daad_jax"], 3, {32: 64})
VERSIONS = {"machine": "m", "jax": "1"}


def make_row(ours, *others, **more):
    engines = dict(zip(("daad_jax", "torch", "torch.compile"), (ours, *others)))
    return {name: {"seconds": seconds, **more} for name, seconds in engines.items()}


def test_speedup_compares_medians_with_the_fastest_other_engine():
    assert performance_page.speedup(make_row([0.1, 9, 0.1], [0.3], [0.2, 0.2, 7])) == pytest.approx(2)


def test_the_page_has_all_rows_and_pictures(tmp_path):
    step = make_row([0.2], [0.5], [0.4], operations=8e9, matmul=1e11)
    records = {
        "step": {"32 px": step, "versions": VERSIONS},
        "memory": {"32 px": make_row([1.0], [1.0], [1.0], peak=5e8), "versions": VERSIONS},
        "start": {"cold": make_row([3.0], [1.0], [9.0]), "versions": VERSIONS},
        "growth": {
            "64 px": make_row([0.125]),
            "128 px": make_row([0.5]),
            "width 8": make_row([0.1]),
            "versions": VERSIONS,
        },
    }
    gpu_records = {"step": {"32 px": make_row([0.2], [0.5], [0.4], peak=7e6), "versions": VERSIONS}}
    avx512_records = {"latency": {"32 px": make_row([0.02], [0.05], [0.03]), "versions": VERSIONS}}
    stored = {"cpu": records, "cpu_avx512": avx512_records, "gpu": gpu_records}
    performance_page.write(stored, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| 32 px | 200.0 | 500.0 | 400.0 | 2.00 | 40% |" in text
    assert "| 32 px | 500 | 500 | 500 |" in text
    assert "| cold | 3000.0 | 1000.0 | 9000.0 |" in text  # not compared: eager PyTorch compiles nothing
    assert "| 64 px | 125.0 |" in text
    on_avx512, on_gpu = text.split("# On a processor with AVX-512")[1].split("# On a GPU")
    assert "| 32 px | 20.0 | 50.0 | 30.0 | 1.50 |" in on_avx512
    assert "| 32 px | 200.0 | 500.0 | 400.0 | 2.00 | 7 / 7 / 7 |" in on_gpu
    assert "product of 2048^3: 100 GFLOP/s" in text
    for picture in ("performance.png", "growth.png"):
        assert (tmp_path / picture).stat().st_size > 1000
        assert f"]({picture})" in text


def test_without_other_engines_there_is_no_comparison(tmp_path):
    performance_page.write({"cpu": {"score": {"32 px": make_row([0.1]), "versions": VERSIONS}}}, tmp_path)
    assert "times as fast" not in (tmp_path / "performance.md").read_text().split("##")[1]
    assert not list(tmp_path.glob("*.png"))


def test_an_interrupted_run_keeps_its_finished_rows(tmp_path, monkeypatch):
    def cut_off(plan):
        yield "32 px", make_row([0.125] * plan.rounds)
        raise KeyboardInterrupt

    monkeypatch.setitem(command.PIECES, "score", cut_off)
    with pytest.raises(KeyboardInterrupt):
        command.measure(["score"], PLAN, tmp_path)
    assert "| 32 px | 125.0 |" in (tmp_path / "performance.md").read_text()

    def other_size(plan):
        yield "64 px", make_row([0.25] * plan.rounds)

    monkeypatch.setitem(command.PIECES, "score", other_size)
    command.measure(["score"], PLAN, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| 32 px | 125.0 |" in text
    assert "| 64 px | 250.0 |" in text

    def beside_torch(plan):
        yield "64 px", make_row([0.25], [0.5])

    monkeypatch.setitem(command.PIECES, "score", beside_torch)
    command.measure(["score"], PLAN, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| 64 px | 250.0 | 500.0 | 2.00 |" in text
    assert "| 32 px |" not in text
    monkeypatch.setattr(performance_page, "versions", lambda: {"machine": "another"})
    monkeypatch.setitem(command.PIECES, "score", lambda plan: iter([("8 px", make_row([1.0], [2.0]))]))
    command.measure(["score"], PLAN, tmp_path)
    assert "| 64 px |" not in (tmp_path / "performance.md").read_text()


@pytest.mark.parametrize(
    ("flags", "group"), [("flags: fma avx2", "cpu"), ("flags: avx2 avx512f", "cpu_avx512"), ("", "cpu")]
)
def test_measurements_of_wider_vectors_are_apart(monkeypatch, flags, group):
    monkeypatch.setattr(performance_page.startup, "instruction_sets", lambda: flags)
    assert performance_page.group() == group


def test_the_page_of_the_repository_is_made_from_its_stored_measurements(tmp_path):
    docs = Path(__file__).parents[2] / "docs"
    performance_page.write(json.loads((docs / "performance.json").read_text()), tmp_path)
    assert (tmp_path / "performance.md").read_text() == (docs / "performance.md").read_text()
