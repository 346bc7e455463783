"""Wrong options of the data modules, from the command line."""

from __future__ import annotations

import pytest

#: option (without ``--data.``), words of the line
EVERY_TASK = [
    ("batch_size=0", "batch_size", "integer"),
    ("batch_size=-4", "batch_size", "integer"),
    ("batch_size=2.5", "batch_size", "integer"),
    ("batch_size=1e18", "batch_size", "integer"),
    ("batch_size=1000000000000000000", "batch_size", "1_000_000"),
    ("batch_size=abc", "batch_size", "integer"),
    ("batch_size=[2]", "batch_size", "integer"),
    ("batch_size=true", "batch_size", "integer"),
    ("batch_size=null", "batch_size", "integer"),
    ("eval_batch_size=0", "eval_batch_size", "integer"),
    ("eval_batch_size=x", "eval_batch_size", "integer"),
    ("num_workers=-1", "num_workers", "integer"),
    ("num_workers=100000", "num_workers", "1024"),
    ("num_workers=abc", "num_workers", "integer"),
    ("seed=-1", "seed", "integer"),
    ("seed=4294967296", "seed", "integer"),
    ("seed=abc", "seed", "integer"),
    ("drop_last=maybe", "drop_last", "true or false"),
    ("pin_memory=sometimes", "pin_memory", "true or false"),
    ("train_split=trian", "trian", "train"),
    ("val_split=nowhere", "nowhere", "split"),
    ("train_split=[a]", "[a]", "split"),
    ("train_transform=HorizontalFlip", "train_transform", "list"),
    ("train_transform=[HorizontalFlop]", "train_transform", "HorizontalFlip"),
    ("train_transform=[{HorizontalFlip: {p: 3}}]", "train_transform", "HorizontalFlip", "p"),
    ("train_transform=[{HorizontalFlip: {prob: 1}}]", "train_transform", "HorizontalFlip", "prob"),
    ("train_transform=[{RandomCrop: {height: -1, width: 8}}]", "train_transform", "RandomCrop", "height"),
    ("train_transform=[{RandomCrop: {height: 8}}]", "train_transform", "RandomCrop", "width"),
    ("train_transform=[{RandomCrop: {height: abc, width: 8}}]", "train_transform", "RandomCrop", "height"),
    ("train_transform=[{RandomCrop: {height: 1000, width: 1000}}]", "train_transform", "crop"),
    ("train_transform=[{Resize: {height: .nan, width: 8}}]", "train_transform", "Resize", "height"),
    ("train_transform=[{RandomScale: {scale_limit: .inf}}]", "train_transform", "RandomScale", "scale_limit"),
    ("train_transform=[{ColorJitter: {brightness: -2}}]", "train_transform", "ColorJitter", "brightness"),
    ("train_transform=[3]", "train_transform", "transform"),
    ("train_transform=[{}]", "train_transform", "transform"),
    ("train_transform=[{a: 1, b: 2}]", "train_transform", "one item holds one transform"),
    ("train_transform=[{OneOf: {transforms: [Blurr]}}]", "train_transform", "Blur"),
    ("train_transform=[Normalize]", "train_transform", "not needed"),
    ("train_transform=[ToTensorV2]", "train_transform", "not needed"),
    ("train_transform=[{class_path: torch.nn.Linear, init_args: {}}]", "train_transform", "albumentations"),
    ("train_transform=[{class_path: no.such.Thing}]", "train_transform", "no.such"),
    ("eval_transform=[{Resize: {height: 0, width: 8}}]", "eval_transform", "Resize", "height"),
    ("eval_transform={Resize: 3}", "eval_transform", "list"),
    ("rooot=x", "--data.rooot", "data.root"),
]
CLASSIFICATION = [
    ("image_size=0", "image_size", "integer"),
    ("image_size=-32", "image_size", "integer"),
    ("image_size=1000000", "image_size", "32_768"),
    ("image_size=[32, 32]", "image_size", "integer"),
    ("image_size=32.5", "image_size", "integer"),
    ("crop_ratio=0", "crop_ratio", "(0, 1]"),
    ("crop_ratio=1.5", "crop_ratio", "(0, 1]"),
    ("crop_ratio=.nan", "crop_ratio", "(0, 1]"),
    ("mean=[0.5]", "mean", "3 numbers"),
    ("mean=0.5", "mean", "numbers"),
    ("mean=[.nan, 0, 0]", "mean", "3 numbers"),
    ("mean=[.inf, 0, 0]", "mean", "3 numbers"),
    ("mean=[123.7, 116.3, 103.5]", "mean", "3 numbers"),
    ("mean=[a, b, c]", "mean", "numbers"),
    ("std=[0, 1, 1]", "std", "3 numbers"),
    ("std=[-1, 1, 1]", "std", "3 numbers"),
    ("std=[.nan, 1, 1]", "std", "3 numbers"),
    ("std=[58, 57, 57]", "std", "3 numbers"),
    ("words=nowhere.txt", "nowhere.txt", "no file"),
]
SEGMENTATION = [
    ("crop_size=32", "crop_size", "2 integers"),
    ("crop_size=[32]", "crop_size", "2 integers"),
    ("crop_size=[32, 0]", "crop_size", "2 integers"),
    ("crop_size=[32, -32]", "crop_size", "2 integers"),
    ("crop_size=[32, 1000000]", "crop_size", "2 integers"),
    ("crop_size=[32, abc]", "crop_size", "2 integers"),
    ("crop_size=[.nan, 32]", "crop_size", "2 integers"),
    ("image_size=[0, 32]", "image_size", "2 integers"),
    ("image_size=32", "image_size", "2 integers"),
    ("scale_range=[2.0, 0.5]", "scale_range", "smaller"),
    ("scale_range=[0, 1]", "scale_range", "2 numbers"),
    ("scale_range=[-1, 1]", "scale_range", "2 numbers"),
    ("scale_range=[.nan, 1]", "scale_range", "2 numbers"),
    ("scale_range=[1, 1e18]", "scale_range", "2 numbers"),
    ("scale_range=2", "scale_range", "2 numbers"),
    ("mean=[.nan, 0, 0]", "mean", "3 numbers"),
    ("std=[0, 0, 0]", "std", "3 numbers"),
    ("image_dir=nowhere", "nowhere", "image_dir"),
    ("label_dir=nowhere", "label_dir", "label map"),
    ("image_suffix=_nothing", "image_suffix", "_nothing"),
    ("label_suffix=_nothing", "label_suffix", "_nothing"),
    ("classes=road", "classes", "list"),
    ("classes=[raod]", "classes", "'road'|road"),
    ("classes=[]", "classes"),
    ("classes=[road, road]", "classes", "road"),
    ("label_table=[1, 2]", "label_table", "mapping"),
    ("label_table={a: b}", "label_table"),
    ("label_table={}", "names"),
    ("ignore_ids=abc", "ignore_ids", "list"),
    ("ignore_ids=[a]", "ignore_ids", "integers"),
]
DETECTION = [
    ("image_size=0", "image_size", "integer"),
    ("image_size=-1", "image_size", "integer"),
    ("image_size=[32, 32]", "image_size", "integer"),
    ("image_size=1000000", "image_size", "32_768"),
    ("masks=maybe", "masks", "true or false"),
    ("skip_empty=3", "skip_empty", "true or false"),
    ("images=nowhere/{split}", "nowhere"),
    ("annotations=nowhere/{split}.json", "nowhere"),
    ("annotations=[a]", "[a]"),
]
CASES = [
    *(("classification", row) for row in EVERY_TASK),
    *(("classification", row) for row in CLASSIFICATION),
    *(("segmentation", row) for row in SEGMENTATION),
    *(("detection", row) for row in DETECTION),
]


@pytest.mark.parametrize(("task", "row"), CASES, ids=[f"{task}-{row[0]}" for task, row in CASES])
def test_is_refused(task, row, refused_in_fit) -> None:
    option, *words = row
    line = refused_in_fit(task, [f"--data.{option}"], *(word for word in words if "|" not in word))
    assert all(any(part in line for part in word.split("|")) for word in words if "|" in word), line


@pytest.mark.parametrize("option", ["batch_size=0", "num_workers=-1", "seed=-1", "train_transform=[HorizontalFlop]"])
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_shared_options_are_checked_in_every_task(task, option, refused_in_fit) -> None:
    refused_in_fit(task, [f"--data.{option}"], option.partition("=")[0])


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_roots(task, refused_in_fit, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("text")
    refused_in_fit(task, [], "nowhere", "does not exist", root=tmp_path / "nowhere")
    refused_in_fit(task, [], "empty", "expected", root=tmp_path / "empty")
    refused_in_fit(task, [], "file.txt", "file", root=tmp_path / "file.txt")


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_no_root(task, refused) -> None:
    refused(["fit", f"--task={task}"], "--data.root", "missing")
