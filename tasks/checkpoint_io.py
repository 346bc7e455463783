"""Checkpoint files that are written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from torch import Tensor

from dyvision.checkpoint_file import checked, load_plain
from dyvision.saving import replacing

#: room for what is in a checkpoint beside tensors: names, progress, the zip directory
_OVERHEAD = 2**18


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it to the disk and renames it.

    Lightning's own writer puts it into the system's folder for temporary files and copies it over the target if that is
    on another file system, so that a kill or a full disk destroys the checkpoint before; it also takes a
    ``PermissionError`` for success. Paths with a protocol (``s3://...``) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If there is no room or no permission; the file that was there before is unchanged.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(path, needed=tensor_bytes(checkpoint) + _OVERHEAD) as part:
            self.write(checkpoint, part)

    def write(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Write the content into a new file, which takes its real name afterwards."""
        with path.open("wb") as file:
            target = _ErrorKeeper(file)
            try:
                torch.save(checkpoint, cast(IO[bytes], target))
            except RuntimeError as error:
                # torch's writer reports a full disk as a position it did not expect
                raise target.error or error from None

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; only plain data, unless ``weights_only`` is explicitly False.

        Raises:
            ValueError: If the file is damaged.
        """
        if "://" in str(path) or weights_only is False:
            loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only is not False)
            return loaded
        content = load_plain(path, map_location)
        # a user's own module needs no hyperparameters; our tasks check theirs when they load
        own = isinstance(content, dict) and "pytorch-lightning_version" in content and "task" not in content
        return content if own else checked(content, path)


def tensor_bytes(content: Any) -> int:
    """Bytes of all tensors in nested mappings and sequences; memory that several share counts once."""
    storages: dict[int, int] = {}
    pending = [content]
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, Mapping):
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
    return sum(storages.values())


class _ErrorKeeper(io.RawIOBase):
    """Passes writes on and keeps the error that ended them."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise
