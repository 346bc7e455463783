"""Kernels of our own for CPUs, in C: mixing and convolution in one pass, or none of it where they were not built.

The environment variable ``DYVISION_NATIVE`` forces an instruction set (``avx512``, ``avx2``, ``neon``, ``generic``) or
switches them off (``off``).
"""

from __future__ import annotations

from dyvision.ops.native._convolution import ACTIVATIONS, BIASES, Convolution, convolution, kind_of_bias
from dyvision.ops.native._gradient import gradients
from dyvision.ops.native._layer import Gates, Layer, layer
from dyvision.ops.native._low_rank import LowRank, LowRankLayer, LowRankWeights, low_rank, low_rank_layer
from dyvision.ops.native._perceptron import perceptron
from dyvision.ops.native.library import VARIABLE, available, instruction_set, instruction_sets, reason

__all__ = (
    "ACTIVATIONS",
    "BIASES",
    "VARIABLE",
    "Convolution",
    "Gates",
    "Layer",
    "LowRank",
    "LowRankLayer",
    "LowRankWeights",
    "available",
    "convolution",
    "gradients",
    "instruction_set",
    "instruction_sets",
    "kind_of_bias",
    "layer",
    "low_rank",
    "low_rank_layer",
    "perceptron",
    "reason",
)
