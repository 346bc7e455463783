"""What is in an exported ONNX file, and what it computes."""

from __future__ import annotations

import torch
from torch import nn


def nodes(path):
    """All nodes, those of bodies too."""
    import onnx

    def walk(graph):
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                yield from walk(attribute.g)

    return list(walk(onnx.load(path).graph))


def call(path, x):
    """All outputs of ONNX Runtime for images."""
    import onnxruntime as runtime

    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {"image": x.numpy()})]


def away_from_start(layer: nn.Module, noise: float = 0.1) -> nn.Module:
    """Branches that start at zero predict the same for all images: then nothing that depends on them is tested."""
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.std(correction=0) < 0.02:
                parameter.add_(torch.randn_like(parameter) * noise)
    return layer.eval()


def bodies(path):
    """The graphs that a ``Scan`` repeats."""
    return [a.g for node in nodes(path) if node.op_type == "Scan" for a in node.attribute if a.name == "body"]


def assert_right(layer, path, shape) -> None:
    """ONNX Runtime computes what PyTorch does, for two batches of different images."""
    for _ in range(2):
        x = torch.randn(shape) + torch.randn(*shape[:2], 1, 1)
        with torch.no_grad():
            torch.testing.assert_close(call(path, x)[0], layer(x), rtol=1e-3, atol=1e-3)
