"""Small ONNX files written by hand, as an export of a task would be: without a network to trace they take no time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def metadata(task: str, **more: Any) -> dict[str, str]:
    """What the file of a task with three classes says about itself."""
    from dyvision import tasks

    made = getattr(tasks, f"{task.capitalize()}Task")(backbone="mobilenetv2_035", num_classes=3)
    model = {**made.hparams, "class_names": ["a", "b", "c"], **more.pop("model", {})}
    data = {"root": "data", **more.pop("data", {})}
    said = {"task": task, "mean": "[0.5, 0.25, 0.5]", "std": "[0.5, 0.5, 0.25]", "dyvision_version": "0.0.1", **more}
    return {**said, "model": yaml.safe_dump(model), "data": yaml.safe_dump(data)}


def write_network(
    path: Path,
    said: Mapping[str, str],
    shape: Sequence[int | str] = ("batch", 3, "height", "width"),
    output: str = "logits",
    takes_bytes: bool = False,
) -> Path:
    """A file whose logits are the means of the channels; of images for ``label_map`` the largest channel."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)]
    if takes_bytes:
        nodes[0].output[0] = "bytes"
        nodes.append(helper.make_node("Div", ["bytes", "most"], ["x"]))
    kind, dims = TensorProto.FLOAT, [shape[0], 3]
    if output == "label_map":
        nodes.append(helper.make_node("ArgMax", ["x"], ["label_map"], axis=1, keepdims=0))
        kind, dims = TensorProto.INT64, [shape[0], *shape[2:]]
    elif output == "segmentation":
        output, dims = "logits", [*shape]
        nodes.append(helper.make_node("Identity", ["x"], ["logits"]))
    else:
        nodes.append(helper.make_node("GlobalAveragePool", ["x"], ["pooled"]))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["logits" if output == "logits" else "flat"]))
        if output == "probabilities":
            nodes.append(helper.make_node("Softmax", ["flat"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.UINT8 if takes_bytes else TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(output, kind, dims)],
        [helper.make_tensor("most", TensorProto.FLOAT, [], [255.0])] if takes_bytes else [],
    )
    return _save(graph, path, said)


def write_constant(path: Path, said: Mapping[str, str], name: str, value: Any) -> Path:
    """A file that gives the same array for each image, whatever its task."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    array = np.asarray(value)
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], end=1),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Expand", ["of_one", "shape"], [name]),
    ]
    constants = [
        numpy_helper.from_array(array, "of_one"),
        numpy_helper.from_array(np.array(array.shape, np.int64), "rest"),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), ["batch", *array.shape])],
        constants,
    )
    return _save(graph, path, said)


def write_detector(
    path: Path, said: Mapping[str, str], size: tuple[int | str, int | str], label: int = 2, **changed: Any
) -> Path:
    """A file that finds one object in each image, from (4, 5) to the lower right corner, and has room for two.

    Args:
        path: The file.
        said: What it says about itself.
        size: Height and width of its images; names for free ones.
        label: Of the object.
        **changed: Other arrays for outputs, as for a batch of one.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    height, width = size
    values = {
        "boxes": np.array(
            [[[4, 5, *(9 if isinstance(one, str) else one for one in (width, height))], [0] * 4]], np.float32
        ),
        "scores": np.array([[0.75, 0]], np.float32),
        "labels": np.array([[label, 0]], np.int64),
        "count": np.array([1], np.int64),
        **{name: np.asarray(value) for name, value in changed.items()},
    }
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], end=1),
        *(helper.make_node("Concat", ["batch", f"rest_{name}"], [f"shape_{name}"], axis=0) for name in values),
        *(helper.make_node("Expand", [f"{name}_of_one", f"shape_{name}"], [name]) for name in values),
    ]
    dims = {name: ["batch", *value.shape[1:]] for name, value in values.items()}
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()}
    constants = [numpy_helper.from_array(value, f"{name}_of_one") for name, value in values.items()]
    constants += [
        numpy_helper.from_array(np.array(value.shape[1:], np.int64), f"rest_{name}") for name, value in values.items()
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, height, width])],
        [helper.make_tensor_value_info(name, kinds[name], dims[name]) for name in values],
        constants,
    )
    return _save(graph, path, said)


def _save(graph: Any, path: Path, said: Mapping[str, str]) -> Path:
    import onnx
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, dict(said))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
