"""A task and images: what its weights expect of them, and predictions from files, pictures and arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L

from dyvision.tasks.preprocessing import expected_preprocessing


class ImagesMixin(L.LightningModule):
    """What images go through before a task sees them."""

    #: predicts from images; set by :func:`dyvision.load`
    predictor: Callable[..., Any] | None = None
    #: what the images of the training of a checkpoint went through
    _trained_with: dict[str, Any] | None = None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the weights expect of images, which a data module takes where nobody has said it.

        Of a checkpoint this is what it was trained with; of published or other pretrained weights what these were
        trained with. Empty if training starts from nothing.
        """
        return self._trained_with or expected_preprocessing(self.hparams)

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
