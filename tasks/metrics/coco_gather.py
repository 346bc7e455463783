"""Collect Python objects from all processes, compute once, share the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """Return the value of every process, in the order of their ranks; ``[value]`` in a single process.

    Args:
        value: Anything that can be pickled.
    """
    if not _is_distributed():
        return [value]
    gathered: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, value)
    return [item for item in gathered if item is not None]


def compute_on_first(function: Callable[[], T]) -> T:
    """Call a function in the first process and return its result in all of them.

    Args:
        function: Takes nothing, returns something that can be pickled.

    Raises:
        RuntimeError: In the other processes, if the function failed in the first one; without this they would wait for
            a result that never comes.
    """
    if not _is_distributed():
        return function()
    first = distributed.get_rank() == 0
    # result, error
    message: list[tuple[T | None, str | None]] = [(None, None)]
    failure: Exception | None = None
    if first:
        try:
            message = [(function(), None)]
        except Exception as error:
            failure, message = error, [(None, f"{type(error).__name__}: {error}")]
    distributed.broadcast_object_list(message, src=0)
    if failure is not None:
        raise failure
    result, text = message[0]
    if text is not None:
        raise RuntimeError(f"the first process failed: {text}")
    return result  # type: ignore[return-value]


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
