"""The model card of a saved network: what it is, what it scores, what it costs, how it is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from dyvision.analysis import profile
from dyvision.text import printable, some

#: Hugging Face's name for what a task does
PIPELINES = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}


def model_card(
    model: nn.Module,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    dataset: str | None,
    license: str | None,
    image_size: int | tuple[int, int],
) -> ModelCard:
    """Write a model card.

    Args:
        model: The network.
        config: As it is saved.
        metrics: Numbers by name, ``{"val/mIoU": 0.61}``.
        dataset: What they were measured on.
        license: Of the weights.
        image_size: Side, or height and width, of the images whose cost is stated.

    Raises:
        ValueError: If a metric is no number.
    """
    wrong = next((name for name, value in metrics.items() if not _is_finite(value)), None)
    if wrong is not None:
        raise ValueError(f"metrics[{wrong!r}] must be a number, not {metrics[wrong]!r}")
    arguments = config["arguments"]
    pipeline = PIPELINES.get(config.get("task") or ("classification" if config["kind"] == "model" else ""))
    network = arguments.get("backbone" if config["kind"] == "task" else "name")
    layer = arguments.get("layer", "static")
    head = arguments.get("head") if config["kind"] == "task" else None
    title = " + ".join(str(part) for part in (network, layer, head if isinstance(head, str) else None) if part)
    results = [
        EvalResult(
            task_type=pipeline or "image-feature-extraction",
            dataset_type="dataset",
            dataset_name=_plain(dataset),
            metric_type=_plain(name),
            metric_value=float(value),
        )
        for name, value in (metrics.items() if dataset else ())
    ]
    data = ModelCardData(
        library_name="dyvision",
        license=license,
        pipeline_tag=pipeline,
        tags=["dyvision", "dynamic-convolution", str(layer)],
        **({"eval_results": results, "model_name": _plain(title)} if results else {}),
    )
    lines = [f"# {_plain(title)}", "", _what(config, layer), "", *_usage(), ""]
    if metrics:
        lines += [f"## Metrics{f' on {_plain(dataset)}' if dataset else ''}", "", "| metric | value |", "|---|---|"]
        lines += [f"| {_plain(name)} | {float(value):.4g} |" for name, value in metrics.items()]
        lines.append("")
    lines += ["## Cost", "", *_cost(model, arguments, image_size), ""]
    classes = arguments.get("class_names")
    if classes:
        lines += ["## Classes", "", _plain(some(classes, 100)), ""]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines))


def _what(config: Mapping[str, Any], layer: str) -> str:
    kind = {"model": "An image classifier", "backbone": "A backbone (feature maps)"}.get(
        config["kind"], f"A {config.get('task')} network"
    )
    convolutions = "static convolutions" if layer == "static" else f"dynamic convolutions (`{layer}`)"
    return f"{kind} with {convolutions}, made with dyvision {config['dyvision_version']}."


def _usage() -> list[str]:
    return [
        "```python",
        "from dyvision.adapters.huggingface import from_pretrained",
        "",
        'model = from_pretrained("folder or user/repository")',
        "```",
    ]


def _cost(model: nn.Module, arguments: Mapping[str, Any], image_size: int | tuple[int, int]) -> list[str]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    cost = profile(model, (1, arguments.get("in_chans") or 3, height, width), latency=False)
    return [
        "| parameters | multiply-adds | image |",
        "|---|---|---|",
        f"| {cost.params / 1e6:.2f} M | {cost.macs / 1e6:.1f} M | {height} x {width} |",
    ]


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _plain(text: object) -> str:
    """Text of any origin in one cell of a Markdown table."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
