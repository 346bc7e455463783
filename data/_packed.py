"""A read-only list that worker processes can share."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class PackedList:
    """Python objects as one array of bytes.

    Reading an object of a list changes its reference count, so every forked worker ends up with a copy of the whole
    list: gigabytes for COCO's annotations. Two arrays stay shared.

    Args:
        items: Picklable objects.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        packed = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([len(item) for item in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        end = int(self._ends[index])
        start = int(self._ends[index - 1]) if index % len(self) else 0
        return pickle.loads(self._bytes[start:end].data)

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]
