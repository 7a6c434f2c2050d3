"""python evaluate.py --workdir DIR: figures, scores.csv and report.html of the labelled test images."""

from daad_jax import entry

if __name__ == "__main__":
    entry.run_script("evaluate")
