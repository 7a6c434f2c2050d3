"""python reproduce.py TABLE: all cells of a table of results, and docs/results.md from what is stored.

TABLE is mnist, cifar10, mvtec_ad, solar_cells or granularity. The same command again continues.
"""

import sys
from pathlib import Path

from absl import flags

from daad_jax import cli
from daad_jax.errors import UserError

SEEDS = flags.DEFINE_list("seeds", "0,1,2", "seeds of every cell")
ONLY = flags.DEFINE_list("only", [], "classes, categories or digits (default: those of the table)")
ROWS = flags.DEFINE_list("variants", [], "rows of the table, as --dry_run names them (default: all)")
SMOKE = flags.DEFINE_bool("smoke", False, "a few steps on a few images, into OUT/smoke, to see that it works")
OUT = flags.DEFINE_string("out", "runs/reproduce", "folder of the cells' runs")
DOCS = flags.DEFINE_string("docs", None, "folder of results.md and results/ (default: docs)")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "list the cells, what is done and how long the rest takes")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "write results.md from the stored results, run nothing")
ONLY_MISSING = flags.DEFINE_bool("only_missing", False, "leave out cells whose results are stored already")
DROP = flags.DEFINE_bool("drop_checkpoints", False, "keep no checkpoint of a finished cell (else its last)")


def main(*words: str) -> None:
    from reproduction import cells  # imports all of configs/

    out = Path(OUT.value) / "smoke" if SMOKE.value else Path(OUT.value)
    docs = Path(DOCS.value) if DOCS.value else (out if SMOKE.value else Path("docs"))
    if len(words) > 1 or (not words and not REPORT_ONLY.value):
        raise UserError(f"give one table: {', '.join(cells.TABLES)}")
    table = cells.table_named(words[0]) if words else None
    if REPORT_ONLY.value or table is None:
        from reproduction import results_page as page

        page.write(docs)
        print(f"wrote {docs / 'results.md'}")
        return
    chosen = cells.choose(table, ONLY.value, ROWS.value, SEEDS.value, SMOKE.value)
    from reproduction import run  # after the flags: bad ones need not wait for JAX

    places = run.Places(out, docs)
    if DRY_RUN.value:
        run.dry_run(table, chosen, places, SMOKE.value)
        return
    failed = run.reproduce(table, chosen, places, SMOKE.value, ONLY_MISSING.value, DROP.value)
    for line in failed:
        print(f"reproduce.py: not done: {line}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, positional=True)
