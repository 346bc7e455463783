"""If these failed, large images would be segmented with holes, seams or shifts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dyvision.tasks.heads.segmentation.inference import Inference, resize_logits, segment, window_starts


def pixelwise(images: torch.Tensor) -> torch.Tensor:
    """Logits that depend on the pixel alone, so windows cannot change them."""
    return torch.stack([images[:, 0], images[:, 1] * 2, -images[:, 2]], dim=1)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    data=st.data(),
    flip=st.booleans(),
)
def test_windows_cover_every_pixel_of_any_size(size, crop, data, flip):
    stride = tuple(data.draw(st.integers(1, side)) for side in crop)
    images = torch.rand(2, 3, *size)
    got = segment(pixelwise, images, Inference("slide", crop, stride, flip))
    expected = pixelwise(images)
    if flip:
        torch.testing.assert_close(got.exp(), expected.softmax(1), rtol=1e-4, atol=1e-6)
    else:
        torch.testing.assert_close(got, expected)


def test_windows_at_the_border_are_shifted_inside():
    assert window_starts(10, 4, 3) == [0, 3, 6]
    assert window_starts(11, 4, 3) == [0, 3, 6, 7]
    assert window_starts(4, 4, 3) == [0]
    assert window_starts(3, 4, 3) == [0]


def test_overlap_is_averaged():
    calls = iter([0.0, 3.0])

    def counting(windows):
        return torch.cat([torch.full((1, 1, 4, 4), next(calls)) for _ in windows])

    logits = segment(counting, torch.zeros(1, 3, 4, 6), Inference("slide", (4, 4), (4, 2)))
    assert logits[0, 0, 0].tolist() == [0.0, 0.0, 1.5, 1.5, 3.0, 3.0]


def test_a_window_that_covers_the_image_equals_the_whole():
    network = torch.nn.Conv2d(3, 4, 5, padding=2)
    images = torch.rand(2, 3, 13, 17)
    whole = segment(network, images, Inference())
    torch.testing.assert_close(segment(network, images, Inference("slide", (20, 17))), whole)


def test_flip_averages_both_directions():
    def leans_left(images):
        columns = torch.linspace(0, 1, images.shape[-1]).expand(images.shape[0], 1, *images.shape[-2:])
        return torch.cat([columns, -columns], dim=1)

    logits = segment(leans_left, torch.rand(1, 3, 4, 5), Inference(flip=True))
    torch.testing.assert_close(logits, logits.flip(-1))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mode": "slides"}, "'whole' or 'slide'"),
        ({"mode": "slide"}, "needs crop_size"),
        ({"mode": "slide", "crop_size": [4, 4], "stride": [5, 4]}, "would leave gaps"),
        ({"mode": "slide", "crop_size": [4]}, "expected 2 integers of at least 1"),
        ({"crop": [4, 4]}, "did you mean 'crop_size'"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(ValueError, match=message):
        Inference.from_spec(spec)


def test_logits_are_resized_in_float32():
    assert resize_logits(torch.rand(1, 2, 3, 3, dtype=torch.bfloat16), (5, 7)).dtype == torch.float32
