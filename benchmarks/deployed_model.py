"""Runs one exported file with one library, as its user would: without this package, which need not be there.

    python benchmarks/deployed_model.py LIBRARY MODEL IMAGES.npy

LIBRARY is stablehlo, onnxruntime, openvino or openvino-f32. The program prints the library's version, then
answers each line of its input: a number n, with the milliseconds of a call with the first n images; `scores`,
with the outputs for all images. Every answer is one line of JSON.
"""

import functools
import json
import sys
import time

import numpy as np

SMALL = ("score", "p_value", "anomalous")  # the outputs that are one number an image
BATCH = 16
HALF_TURN_S = 0.3  # the seconds of calls that are not timed, and then of those that are timed


def load(library, model):
    """The version, and the function from images `[n, H, W, C]` to a dictionary of arrays."""
    if library == "stablehlo":
        import jax.export

        with open(model, "rb") as file:
            call = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
        return f"jax {jax.__version__}", lambda images: jax.device_get(call(images))
    if library == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return (
            f"onnxruntime {onnxruntime.__version__}",
            lambda images: dict(zip(names, session.run(names, {"images": images}))),
        )
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32"} if library == "openvino-f32" else {}
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    names = [output.get_any_name() for output in compiled.outputs]
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").type_name
    words = "hint f32" if hints else f"default, which is {chosen} here"
    return (
        f"OpenVINO {openvino.__version__.partition('-')[0]}, {words}",
        lambda images: dict(zip(names, compiled({"images": images}).values())),
    )


def time_calls(call):
    """The mean milliseconds of `call()`, called again and again as in a loop over many images.

    The first calls are not timed: the processor may have slept, its caches hold another library's data, and
    the threads of that library may still wait for work.
    """
    for _ in range(2):
        calls, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < HALF_TURN_S or not calls:
            call()
            calls += 1
    return 1000 * passed / calls


def main(library, model, path):
    images = np.load(path)
    version, call = load(library, model)
    print(json.dumps(version), flush=True)
    for line in sys.stdin:
        if line.strip() == "scores":
            parts = [call(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
            answer = {name: np.concatenate([part[name] for part in parts]).tolist() for name in SMALL}
        else:
            batch = images[: int(line)]
            answer = time_calls(functools.partial(call, batch))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
