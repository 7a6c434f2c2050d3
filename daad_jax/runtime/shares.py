"""Divides a series of images among several processes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The images of one process. The series is cut into blocks, and the processes take the blocks in turn.

    Attributes:
        index: the number of the process, from 0.
        count: the number of processes.
        block: the number of images in a block.
    """

    index: int
    count: int
    block: int

    def take(self, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        """Yields the items of this share with their numbers among all items."""
        for number, item in enumerate(items):
            if number // self.block % self.count == self.index:
                yield number, item

    def size(self, total: int) -> int:
        """Returns how many of `total` items are in this share."""
        blocks, rest = divmod(total, self.block)
        own = len(range(self.index, blocks, self.count)) * self.block
        return own + (rest if blocks % self.count == self.index else 0)
