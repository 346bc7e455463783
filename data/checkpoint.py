"""Data modules from the arguments in a checkpoint: nothing that it names is imported unless the user allows it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import lightning as L

from dyvision.building import building_from
from dyvision.checkpoint_file import read_checkpoint
from dyvision.reading import read_yaml
from dyvision.registry import check_plugins
from dyvision.trust import hyperparameters_of, name_unknown

if TYPE_CHECKING:
    from typing_extensions import Self


class CheckpointMixin(L.LightningDataModule):
    """A data module that can be built from a checkpoint of any origin, in any folder."""

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Keep the arguments for checkpoints, folders as absolute paths: a checkpoint is used in other places, too."""
        here = inspect.currentframe()
        frame = frame or (here.f_back if here is not None else None)  # the constructor, whose arguments are kept
        super().save_hyperparameters(*args, ignore=ignore, frame=frame, logger=logger)
        for name in ("root", "predict_root"):
            if self.hparams.get(name) is not None:
                self.hparams[name] = os.path.abspath(Path(self.hparams[name]).expanduser())

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # open files are not read
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        weights_only: bool | None = True,
        trust: Collection[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Build the data module that a checkpoint was made with; safe for a checkpoint of any origin.

        Args:
            checkpoint_path: The file.
            map_location: For Lightning's signature.
            hparams_file: YAML file of arguments instead of those in the checkpoint.
            weights_only: For Lightning's signature; objects are refused in any case.
            trust: Dotted names of transforms that it may name although they are not albumentations'.
            **kwargs: Arguments that replace the checkpoint's.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint, is damaged, or names other code.
        """
        where = str(checkpoint_path)
        content = read_checkpoint(checkpoint_path, mmap=True)
        if hparams_file is not None:
            content["datamodule_hyper_parameters"] = read_yaml(Path(hparams_file))
        return cls.from_content(content, where, trust, **kwargs)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], where: str, trust: Collection[str] = (), **kwargs: Any) -> Self:
        """Build the data module that a checkpoint, or another kind of file with its content, describes.

        Args:
            content: With ``datamodule_hyper_parameters``.
            where: The file, for messages.
            trust: As for :meth:`load_from_checkpoint`.
            **kwargs: Arguments that replace those of the content.

        Raises:
            ValueError: As for :meth:`load_from_checkpoint`.
        """
        stored = content["datamodule_hyper_parameters"]
        stored = hyperparameters_of(stored, where, (trust,) if isinstance(trust, str) else trust, kwargs)
        check_plugins(content.get("plugins"), stored, where)
        stored = name_unknown(stored, set(inspect.signature(cls).parameters), where)
        with building_from(where, "data module"):
            return cls(**{**stored, **kwargs})
