"""A CondConv MobileNetV2 whose modules have the names of the public network, written out plainly as a reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

STAGES = ((1, 8, 1, 1), (6, 8, 2, 2), (6, 16, 3, 2), (6, 24, 4, 2), (6, 32, 3, 1), (6, 56, 3, 2), (6, 112, 1, 1))


class Route(nn.Module):
    def __init__(self, inputs, kernels):
        super().__init__()
        self.fc = nn.Linear(inputs, kernels)

    def forward(self, x):
        return self.fc(x.mean((2, 3))).sigmoid()


class Mixed(nn.Module):
    def __init__(self, inputs, outputs, size, stride=1, groups=1, kernels=8):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(kernels, outputs, inputs // groups, size, size) / (inputs / groups) ** 0.5
        )
        self.settings = {"stride": stride, "padding": size // 2, "groups": groups}

    def forward(self, x, routing):
        kernels = torch.einsum("bk,koihw->boihw", routing, self.weight)
        return torch.cat([F.conv2d(s[None], w, **self.settings) for s, w in zip(x, kernels, strict=True)])


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, expand, kernels):
        super().__init__()
        hidden = inputs * expand
        self.identity = stride == 1 and inputs == outputs
        self.expand, self.kernels = expand, kernels
        if expand > 1:
            self.pw, self.bn_pw = self._conv(inputs, hidden, 1), nn.BatchNorm2d(hidden)
        self.dw, self.bn_dw = self._conv(hidden, hidden, 3, stride, hidden), nn.BatchNorm2d(hidden)
        self.pw_linear, self.bn_pw_linear = self._conv(hidden, outputs, 1), nn.BatchNorm2d(outputs)
        if kernels:
            self.route = Route(inputs, kernels)

    def _conv(self, inputs, outputs, size, stride=1, groups=1):
        if self.kernels:
            return Mixed(inputs, outputs, size, stride, groups, self.kernels)
        return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)

    def forward(self, x):
        routing = (self.route(x),) if self.kernels else ()
        y = F.relu6(self.bn_pw(self.pw(x, *routing))) if self.expand > 1 else x
        y = F.relu6(self.bn_dw(self.dw(y, *routing)))
        y = self.bn_pw_linear(self.pw_linear(y, *routing))
        return x + y if self.identity else y


class CondMobileNetV2(nn.Module):
    """The network at width 0.35."""

    def __init__(self, num_classes, kernels):
        super().__init__()
        features = [nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())]
        inputs = 16
        for expand, outputs, count, stride in STAGES:
            for index in range(count):
                # the last six of seventeen blocks
                dynamic = kernels if len(features) > 17 - 6 else 0
                features.append(Block(inputs, outputs, stride if index == 0 else 1, expand, dynamic))
                inputs = outputs
        self.features = nn.Sequential(*features)
        self.conv = nn.Sequential(nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6())
        self.classifier_route = Route(1280, kernels)
        self.classifier = Mixed(1280, num_classes, 1, kernels=kernels)

    def forward(self, x):
        x = self.conv(self.features(x)).mean((2, 3), keepdim=True)
        return self.classifier(x, self.classifier_route(x)).flatten(1)


@pytest.fixture
def condconv_network() -> type[nn.Module]:
    """The class, by ``num_classes`` and ``kernels``."""
    return CondMobileNetV2
