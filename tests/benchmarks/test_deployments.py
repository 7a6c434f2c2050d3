"""Exported files beside the detector, the server under load, and how the page shows both."""

import json
import sys

import numpy as np
import pytest

from benchmarks import deployed_model, deployment_section, deployments, performance_page, serving_load

VERSIONS = {"machine": "m", "jax": "1"}


class Fixed:
    """A library that returns given numbers."""

    version = "library 1"

    def __init__(self, **outputs):
        self._outputs = outputs

    def scores(self):
        return self._outputs

    def time(self, count):
        return 3.0 * count


class FixedDetector:
    """Three images, the last one anomalous."""

    def score_prepared(self, images):
        class Found:
            scores = np.array([1.0, 2.0, 4.0])
            p_values = np.array([0.5, 0.4, 0.1])
            anomalous = np.array([False, False, True])

        yield Found


def test_a_library_is_compared_score_by_score():
    library = Fixed(score=[1.0, 2.002, 3.996], p_value=[0.5, 0.45, 0.1], anomalous=[0, 1, 1])
    row = deployments.compare(library, FixedDetector(), np.zeros((3, 2, 2, 1), np.uint8))
    assert row.pop("difference") == pytest.approx(1e-3)
    assert row.pop("p_values") == pytest.approx(0.05)
    assert row == {"version": "library 1", "images": 3, "verdicts": 1}


def test_turns_are_paired(monkeypatch):
    monkeypatch.setattr(deployments, "time_calls", lambda call: call() or 500.0)
    found = deployments.race({"a": Fixed()}, {1: FixedDetector(), 16: FixedDetector()}, np.zeros(16), 3)
    assert found == {
        "a": {
            "ms": {"1": 3.0, "16": 48.0},
            "detector_ms": {"1": 500.0, "16": 500.0},
            "ratio": {"1": pytest.approx(0.006), "16": pytest.approx(0.096)},
        }
    }


def test_a_time_is_the_mean_of_the_second_half_of_a_turn(monkeypatch):
    now, calls = [0.0], []

    def call():  # the first three calls are slow
        calls.append(now[0])
        now[0] += 0.125 if len(calls) <= 3 else 0.0625

    monkeypatch.setattr(deployed_model.time, "perf_counter", lambda: now[0])
    assert deployed_model.time_calls(call) == 62.5
    assert len(calls) == 3 + 5


def test_a_library_that_fails_later_keeps_its_earlier_times(monkeypatch, capsys):
    class Small(Fixed):
        def time(self, count):
            if count > 1:
                raise RuntimeError("no memory")
            return 3.0

    monkeypatch.setattr(deployments, "time_calls", lambda call: call() or 500.0)
    detectors = dict.fromkeys((1, 16, 64), FixedDetector())
    found = deployments.race({"a": Small(), "b": Fixed()}, detectors, np.zeros(64), 1)
    assert found["a"]["ms"] == {"1": 3.0}
    assert found["b"]["ms"] == {"1": 3.0, "16": 48.0, "64": 192.0}
    assert capsys.readouterr().out.count("a: fails at") == 1


def test_a_library_that_fails_is_told(tmp_path, capfd):
    np.save(tmp_path / "images.npy", np.zeros((1, 2, 2, 1), np.uint8))
    child = deployments.running(sys.executable, "stablehlo", tmp_path / "no", tmp_path / "images.npy")
    with pytest.raises(RuntimeError, match="ended; its message stands above"), child:
        pass
    assert "No such file" in capfd.readouterr().err


def test_rates_and_latencies_are_summed_up():
    record = {"1": {"rate": [1.0, 9.0, 3.0], "latencies": [0.001 * i for i in range(1, 102)]}}
    assert serving_load.summarise(record) == {
        "1": {"rate": 3.0, "p50": pytest.approx(51), "p99": pytest.approx(100)}
    }


def test_the_page_shows_both(tmp_path):
    row = {"version": "library 1", "images": 200, "difference": 3.4e-6, "verdicts": 0, "p_values": 0.0}
    timed = row | {
        "ms": {"1": 9.0, "16": 80.0},
        "detector_ms": {"1": 8.0, "16": 40.0},
        "ratio": {"1": 1.1, "16": 2.0},
    }
    broken = {"error": "it ended"}
    rate = {"rate": 45.0, "p50": 20.0, "p99": 31.0}
    records = {
        "deployments": {
            "large": {"rows": [timed, row | {"ms": {}}], "versions": VERSIONS, "size": [256, 128]},
            "small": {"rows": [row], "versions": VERSIONS, "size": [64, 64]},
            "cells": {"rows": [timed, broken], "versions": VERSIONS},
        },
        "serve": {"cells": {"rows": {"1": rate, "loop": rate | {"rate": 50.0}}, "versions": VERSIONS}},
    }
    performance_page.write(json.loads(json.dumps(records)), tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| library 1 | 3.4e-06 | 0 of 200 | 9.0 | 8.0 | 1.10 | 80.0 | 40.0 | 2.00 |" in text
    assert "| it ended | " in text
    # By size; an empty cell where a library fails.
    titles = [line for line in text.splitlines() if "| difference |" in line]
    assert [title.split(" | ")[0] for title in titles] == [
        "| cells", "| small, 64 x 64 px", "| large, 256 x 128 px"
    ]  # fmt: skip
    assert "| library 1 | 3.4e-06 | 0 of 200 |  |  |  |  |  |  |" in text
    assert "| 1 client | 45.0 | 20.0 | 31.0 | 0.90 |" in text
    assert "| `Detector.score` in a loop | 50.0 | 20.0 | 31.0 | 1.00 |" in text
    assert deployment_section.make_deployments({}) == deployment_section.make_serving({}) == []
