"""How several processes share out a series of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The images of one process: of blocks of `block` images, each `count`-th, from number `index` on."""

    index: int
    count: int
    block: int

    def take(self, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        """Yields the items of this share with their numbers among all items."""
        for number, item in enumerate(items):
            if number // self.block % self.count == self.index:
                yield number, item

    def size(self, total: int) -> int:
        """How many of `total` items are in this share."""
        blocks, rest = divmod(total, self.block)
        own = len(range(self.index, blocks, self.count)) * self.block
        return own + (rest if blocks % self.count == self.index else 0)
