"""Counts what became of injected faults: `make faults` prints a line for each part.

A fault ends right (the result is what it would be without the fault, or the damage is reported and nothing
wrong is used), wrong (a result is not what it should be, and nothing is said), or lost (something whole
is gone, or the command ends in another way than it should).
"""

import os
from collections import Counter

MAX_REASONS = 10
WIDTH = 44


def scaled(count: int, least: int = 5) -> int:
    """How many faults to try: `count` in `make faults`; in `make test-all` a twentieth, but at least `least`.

    The environment variable DAAD_FAULTS chooses: "all", or the share of all faults in percent.
    """
    share = os.environ.get("DAAD_FAULTS", "5")
    return count if share == "all" else max(least, count * int(share) // 100)


class Tally:
    """The faults of one part."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.counts = {"right": 0, "wrong": 0, "lost": 0}
        self.reasons: Counter[str] = Counter()

    def right(self) -> None:
        self.counts["right"] += 1

    def wrong(self, why: str) -> None:
        self.counts["wrong"] += 1
        self.reasons[f"wrong: {why}"] += 1

    def lost(self, why: str) -> None:
        self.counts["lost"] += 1
        self.reasons[f"lost: {why}"] += 1

    @property
    def is_clean(self) -> bool:
        """Whether faults were tried, and all of them ended right."""
        return self.counts["right"] > 0 and not self.reasons

    def print(self) -> None:
        """Prints how many faults were tried, and how many ended right, wrong and lost; then the reasons."""
        counts = {"tried": sum(self.counts.values()), **self.counts}
        numbers = "".join(f"  {name} {number:5}" for name, number in counts.items())
        print(f"\n{self.part:{WIDTH}}{numbers}", flush=True)
        for reason, count in self.reasons.most_common(MAX_REASONS):
            print(f"    {count} x {reason}", flush=True)
