"""Values near the right kind for an option: of the type that its signature states, mostly usual, sometimes odd."""

from __future__ import annotations

import datetime
import inspect
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from dyvision import data as data_package
from dyvision import tasks as task_package
from dyvision.backbones import list_policies
from dyvision.cli.task_table import TASKS
from dyvision.data.sample.write import SAMPLE_CLASSES, SAMPLE_LABELS
from dyvision.layers import list_layers
from dyvision.tasks.callbacks import LastCheckpoint
from dyvision.tasks.heads import list_heads

_INTEGERS = [0, 1, 1, 2, 2, 3, 4, 5, 8, 10, 16, 32, 64, 255, 1000, -1, -2, 2**31, 2**63, True, 2.0, "4"]
_FLOATS = [0.0, 1e-8, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.9, 0.999, 1.0, 1, 2.0, 10.0, 1e3, 1e18, -0.1, -1.0, float("nan"),
           float("inf"), "0.1", "1e-3"]  # fmt: skip
_TEXTS = ["x", "a/b", "..", "", " ", "None", "~", "1", "[1]", "\u4eba", "a.b.C", "{a}"]
#: of no kind in particular
ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, 1.5, -0.5, 1e-30, 1e18, -1e18, 2**31, 2**32, 2**63, float("nan"),
    float("inf"), float("-inf"), "", " ", "abc", "1", "0.1", "1e3", "0,1", "true", "None", "~", "*", "../..", "\u4eba",
    "a.b.C", "os.system", "[1, 2]", "{a: 1}", [], [None], [0], [1, 2], [1, 2, 3], ["a", "b"], [[1, 2], [3]],
    [float("nan")] * 3, {}, {"a": 1}, {1: 2}, {"name": "adamw"}, {"name": 3}, {"class_path": "a.b.C"},
    {"class_path": "torch.nn.Linear", "init_args": {}}, {"class_path": 3}, {"init_args": {"a": 1}},
    {"name": "fcn", "a": 1},
]  # fmt: skip

_TRANSFORMS = [
    [], ["HorizontalFlip"], [{"name": "HorizontalFlip", "p": 1.0}], [{"name": "RandomCrop", "height": 16, "width": 16}],
    [{"class_path": "albumentations.VerticalFlip", "init_args": {"p": 0.5}}], ["ToGray", "GaussNoise"],
    [{"name": "HorizontalFlip", "q": 1}], ["Horizontalflip"], [{"name": "RandomCrop"}], ["Resize"], [3],
]  # fmt: skip
#: what the signature does not say
_KNOWN: dict[str, list[Any]] = {
    "layer": list_layers(),
    "backbone": ["test_resnet", "test_efficientnet", "mobilenetv2_035", "mobilenetv4_conv_small_035", "resnet10t",
                 "mobilenet_v2", "vit_tiny_patch16_224", "test_vit", "resnet"],
    "policy": [*list_policies(), ["*conv2*"], ["*"], ["!*"], ["nowhere"], []],
    "layer_kwargs": [{}, {"num_kernels": 2}, {"reduction": 4}, {"temperature": 2.0}, {"kernels": 2}, {"experts": 0},
                     {"bank": "tucker", "rank": 0.5}, {"bank": "tucker", "rank": 2}],
    "backbone_kwargs": [{}, {"drop_rate": 0.1}, {"width": 2}, {"act_layer": "relu"}, {"in_chans": 4},
                        {"num_classes": 7}, {"features_only": True}],
    "pretrained": [False, "", "x", "/dev/null"],
    "optimizer": ["adamw", "sgd", "adam", "rmsprop", "lion", {"name": "sgd", "momentum": 0.9, "nesterov": True},
                  {"name": "adamw", "betas": [0.9, 0.99]}, {"name": "adamw", "fused": True}, {"name": "sgd", "lr": 0.1},
                  {"class_path": "torch.optim.Adagrad"}, {"class_path": "torch.optim.LBFGS"},
                  {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}, {"name": "sgd", "beta": 1}],
    "lr_schedule": ["cosine", "poly", "multistep", "constant", "linear", {"name": "poly", "power": 0.9},
                    {"name": "cosine", "min_ratio": 0.1}, {"name": "multistep", "milestones": [2, 3]},
                    {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}},
                    {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, {"name": "multistep"}],
    "anneal_temperature": [True, False, {"start": 10, "epochs": 2}, {"fraction": 0.5}, {"start": 0}, {}],
    "loss": ["cross_entropy", "ohem", "dice", "focal", {"name": "ohem", "threshold": 0.7}, {"name": "ohem"},
             {"class_path": "torch.nn.CrossEntropyLoss"}, {"class_path": "torch.nn.Linear"}],
    "inference": [{"mode": "whole"}, {"mode": "slide", "crop_size": [32, 32], "stride": [16, 16]}, {"mode": "slide"},
                  {"mode": "tile"}, {"scales": [1.0, 0.5], "flip": True}, {}],
    "coco_eval": ["pycocotools", "faster-coco-eval", "cocoeval"],
    "class_names": [list(SAMPLE_CLASSES), ["a", "a", "b", "c", "d"], ["a", "b"], ["[/b]", "\u4eba", "=1", " ", ""]],
    "class_ids": [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [7, 7, 8, 9, 10], [-1, 0, 1, 2, 3], [1]],
    "class_colors": [[[0, 0, number] for number in range(5)], [[0, 0, 256]] * 5, [[0]], []],
    "class_weights": [[1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5, [1.0], [1.0, float("nan"), 1.0, 1.0, 1.0], [0.5] * 10],
    "classes": [list(SAMPLE_LABELS), list(SAMPLE_LABELS[:2]), ["road", "road"], ["nothing"], []],
    "label_table": [{7: "road", 8: "sidewalk"}, {0: "a"}, {-1: "a", 255: "b"}, {}],
    "label_colors": ["voc", "cityscapes", {"a": [0, 0, 0], "b": [7, 7, 7]}, {"a": [0]}],
    "ignore_ids": [[], [0], [0, 1, 2], [255], [-1]],
    "mean": [[0.5] * 3, [0.485, 0.456, 0.406], [0.5], [127, 127, 127], [0.0] * 3],
    "std": [[0.5] * 3, [0.229, 0.224, 0.225], [0.0] * 3, [1.0], [-1.0] * 3],
    "image_mean": [[0.5] * 3, [0.5], [127.0] * 3], "image_std": [[0.5] * 3, [0.0] * 3, [0.5]],
    "crop_size": [[32, 32], [64, 32], [33, 31], [1, 1], [0, 32], [32], 32],
    "scale_range": [[0.5, 2.0], [1.0, 1.0], [2.0, 0.5], [0.0, 1.0]],
    "train_transform": _TRANSFORMS, "eval_transform": _TRANSFORMS,
    "train_split": ["train", "val", "train2017", "test", ""], "val_split": ["val", "val2017", "train", "test", "."],
    "layout": ["cityscapes", "folders", "voc", "mapillary", "coco", "roboflow", "lvis", "imagenet"],
    "accelerator": ["cpu", "auto", "gpu", "tpu", "cuda"],
    "strategy": ["auto", "ddp", "fsdp", "single_device", "dp", "ddp_spawn"],
    "devices": [1, "auto", 2, "1", [0], -1, 0, "0,1"],
    "precision": [32, "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", 8],
    "logger": [True, False, {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}},
               {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}, [], "tensorboard"],
    "callbacks": [[], [{"class_path": "EarlyStopping", "init_args": {"monitor": "train/loss"}}],
                  [{"class_path": "a.B"}], {"class_path": "lightning.pytorch.callbacks.RichModelSummary"},
                  [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}], ["EarlyStopping"]],
    "plugins": [[], None, "x", {"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"}],
    "profiler": ["simple", "advanced", "pytorch", "none"],
    "max_time": ["00:00:10:00", "00:12:00:00", "1:00", {"minutes": 5}, {"minuts": 5}],
    "monitor": ["val/miou", "val/top1", "val/box_AP", "train/loss", "loss", None],
    "mode": ["min", "max", "mean"],
    "filename": ["best", "{epoch}", "{epoch}-{step}", "{epoch", "a/b", "{x}"],
    "gradient_clip_algorithm": ["norm", "value", "none"],
}  # fmt: skip
#: what would leave the folder, or end where no example is
_LEFT_OUT = {"default_root_dir", "dirpath", "model_registry", "num_nodes", "barebones", "root", "predict_root"}


