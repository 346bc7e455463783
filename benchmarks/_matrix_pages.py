"""The matrix as tables for a terminal and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import timm
import torch
import torchvision

from benchmarks._matrix_networks import NETWORKS
from dyvision.tables import NAME, FittingTable

_MEANING = """
| column | what has to hold |
|---|---|
| outputs | `dynamize` in double precision: outputs as before |
| training | a step of SGD: finite gradients for every parameter of the layers and their branches |
| compile | `torch.compile(backend="{backend}")`, which traces only: eager outputs for batches of 2 and 3 |
| torch.export | with a dynamic batch: eager outputs for batches of 1, 3 and 5 |
| ONNX | `export_onnx` with a dynamic batch: ONNX Runtime as PyTorch for batches of 1, 3 and 8 |
| collapse | over one image: the static network computes for it what the dynamic one does |
| state dict | saved, read with `weights_only=True`, loaded strictly into another network: the same outputs |
| pickle, deepcopy | the same outputs, nothing shared |

Compiled, exported and collapsed networks are compared in double precision (within 1e-5 of the largest output), since
DRConv chooses kernels by the largest of several numbers, which rounding may change in single precision; the rest in the
network's own precision, within 1e-3.
"""


def versions() -> dict[str, str]:
    """Of what the results depend on."""
    import onnx
    import onnxruntime

    found = {
        "torch": torch,
        "torchvision": torchvision,
        "timm": timm,
        "onnx": onnx,
        "onnxruntime": onnxruntime,
    }
    return {name: str(package.__version__).partition("+")[0] for name, package in found.items()}


def tables(
    cells: Mapping[str, Mapping[str, Any]], layers: Sequence[str], networks: Sequence[str], checks: Sequence[str]
) -> Iterator[FittingTable]:
    """One per network, with the reasons below."""
    for network in networks:
        rows, reasons = _rows(cells, layers, network, checks)
        caption = "\n".join(f"{number}: {reason}" for number, reason in reasons)
        table = FittingTable(NETWORKS[network].title, caption=caption or None, elsewhere="--json FILE has them")
        table.add_column("layer", NAME)
        for importance, check in enumerate(checks):
            table.add_column(check, importance + 1)
        for layer, row in rows:
            table.add_row(layer, *row)
        yield table


def markdown(
    cells: Mapping[str, Mapping[str, Any]],
    layers: Sequence[str],
    networks: Sequence[str],
    checks: Sequence[str],
    backend: str,
) -> str:
    """The page."""
    counts = {state: sum(cell["state"] == state for cell in cells.values()) for state in _SHORT}
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# What works where",
        "",
        "Every layer in six kinds of networks with random weights, each with the method's default policy, made by",
        "",
        "```bash",
        "python -m benchmarks.matrix --json matrix.json --markdown docs/matrix.md",
        "```",
        "",
        f"on a CPU with {used}: {counts['pass']} pass, {counts['not applicable']} not applicable, "
        f"{counts['FAIL']} fail. Numbers lead to the reasons below each table.",
        _MEANING.format(backend=backend),
    ]
    for network in networks:
        rows, reasons = _rows(cells, layers, network, checks)
        lines += [
            f"## {NETWORKS[network].title}",
            "",
            f"| layer | {' | '.join(checks)} |",
            "|---" * len(checks) + "|---|",
        ]
        lines += [f"| `{layer}` | {' | '.join(row)} |" for layer, row in rows]
        lines += ["", *(f"* {number}: {_escaped(reason)}" for number, reason in reasons)]
        lines += [""] if reasons else []
    return "\n".join(lines).rstrip() + "\n"


_SHORT = {"pass": "pass", "not applicable": "n/a", "FAIL": "FAIL"}


def _rows(
    cells: Mapping[str, Mapping[str, Any]], layers: Sequence[str], network: str, checks: Sequence[str]
) -> tuple[list[tuple[str, list[str]]], list[tuple[int, str]]]:
    """Cells by layer, and the numbered reasons of those that are not passed."""
    numbers: dict[str, int] = {}
    rows = []
    for layer in layers:
        row = []
        for check in checks:
            cell = cells.get(f"{network}/{layer}/{check}")
            text = "" if cell is None else _SHORT[cell["state"]]
            if cell is not None and cell["state"] != "pass":
                text += f" ({numbers.setdefault(cell['note'], len(numbers) + 1)})"
            row.append(text)
        rows.append((layer, row))
    return rows, [(number, reason) for reason, number in numbers.items()]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
