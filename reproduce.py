"""python reproduce.py TABLE: runs all cells of a table of results, and writes docs/results.md."""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from daad_jax import cli
from daad_jax.errors import UserError


def define(options: flags.FlagValues, arguments: Sequence[str]) -> None:
    def add(kind: str, name: str, default: object, help_text: str) -> None:
        getattr(flags, f"DEFINE_{kind}")(name, default, help_text, flag_values=options)

    add("list", "seeds", "0,1,2", "the seeds of every cell")
    add("list", "only", [], "classes, categories or digits (default: all that the table shows)")
    add("list", "variants", [], "rows of the table, as --dry_run names them (default: all)")
    add(
        "bool",
        "smoke",
        False,
        "run a few steps on a few images, into OUT/smoke, to see that everything works",
    )
    add("string", "out", "runs/reproduce", "the folder of the cells' runs")
    add("string", "docs", None, "the folder of results.md and results/ (default: docs)")
    add("bool", "dry_run", False, "list the cells, which are done, and how long the others take; run nothing")
    add("bool", "report_only", False, "write results.md from the stored results; run nothing")
    add("bool", "only_missing", False, "leave out cells with stored results")
    add("bool", "drop_checkpoints", False, "keep no checkpoint of a finished cell (default: keep the last)")


def main(call: cli.Invocation) -> None:
    from reproduction import cells

    options, words = call.options, call.words
    out = Path(options.out) / "smoke" if options.smoke else Path(options.out)
    docs = Path(options.docs) if options.docs else (out if options.smoke else Path("docs"))
    if len(words) > 1 or (not words and not options.report_only):
        raise UserError(f"give one table: {', '.join(cells.TABLES)}")
    table = cells.table_named(words[0]) if words else None
    if options.report_only or table is None:
        from reproduction import results_page

        results_page.write(docs)
        print(f"wrote {docs / 'results.md'}")
        return
    chosen = cells.choose(table, options.only, options.variants, options.seeds, options.smoke)
    from reproduction import run  # JAX is imported only after the options are known to be good

    places = run.Places(out, docs)
    if options.dry_run:
        run.dry_run(table, chosen, places, options.smoke, options.only_missing)
        return
    failed = run.reproduce(
        table, chosen, places, options.smoke, options.only_missing, options.drop_checkpoints
    )
    for line in failed:
        print(f"reproduce.py: not done: {line}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(
        cli.Command(
            "TABLE",
            "Runs all cells of a table of results, and writes docs/results.md from the stored results. TABLE "
            "is mnist, cifar10, mvtec_ad, solar_cells, granularity, inspection or dirty. The same command "
            "again continues.",
            define,
            main,
            takes_words=True,
        )
    )
