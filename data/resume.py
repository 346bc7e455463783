"""Resuming in the middle of an epoch: the position of the training loader."""

from __future__ import annotations

from typing import Any

import lightning as L


class ResumableData(L.LightningDataModule):
    """A data module whose checkpoints say where in which epoch the training loader is.

    Lightning restores a data module before anything asks for a loader. Its own way, which restores the loader together
    with the loops, comes too late where a learning-rate schedule asks for the number of steps: the loader is built then
    and starts from its first batch.
    """

    _stored_position: dict[str, int] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The position of the training loader; empty before there is one."""
        loader: Any = self.trainer.train_dataloader if self.trainer is not None else None
        return {"train_loader": loader.state_dict()} if hasattr(loader, "state_dict") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the position for the training loader, if this is a run that goes on."""
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self._stored_position = state_dict.get("train_loader")

    def take_stored_position(self) -> dict[str, int] | None:
        """The position at which a resumed run starts, once; None afterwards and for a new run."""
        position, self._stored_position = self._stored_position, None
        return position

    def trained_batches(self) -> int | None:
        """Batches of this epoch that were trained on; None without a trainer."""
        if self.trainer is None:
            return None
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.processed)
