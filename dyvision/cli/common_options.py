"""``dyvision fit --help`` without a task: the options that most runs use, and how to see all of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from dyvision.cli.task_table import TASKS
from dyvision.cli.typed import TypedOptions

#: the commands that run the trainer, which has a parser of its own for each task
TRAINER_COMMANDS = {
    "fit": "train a task, or go on with a run that was stopped",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write predictions for a folder of images",
}
_EXAMPLES = {
    "fit": (
        "--config segmentation/quickstart.yaml --model.layer odconv",
        "--task detection --data.root coco/ --model.layer dcd",
        "--ckpt_path last",
    ),
    "validate": ("--ckpt_path last", "--ckpt_path best --data.root other/"),
    "test": ("--ckpt_path last --data.test_split test", "--ckpt_path last.ckpt --output results/"),
    "predict": ("--ckpt_path best --data.predict_root photos/ --output out/",),
}
_ALL, _FIT, _EVALUATE, _PREDICT = ("fit", "validate", "test", "predict"), ("fit",), ("validate", "test"), ("predict",)
#: option, what it takes, what it is, the commands that have a use for it
_OPTIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("config", "NAME_OR_FILE", "a packaged config or a file, several times; later ones win", _ALL),
    ("task", "NAME", f"{', '.join(TASKS)}; without it the config or the checkpoint says", _ALL),
    ("import", "MODULE_OR_FILE", "registers layers, heads, ... of your own; several times", _ALL),
    ("ckpt_path", "FILE", "go on with this run; last or best: of the newest one", _FIT),
    ("ckpt_path", "FILE", "the checkpoint; last or best: of the newest run", ("validate", "test", "predict")),
    ("data_format", "NAME", "dyvision list formats (default: that of the checkpoint, or of the task)", _ALL),
    ("data.root", "FOLDER", "the data set (default: that of the checkpoint)", _ALL),
    ("data.predict_root", "FOLDER", "images, at any depth, or one image", _PREDICT),
    ("output", "FOLDER", "where to write", (*_EVALUATE, *_PREDICT)),
    ("model.backbone", "NAME", "dyvision list backbones, or any name of timm", _FIT),
    ("model.layer", "NAME", "its convolutions: dyvision list layers", _FIT),
    ("model.head", "NAME", "segmentation and detection: dyvision list heads", _FIT),
    ("model.pretrained", "true|FILE", "start from published weights, or a file of such", _FIT),
    ("model.backbone_weights", "FILE", "start from the backbone of another checkpoint", _FIT),
    ("model.optimizer", "NAME", "adamw, sgd, any of torch.optim, or {name: sgd, momentum: 0.9}", _FIT),
    ("model.lr", "NUMBER", "learning rate at its highest", _FIT),
    ("data.batch_size", "N", "images per process in a training batch", _FIT),
    ("data.eval_batch_size", "N", "images per process in a batch", (*_EVALUATE, *_PREDICT)),
    ("data.num_workers", "N", "processes that load data; 0 for none", _ALL),
    ("data.val_fraction", "SHARE", "validate on this share of the training images", _FIT),
    ("prediction.score_threshold", "NUMBER", "detection: draw boxes of at least this score", _PREDICT),
    ("trainer.max_epochs", "N", "length of the training; or trainer.max_steps", _FIT),
    ("trainer.devices", "N", "processes or GPUs", _ALL),
    ("trainer.accelerator", "NAME", "cpu, gpu, mps or auto", _ALL),
    ("trainer.precision", "NAME", "32-true, bf16-mixed, 16-mixed", _ALL),
    ("trainer.default_root_dir", "FOLDER", "where runs go (default: runs)", _FIT),
    ("seed_everything", "N", "seed of weights, order and augmentation", _FIT),
)


def common_options(command: str) -> Iterator[tuple[str, str, str]]:
    """``(option, what it takes, text)`` of the options that a command is mostly used with."""
    for name, value, text, commands in _OPTIONS:
        if command in commands:
            yield name, value, text


def asks_for_common_options(typed: TypedOptions) -> bool:
    """Whether help is wanted, and nothing says for which task."""
    return "help" in typed and not any(name in typed for name in ("task", "config", "ckpt_path"))


def print_common_options(command: str) -> None:
    """Print usage, the common options, examples, and how to see all options."""
    lines = ["examples:", *(f"  dyvision {command} {example}" for example in _EXAMPLES[command])]
    lines += ["", "all options, with their defaults:"]
    lines += [f"  dyvision {command} --help --task {task}" for task in TASKS]
    parser = argparse.ArgumentParser(
        prog=f"dyvision {command}",
        usage="%(prog)s [--config NAME_OR_FILE ...] [--option VALUE ...]",
        description=TRAINER_COMMANDS[command],
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    group = parser.add_argument_group("common options")
    for name, value, text in common_options(command):
        group.add_argument(f"--{name}", metavar=value, help=text)
    parser.print_help()
