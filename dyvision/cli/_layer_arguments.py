"""``--set NAME=VALUE``: arguments of a layer on the command line."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import Any


def add_layer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--set`` to a parser."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="argument of the layer (may be given several times)",
    )


def layer_arguments(layer: str, given: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What ``--set`` gave, checked against the layer's own arguments.

    Raises:
        ValueError: If the layer does not exist, or has no such argument.
    """
    from dyvision.layers import DynamicConv2d, get_layer
    from dyvision.layers.arguments import check_own_arguments

    arguments = dict(given)
    if layer != "static":  # a name of dynamize's own arguments is none of the layer's
        check_own_arguments(get_layer(layer), DynamicConv2d, arguments)
    return arguments


def _assignment(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"NAME=VALUE, such as num_kernels=2, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word
        return name, value
