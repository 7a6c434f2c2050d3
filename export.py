"""python export.py --workdir DIR: the model as StableHLO and ONNX files that need nothing of this package."""

from daad_jax import entry

if __name__ == "__main__":
    entry.run_script("export")
