"""If these fail, masks are drawn with another instance's parameters or in the wrong place."""

import pytest
import torch

from dyvision.layers.condinst import (
    SIZES_OF_INTEREST,
    DynamicMaskHead,
    MaskController,
    aligned_bilinear,
    dice_loss,
    relative_coordinates,
)


@pytest.mark.parametrize("coordinates", [True, False])
def test_agrees_with_a_loop_over_instances(coordinates) -> None:
    head = DynamicMaskHead(4, 3, 2, coordinates=coordinates, output_stride=8)
    features = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    parameters = torch.randn(3, head.num_parameters, dtype=torch.float64)
    locations = torch.rand(3, 2, dtype=torch.float64) * 40
    image, level = torch.tensor([1, 0, 1]), torch.tensor([0, 2, 1])
    inputs = 6 if coordinates else 4
    assert head.num_parameters == inputs * 3 + 3 + 3 + 1
    logits = head(features, parameters, locations, image, level)
    for n in range(3):
        first, last = parameters[n, : inputs * 3].view(3, inputs), parameters[n, inputs * 3 : inputs * 3 + 3]
        bias = parameters[n, inputs * 3 + 3 :]
        for row in range(5):
            for column in range(6):
                pixel = features[image[n], :, row, column]
                if coordinates:
                    centre = torch.tensor([8 * column + 4, 8 * row + 4])
                    pixel = torch.cat(((locations[n] - centre) / SIZES_OF_INTEREST[level[n]], pixel))
                expected = last @ (first @ pixel + bias[:3]).clamp_min(0) + bias[3]
                torch.testing.assert_close(logits[n, 0, row, column], expected)


def test_gradients_stay_within_the_instance() -> None:
    head = DynamicMaskHead()
    features = torch.randn(2, 8, 5, 6, requires_grad=True)
    parameters = torch.randn(3, 169, requires_grad=True)
    index = torch.tensor([0, 0, 1])
    head(features, parameters, torch.rand(3, 2) * 40, index, index)[1].square().sum().backward()
    assert (parameters.grad.abs().sum(1) > 0).tolist() == [False, True, False]
    assert (features.grad.abs().sum((1, 2, 3)) > 0).tolist() == [True, False]


def test_a_batch_without_instances_reaches_every_parameter() -> None:
    head, none = DynamicMaskHead(), torch.zeros(0, dtype=torch.long)
    controller = MaskController(16, head)
    parameters = controller(torch.randn(1, 16, 4, 4)).flatten(2)[0].t()[none]
    logits = head(torch.randn(2, 8, 5, 6), parameters, torch.zeros(0, 2), none, none)
    assert logits.shape == (0, 1, 10, 12)
    logits.sum().backward()
    assert controller.weight.grad is not None


def test_coordinates_are_x_first() -> None:
    place = relative_coordinates(torch.tensor([[20.0, 12.0]]), torch.tensor([64.0]), 3, 4, 8)
    assert place[0, :, 1, 2].tolist() == [0.0, 0.0]
    assert place[0, :, 0, 3].tolist() == [-8 / 64, 8 / 64]


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_enlarging_keeps_pixels_aligned(factor) -> None:
    x = torch.randn(2, 1, 4, 5)
    large = aligned_bilinear(x, factor)
    assert large.shape == (2, 1, 4 * factor, 5 * factor)
    start = factor // 2
    torch.testing.assert_close(large[:, :, start::factor, start::factor], x)
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    inner = aligned_bilinear(ramp, factor)[0, 0, 0, start : start + 4 * factor]
    torch.testing.assert_close(inner, torch.arange(4 * factor) / factor)


def test_dice_loss_by_hand() -> None:
    p, t = torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(dice_loss(p, t), torch.tensor([1 - 2 / 2.25, 1.0]), rtol=1e-4, atol=1e-4)
    assert dice_loss(t, t).max() < 1e-4
    with pytest.raises(ValueError, match="targets"):
        dice_loss(p, t[:1])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="output_stride must divide feature_stride=8, got 3"):
        DynamicMaskHead(output_stride=3)
    with pytest.raises(ValueError, match=r"parameters must be \[N, 169\], got \[2, 168\]"):
        index = torch.zeros(2, dtype=torch.long)
        DynamicMaskHead()(torch.randn(1, 8, 4, 4), torch.randn(2, 168), torch.zeros(2, 2), index, index)
