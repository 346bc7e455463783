"""If these fail, a network is collapsed under other coefficients or statistics than those of its calibration set."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyvision import collapse, dynamize
from dyvision.layers import DynamicConv2d, get_layer
from tests.convert.test_collapse import stir


def network():
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU())
    return stir(dynamize(model, "dyconv", policy="all", preserve_outputs=False)).float()


def test_batches_of_all_kinds() -> None:
    model, images, labels = network(), torch.randn(4, 3, 9, 9), torch.zeros(4)
    expected = collapse(model, [images[:2], images[2:]]).state_dict()
    for batches in (
        [(images, labels)],
        [[images, labels]],
        [{"image": images, "label": labels}],
        (part for part in images.split(1)),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=3),
    ):
        found = collapse(model, batches, reestimate_batchnorm=False).state_dict()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_lists_of_images() -> None:
    class Detector(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, images):
            return [self.body(image[None]) for image in images]

    images = [torch.randn(3, 9, 9), torch.randn(3, 8, 7)]
    model = Detector(network()).eval()
    expected = collapse(model, [{"image": images, "target": [{}, {}]}]).state_dict()
    for batch in (images, (images, [{}, {}])):
        torch.testing.assert_close(collapse(model, [batch]).state_dict(), expected)


def test_statistics_of_norms_are_estimated_anew_and_kept_if_they_help() -> None:
    model, images = network(), torch.randn(32, 3, 9, 9) + 1
    batches = list(images.split(8))
    kept = collapse(model, batches)
    anew = collapse(model, batches, reestimate_batchnorm=True)
    seen = torch.cat([anew[0](batch) for batch in batches])
    torch.testing.assert_close(anew[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(kept[1].running_mean, anew[1].running_mean, atol=1e-3)
    assert anew[1].momentum == kept[1].momentum == 0.1 and not any(m.training for m in anew.modules())

    def metric(sign):
        return lambda static: sign * float((static[1].running_mean - anew[1].running_mean).abs().sum())

    gains, loses = (collapse(model, batches, metric=metric(sign)) for sign in (-1, 1))
    assert torch.equal(gains[1].running_mean, anew[1].running_mean)
    assert torch.equal(loses[1].running_mean, kept[1].running_mean)
    assert torch.equal(
        collapse(model, batches, metric=metric(-1), reestimate_batchnorm=False)[1].running_mean, kept[1].running_mean
    )


def test_type_memory_format_and_frozen_kernels_are_kept() -> None:
    model = network().to(torch.bfloat16).to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    static = collapse(model, [torch.randn(2, 3, 9, 9)])
    assert {p.dtype for p in static.parameters()} == {torch.bfloat16}
    assert static[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert not static[0].weight.requires_grad and static[3].weight.requires_grad


def test_what_cannot_be_calibrated_is_said() -> None:
    x = torch.randn(1, 3, 9, 9)
    with pytest.raises(ValueError, match="no dynamic layers"):
        collapse(nn.Sequential(nn.Conv2d(3, 8, 3)), [x])
    with pytest.raises(ValueError, match="no batches"):
        collapse(network(), [])
    with pytest.raises(ValueError, match="needs 'image', got pixels"):
        collapse(network(), [{"pixels": x}])

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = network(), get_layer("dyconv")(3, 3, 1)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="unused are not called"):
        collapse(Unused().eval(), [x])

    class Own(DynamicConv2d):
        def reset_parameters(self): ...
        def coefficients(self, x): ...
        def forward(self, x, coefficients=None): ...
        def load_static(self, weight, bias): ...

    with pytest.raises(ValueError, match="Own: its class does not implement static_kernel"):
        collapse(nn.Sequential(Own(3, 3, 1)), [x])
