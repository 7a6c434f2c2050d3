"""predict-on-ray on a real Ray cluster of two machines (nodes). One machine is lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daad_jax.detection.detector import Detector
from tests.detection.test_shared_work import run  # noqa: F401
from tests.test_layout import ROOT

pytestmark = pytest.mark.slow
COUNT, BATCH = 1200, 4
NUMBERS = ("score", "p_value", "R", "L")


# A head without processors, and two nodes with one each. One node is lost when a line is read, and all are
# lost when the input ends.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
if sys.stdin.readline():
    cluster.remove_node(nodes[0], allow_graceful=False)
    print("lost", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def cluster():
    pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        yield child
        child.stdin.close()


def test_a_lost_machine_loses_no_image(run, cluster, tmp_path):  # noqa: F811
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number:04d}.png")
    (folder / "0007.png").write_text("broken")
    (folder / "notes.txt").write_text("not an image")
    address = cluster.stdout.readline().strip()

    command = [sys.executable, "-m", "daad_jax", "predict-on-ray", f"--workdir={run}", str(folder)]
    command += [f"--out={out}", f"--address={address}", "--workers=2", f"--batch_size={BATCH}"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not list(out.glob("*.parquet")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.2)
    cluster.stdin.write("\n")
    cluster.stdin.flush()
    assert cluster.stdout.readline() == "lost\n"
    assert child.poll() is None, "the work was done before the machine was lost"
    printed, err = child.communicate(timeout=400)
    assert child.returncode == 0, err
    assert f"{COUNT - 1} image(s) scored" in printed
    assert "1 could not be read" in printed
    assert "1 file was left out" in printed

    rows = read(out)
    assert [row["number"] for row in rows] == list(range(COUNT))
    assert "0007.png" in rows[7]["error"]
    whole = [row for row in rows if row["number"] // BATCH != 7 // BATCH]
    detector = Detector.load(run, BATCH)
    expected = detector.score([row["name"] for row in whole])
    columns = (expected.scores, expected.p_values, expected.reconstruction, expected.alignment)
    for name, values in zip(NUMBERS, columns):
        assert [row[name] for row in whole] == values.tolist()
    verdicts = ["anomalous" if flagged else "normal" for flagged in expected.anomalous]
    assert [row["verdict"] for row in whole] == verdicts


def read(folder: Path) -> list[dict[str, object]]:
    """The rows of all files, in the order of the images."""
    from pyarrow import dataset

    table = dataset.dataset(str(folder), format="parquet").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["number"])
