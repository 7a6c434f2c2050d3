"""Counts what a part of the fault tests has tried, and what came of it."""


class Tally:
    """How often a part was right, was wrong (another result, or no clear line), or lost something."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.rights = 0
        self.wrongs: list[str] = []
        self.losses: list[str] = []

    def right(self) -> None:
        self.rights += 1

    def wrong(self, why: str) -> None:
        self.wrongs.append(why)

    def lost(self, why: str) -> None:
        self.losses.append(why)

    def print(self) -> None:
        """Prints a line of the table, and the reasons of what was wrong or lost."""
        tried = self.rights + len(self.wrongs) + len(self.losses)
        print(f"{self.part:40} {tried:6} {self.rights:6} {len(self.wrongs):6} {len(self.losses):6}")
        for why in (*self.wrongs, *self.losses):
            print(f"    {why}")