def number_of_classes(task: str) -> int:
    """How many classes the sample data of a task have, as the quickstart configs read them."""
    return len(SAMPLE_LABELS if task == "segmentation" else SAMPLE_CLASSES)


def options(task: str) -> dict[str, dict[str, inspect.Parameter]]:
    """Every option of a task's config that is worth changing, by section."""
    entry = TASKS[task]
    sections = {
        "model": getattr(task_package, entry.model), "data": getattr(data_package, entry.data), "trainer": Trainer,
        "checkpoint": ModelCheckpoint, "last": LastCheckpoint,
    }  # fmt: skip
    return {
        section: {
            name: parameter
            for name, parameter in inspect.signature(owner, eval_str=True).parameters.items()
            if name not in _LEFT_OUT
        }
        for section, owner in sections.items()
    }


def near(parameter: inspect.Parameter, task: str) -> st.SearchStrategy[Any]:
    """Values near the right kind for an option: its default, usual ones, and odd ones of the same type.

    Args:
        parameter: The option.
        task: Its task.
    """
    if parameter.name in ("head", "aux_head"):
        heads = [name for name in list_heads(task) if name.islower()]
        return st.sampled_from([*heads, *({"name": name} for name in heads), {"name": heads[0], "channels": 8}, "unet"])
    if parameter.name in _KNOWN:
        return st.sampled_from(_KNOWN[parameter.name])
    return st.one_of(_of(parameter.annotation), _of(parameter.annotation), st.just(parameter.default))


def _of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a type, as a config file would state them."""
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, types.UnionType):
        return st.one_of([_of(argument) for argument in arguments if argument is not datetime.timedelta])
    if kind is Literal:
        return st.sampled_from([*arguments, arguments[0], f"{arguments[0]}x"])
    if kind is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*(_of(argument) for argument in arguments)).map(list)
    if isinstance(kind, type) and issubclass(kind, (list, tuple, Iterable)) and kind not in (str, dict):
        return st.lists(_of(arguments[0] if arguments else str), max_size=4)
    if kind is dict:
        return st.dictionaries(_of(arguments[0]), _of(arguments[1]), max_size=2)
    plain = {bool: [False, True], int: _INTEGERS, float: _FLOATS, str: _TEXTS, Path: _TEXTS, type(None): [None]}
    return st.sampled_from(plain.get(kind, ODD_VALUES))
