"""Image folders and images that cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _spoil(kind: str, path: Path) -> None:
    good = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "half":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "header only":
        path.write_bytes(good[:20])
    elif kind == "noise":
        path.write_bytes(good[:50] + bytes(range(256)) * 4)
    elif kind == "web page":
        path.write_text("<html><body>404</body></html>")
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "dead link":
        path.unlink()
        path.symlink_to("nowhere.jpg")


IMAGES = ("empty", "text", "half", "header only", "noise", "web page", "pointer")


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_broken_images(task, kind, own, refused_in_fit) -> None:
    root = own(task)
    folder = {"classification": "train/cat", "segmentation": "leftImg8bit/train/town", "detection": "train2017"}[task]
    for path in (root / folder).iterdir():
        _spoil(kind, path)
    refused_in_fit(task, ["--trainer.max_steps=3"], folder.rsplit("/", 1)[-1], root=root)


def _no_split(root: Path) -> None:
    shutil.rmtree(root / "train")


def _no_validation(root: Path) -> None:
    shutil.rmtree(root / "val")


def _no_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def _no_images(root: Path) -> None:
    for path in (root / "train").rglob("*.jpg"):
        path.unlink()


def _other_files(root: Path) -> None:
    for path in (root / "train").rglob("*.jpg"):
        path.rename(path.with_suffix(".txt"))


def _class_of_validation(root: Path) -> None:
    shutil.copytree(root / "val" / "cat", root / "val" / "emu")


def _split_is_a_file(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").write_text("hello")


def _flat(root: Path) -> None:
    for path in list((root / "train").rglob("*.jpg")):
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    for folder in ("cat", "dog"):
        (root / "train" / folder).rmdir()


FOLDERS = {
    "no training split": (_no_split, "train"),
    "no validation split": (_no_validation, "val"),
    "no classes": (_no_classes, "train"),
    "no images": (_no_images, "no image"),
    "other files": (_other_files, "no image"),
    "a class only in validation": (_class_of_validation, "emu"),
    "split is a file": (_split_is_a_file, "train"),
    "images without folders": (_flat, "train"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name, own, refused_in_fit) -> None:
    spoil, *words = FOLDERS[name]
    root = own("classification")
    spoil(root)
    refused_in_fit("classification", [], *words, root=root)


def _predict(checkpoints, root, tmp_path) -> list[str]:
    return [
        "predict", f"--ckpt_path={checkpoints['classification']}", f"--data.predict_root={root}",
        "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        f"--output={tmp_path / 'out'}",
    ]  # fmt: skip


def test_nothing_to_predict(checkpoints, tmp_path, refused) -> None:
    (tmp_path / "empty").mkdir()
    refused(_predict(checkpoints, tmp_path / "empty", tmp_path), "predict_root", "no image")
    refused(_predict(checkpoints, tmp_path / "nowhere", tmp_path), "predict_root", "does not exist")


def test_batch_larger_than_memory(corpus, refused_in_fit, monkeypatch) -> None:
    """What torch and Pillow say when memory is full is told with the options that help."""
    import torch

    from dyvision.tasks import ClassificationTask

    said = {
        "cpu": RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 53687091200 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "gpu": torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 3 GiB "
            "is free. Including non-PyTorch memory, this process has 76 GiB memory in use."
        ),
        "python": MemoryError(),
        "numpy": np._core._exceptions._ArrayMemoryError((10**10,), np.dtype(np.uint8)),
    }
    for error in said.values():

        def fail(self, *arguments, error=error):
            raise error

        monkeypatch.setattr(ClassificationTask, "forward", fail)
        refused_in_fit("classification", [], "out of", "memory", "--data.batch_size")


def test_the_fault_of_a_worker_is_one_line(own, refused_in_fit) -> None:
    root = own("classification")
    for path in (root / "train").rglob("*.jpg"):
        Image.new("RGB", (4, 4)).save(path)
    crop = "--data.train_transform=[{RandomCrop: {height: 32, width: 32}}]"
    refused_in_fit("classification", [crop, "--data.num_workers=1"], "train_transform", ".jpg", root=root)
