"""python export.py --workdir DIR: the model as StableHLO and ONNX files that need nothing of this package."""

from daad_jax import commands

if __name__ == "__main__":
    commands.run_script("export")
