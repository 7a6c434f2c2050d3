"""docs/performance.md says what was measured, and who was faster."""

import pytest

from benchmarks import __main__ as command
from benchmarks import performance_page as page

PLAN = command.Plan(["daad_jax"], 3, {32: 64})
VERSIONS = {"machine": "m", "jax": "1"}


def row(ours, *others, **more):
    engines = dict(zip(("daad_jax", "torch", "torch.compile"), (ours, *others)))
    return {name: {"seconds": seconds, **more} for name, seconds in engines.items()}


def test_the_better_of_the_others_counts_and_medians_do():
    assert page.speedup(row([0.1, 9, 0.1], [0.3], [0.2, 0.2, 7])) == pytest.approx(2)


def test_page(tmp_path):
    step = row([0.2], [0.5], [0.4], operations=8e9, matmul=1e11)
    records = {
        "step": {"32 px": step, "versions": VERSIONS},
        "memory": {"32 px": row([1.0], [1.0], [1.0], peak=5e8), "versions": VERSIONS},
        "start": {"cold": row([3.0], [1.0], [9.0]), "versions": VERSIONS},
        "growth": {"64 px": row([0.125]), "128 px": row([0.5]), "width 8": row([0.1]), "versions": VERSIONS},
    }
    on_gpu = {"step": {"32 px": row([0.2], [0.5], [0.4], peak=7e6), "versions": VERSIONS}}
    page.write({"cpu": records, "gpu": on_gpu}, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| 32 px | 200.0 | 500.0 | 400.0 | 2.00 | 40% |" in text
    assert "| 32 px | 500 | 500 | 500 |" in text
    assert "| cold | 3000.0 | 1000.0 | 9000.0 |" in text  # no race: PyTorch alone compiles nothing
    assert "| 64 px | 125.0 |" in text
    assert "| 32 px | 200.0 | 500.0 | 400.0 | 2.00 | 7 / 7 / 7 |" in text.split("# On a GPU")[1]
    assert "product of 2048^3: 100 GFLOP/s" in text
    for picture in ("performance.png", "growth.png"):
        assert (tmp_path / picture).stat().st_size > 1000
        assert f"]({picture})" in text


def test_ours_alone_has_nothing_to_compare_with(tmp_path):
    page.write({"cpu": {"score": {"32 px": row([0.1]), "versions": VERSIONS}}}, tmp_path)
    assert "times as fast" not in (tmp_path / "performance.md").read_text().split("##")[1]
    assert not list(tmp_path.glob("*.png"))


def test_what_ends_a_run_leaves_the_rows_before_it(tmp_path, monkeypatch):
    def cut_off(plan):
        yield "32 px", row([0.125] * plan.rounds)
        raise KeyboardInterrupt

    monkeypatch.setitem(command.PIECES, "score", cut_off)
    with pytest.raises(KeyboardInterrupt):
        command.measure(["score"], PLAN, tmp_path)
    assert "| 32 px | 125.0 |" in (tmp_path / "performance.md").read_text()

    def other(plan):
        yield "64 px", row([0.25] * plan.rounds)

    monkeypatch.setitem(command.PIECES, "score", other)
    command.measure(["score"], PLAN, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| 32 px | 125.0 |" in text
    assert "| 64 px | 250.0 |" in text

    def beside_torch(plan):
        yield "64 px", row([0.25], [0.5])

    monkeypatch.setitem(command.PIECES, "score", beside_torch)
    command.measure(["score"], PLAN, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| 64 px | 250.0 | 500.0 | 2.00 |" in text
    assert "32 px" not in text
    monkeypatch.setattr(page, "versions", lambda: {"machine": "another"})
    monkeypatch.setitem(command.PIECES, "score", lambda plan: iter([("8 px", row([1.0], [2.0]))]))
    command.measure(["score"], PLAN, tmp_path)
    assert "64 px" not in (tmp_path / "performance.md").read_text()
