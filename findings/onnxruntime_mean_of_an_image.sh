#!/usr/bin/env bash
# onnxruntime 1.32.0 on a CPU: ReduceMean over a grey image of 64 x 64 pixels, k / 255 in float32, is off by up to 7e-6.
# ReduceMean over one axis after another, and NumPy's mean in float32, are off by 2e-7. Whoever subtracts the mean from
# an image of low contrast loses digits. (With random numbers, the errors of the sum cancel.) Below a ratio of 5 this
# fails.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def mean(images, *parts):
    """The mean in onnxruntime: over each part, a tuple of axes, after the one before."""
    nodes, constants, names = [], [], ["x", *(f"y{i}" for i in range(len(parts)))]
    for i, axes in enumerate(parts):
        constants.append(numpy_helper.from_array(np.array(axes, np.int64), f"axes{i}"))
        nodes.append(helper.make_node("ReduceMean", [names[i], f"axes{i}"], [names[i + 1]], keepdims=1))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, images.shape)]
    taken = [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph(nodes, "mean", given, taken, constants),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0].ravel()


levels = np.rint(np.random.default_rng(0).normal(120, 3, (50, 64, 64, 1)))  # grey images of 8 bits
images = (levels / 255).astype(np.float32)
exact = images.mean((1, 2, 3), dtype=np.float64)
worst = {
    "onnxruntime, all axes": np.max(np.abs(mean(images, (1, 2, 3)) / exact - 1)),
    "onnxruntime, axis by axis": np.max(np.abs(mean(images, (3,), (2,), (1,)) / exact - 1)),
    "NumPy, float32": np.max(np.abs(images.mean((1, 2, 3)) / exact - 1)),
}
for name, error in worst.items():
    print(f"{name}: {error:.1e}")
whole, by_axis, _ = worst.values()
print(f"onnxruntime {onnxruntime.__version__}: ratio {whole / by_axis:.0f}")
assert whole > 5 * by_axis
END
