"""If these fail, regions use a wrong kernel or the guide learns from a wrong gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyvision.layers.drconv import DRConv2d, select_region


def perturbed(*args, **kwargs) -> DRConv2d:
    layer = DRConv2d(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return layer


def reference(layer: DRConv2d, x: torch.Tensor) -> torch.Tensor:
    """Generate, convolve and choose, sample by sample and position by position."""
    outputs = []
    geometry = (layer.stride, layer.padding, layer.dilation)
    for sample in x[:, None]:
        pooled = F.adaptive_avg_pool2d(sample, layer.kernel_size)[0]
        kernels = torch.zeros(layer.regions, *layer.kernel_shape, dtype=x.dtype)
        for row in range(layer.kernel_size[0]):
            for column in range(layer.kernel_size[1]):
                hidden = torch.sigmoid(layer.branch.hidden(pooled[:, row, column])).view(layer.regions, layer.regions)
                for r in range(layer.regions):
                    numbers = layer.branch.weight[r] @ hidden[r] + layer.branch.bias[r]
                    kernels[r, :, :, row, column] = numbers.view(layer.kernel_shape[:2])
        if layer.shared_kernel is not None:
            kernels = kernels + layer.shared_kernel
        guide = F.conv2d(sample, layer.guide.weight, layer.guide.bias, *geometry)[0]
        candidates = [F.conv2d(sample, kernel, layer.bias, *geometry, layer.groups)[0] for kernel in kernels]
        output = torch.empty_like(candidates[0])
        for i in range(guide.shape[1]):
            for j in range(guide.shape[2]):
                output[:, i, j] = candidates[int(guide[:, i, j].argmax())][:, i, j]
        outputs.append(output)
    return torch.stack(outputs)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 1), ((1, 3), 1, (0, 2))])
def test_agrees_with_a_loop_over_positions(kernel, stride, padding, groups) -> None:
    layer = perturbed(6, 8, kernel, stride, padding, groups=groups, regions=3)
    x = torch.randn(3, 6, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(layer, x))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), reference(layer, x))
    assert layer.coefficients(x).guide.argmax(1).unique().numel() == 3


def test_gradient_is_hard_for_the_outputs_and_soft_for_the_guide() -> None:
    outputs = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    guide = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    (select_region(outputs, guide) * seed).sum().backward()
    hard = F.one_hot(guide.argmax(1), 3).movedim(-1, 1)[:, :, None]
    torch.testing.assert_close(outputs.grad, hard * seed[:, None])
    soft, product = torch.softmax(guide, 1), (seed[:, None] * outputs).sum(2)
    torch.testing.assert_close(guide.grad, (soft * (product - (soft * product).sum(1, keepdim=True))).detach())


def test_regions_part_after_a_step_from_a_static_convolution() -> None:
    conv, x = nn.Conv2d(6, 8, 3, padding=1), torch.randn(4, 6, 9, 8)
    layer = DRConv2d.from_conv(conv, regions=4)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="regions must be a positive int"):
        DRConv2d(6, 8, 3, regions=0)
    with pytest.raises(ValueError, match="shared_kernel=False"):
        DRConv2d.from_conv(nn.Conv2d(6, 8, 3), shared_kernel=False)
    conv, x = nn.Conv2d(6, 8, 1), torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(DRConv2d.from_conv(conv)(x), conv(x), rtol=1e-5, atol=1e-5)
    assert DRConv2d(6, 8, 1).shared_kernel is None
