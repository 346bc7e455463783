"""The arguments that every data module has: their defaults, what they mean, and their ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import lightning as L

from dyvision.arguments import check_number
from dyvision.data.datasets import OnBadSample
from dyvision.data.files import MAX_IMAGE_PIXELS, ImageReader, Orientation
from dyvision.signatures import SharesArguments


class DataArguments(SharesArguments, L.LightningDataModule):
    """Keeps its arguments as attributes, and these and those of the subclass that is being built as hyperparameters.

    A subclass declares its own arguments, and those of these whose default it changes, and hands all others on.

    Args:
        root: Folder of the data set.
        batch_size: Images per process in a training batch.
        eval_batch_size: The same in evaluation and prediction; ``batch_size`` if None.
        num_workers: Processes that load data; 0 loads in the main process.
        train_split: Folder of the training split.
        val_split: Folder of the validation split.
        test_split: Folder that ``test`` evaluates; ``val_split`` if None.
        in_chans: Channels of the images, 1 (grey) or 3; None takes them from the model, else 3.
        predict_root: Folder of images (at any depth) or one image for ``predict``; the validation images if None.
        seed: Seed of order and augmentation.
        drop_last: Leave out a last, smaller training batch.
        pin_memory: Page-locked memory for faster copies to a GPU; if None, when there is a GPU.
        persistent_workers: Keep workers between epochs.
        on_bad_sample: What training does with a sample that cannot be read: ``"error"`` ends it; ``"skip"`` draws
            another in its place, and each epoch warns of their number and names. Evaluation always ends.
        val_fraction: Validate on this share of the training split instead of on ``val_split``, and train on the rest.
            It is equal in all classes of a classification; of the images with each rare category of a COCO file it is a
            share, too.
        val_seed: Seed of that choice.
        exif_orientation: ``"ignore"`` reads pictures as they are stored, as torchvision does; ``"apply"`` reads them
            upright, as most labelling tools show them.
        max_image_pixels: Pictures of more pixels are refused.
        bit_depth: Bits in use of pictures with more than 8; None finds out for each.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str | None = None,
        in_chans: int | None = None,
        predict_root: str | Path | None = None,
        seed: int = 0,
        drop_last: bool = True,
        pin_memory: bool | None = None,
        persistent_workers: bool = True,
        on_bad_sample: OnBadSample = "error",
        val_fraction: float | None = None,
        val_seed: int = 0,
        exif_orientation: Orientation = "ignore",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        bit_depth: int | None = None,
    ) -> None:
        super().__init__()
        images: dict[str, Any] = {"minimum": 1, "maximum": 1_000_000, "integer": True}
        check_number("batch_size", batch_size, **images)
        check_number("eval_batch_size", eval_batch_size, **images, allow_none=True)
        check_number("num_workers", num_workers, minimum=0, maximum=1024, integer=True)
        check_number("seed", seed, minimum=0, maximum=2**32 - 1, integer=True)
        if on_bad_sample not in get_args(OnBadSample):
            raise ValueError(f"on_bad_sample={on_bad_sample!r}: expected 'error' or 'skip'.")
        check_number("val_fraction", val_fraction, above=0, below=1, allow_none=True)
        check_number("val_seed", val_seed, minimum=0, maximum=2**32 - 1, integer=True)
        if in_chans not in (None, 1, 3):
            raise ValueError(f"in_chans={in_chans}: expected 1 (grey) or 3.")
        self.reader = ImageReader(exif_orientation, max_image_pixels, bit_depth)
        # Lightning looks through the constructors that are running: this one's arguments, then the subclass', which win
        self.save_hyperparameters(logger=False)
        # plain types, which a checkpoint loads without running code
        self.hparams.update({name: str(value) for name, value in self.hparams.items() if isinstance(value, Path)})
        self.root = Path(root).expanduser()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.predict_root = None if predict_root is None else Path(predict_root).expanduser()
        self.seed = seed
        self.drop_last = drop_last
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.on_bad_sample: OnBadSample = on_bad_sample
        self.val_fraction, self.val_seed = val_fraction, val_seed
        self.in_chans = in_chans
