"""python evaluate.py --workdir DIR: figures, scores.csv and report.html of the labelled test images."""

from daad_jax import commands

if __name__ == "__main__":
    commands.run_script("evaluate")
