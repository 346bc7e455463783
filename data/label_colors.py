"""Colours of label maps that are drawn: PASCAL VOC's, and those that somebody gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dyvision.data.class_names import normal

#: ``{class name: (r, g, b)}`` as PASCAL VOC draws its label maps; the border, (224, 224, 192), is ignored.
VOC_COLORS = {
    "background": (0, 0, 0), "aeroplane": (128, 0, 0), "bicycle": (0, 128, 0), "bird": (128, 128, 0),
    "boat": (0, 0, 128), "bottle": (128, 0, 128), "bus": (0, 128, 128), "car": (128, 128, 128), "cat": (64, 0, 0),
    "chair": (192, 0, 0), "cow": (64, 128, 0), "diningtable": (192, 128, 0), "dog": (64, 0, 128),
    "horse": (192, 0, 128), "motorbike": (64, 128, 128), "person": (192, 128, 128), "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0), "sofa": (0, 192, 0), "train": (128, 192, 0), "tvmonitor": (0, 64, 128),
}  # fmt: skip
#: of objects; ignored
VOC_BORDER = (224, 224, 192)


def checked_colors(label_colors: Mapping[str, Sequence[int]] | str) -> dict[str, tuple[int, int, int]]:
    """Colours by name, each one once.

    Raises:
        ValueError: If it is no mapping, or a colour is none or given twice.
    """
    if not isinstance(label_colors, Mapping) or not label_colors:
        raise ValueError(f"label_colors={label_colors!r}: expected 'voc', 'cityscapes' or {{name: [r, g, b], ...}}.")
    result: dict[str, tuple[int, int, int]] = {}
    for name, color in label_colors.items():
        if len(color) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
            raise ValueError(f"label_colors: {name!r} is {list(color)}; expected three integers from 0 to 255.")
        if tuple(color) in result.values():
            raise ValueError(f"label_colors: two names have the colour {list(color)}.")
        result[normal(str(name))] = (color[0], color[1], color[2])
    return result
