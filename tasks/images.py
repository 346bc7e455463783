"""A task and images: what its weights expect of them, and predictions from files, pictures and arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L

from dyvision.tasks.preprocessing import expected_preprocessing, stored_preprocessing


class ImagesMixin(L.LightningModule):
    """What images go through before a task sees them."""

    #: predicts from images; set by :func:`dyvision.load`
    predictor: Callable[..., Any] | None = None
    #: what the images of the training of a checkpoint went through
    _trained_with: dict[str, Any] | None = None
    #: ``mean`` and ``std`` of the images of a network that takes no others, and ``source``, what to call it
    required_statistics: dict[str, Any] | None = None

    @property
    def trained_with(self) -> dict[str, Any]:
        """What the images of a checkpoint's training went through, as arguments of a data module; empty if unknown."""
        return {name: value for name, value in (self._trained_with or {}).items() if name != "source"}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the weights expect of images, which a data module takes where nobody has said it.

        Of a checkpoint this is what it was trained with; of published or other pretrained weights what these were
        trained with. Empty if training starts from nothing.
        """
        return self._trained_with or expected_preprocessing(self.hparams)

    def run_on(self, where: str, data: Mapping[str, Any], required: Mapping[str, Any]) -> None:
        """Take over what images have to be for a file that is run in the place of the network.

        Args:
            where: The file.
            data: What it says of the data module.
            required: ``mean`` and ``std`` that it takes and no others, as far as it says them.
        """
        known = {**stored_preprocessing({"datamodule_hyper_parameters": data}, where), **required}
        self._trained_with = {**known, "source": where} if known else None
        self.required_statistics = {**required, "source": where} if len(required) == 2 else None

    def predict(self, images: Any, batch_size: int | None = None) -> Any:
        """Predict from images; see :meth:`dyvision.inference.Predictor.__call__`.

        Args:
            images: One image or a list of them: paths, pictures, arrays or tensors.
            batch_size: Images at a time.

        Returns:
            A result for one image, a list of results for a list.

        Raises:
            RuntimeError: If the task has no transforms; :func:`dyvision.load` brings those of the training.
        """
        if self.predictor is None:
            raise RuntimeError(
                "this task has no transforms to predict with: open its checkpoint with dyvision.load(path), or set "
                "task.predictor = dyvision.inference.Predictor(task, data)"
            )
        return self.predictor(images, batch_size=batch_size)
