"""Grey images: which numbers of their one channel follow from those of red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence

#: shares of red, green and blue in the luminance, of ITU-R BT.601, as OpenCV and Pillow have them
_LUMINANCE = (0.299, 0.587, 0.114)


def of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or a standard deviation per channel, for images of one channel that of the luminance.

    Args:
        values: Of red, green and blue, or of each channel.
        channels: Of the images.

    Example:
        >>> of_channels((0.0, 0.5, 0.0), 1)
        (0.2935,)
    """
    if channels == 1 and len(values) == 3:
        return (sum(weight * value for weight, value in zip(_LUMINANCE, values, strict=True)),)
    return tuple(values)
