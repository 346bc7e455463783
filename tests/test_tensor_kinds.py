"""If these failed, weights that were saved as other numbers would be rounded or cut to 0 and 1 without a word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dyvision
from dyvision.checkpoints import load_official
from dyvision.tasks import ClassificationTask
from dyvision.tensor_kinds import check_kinds

#: what a file may have done to weights, and the words of the message
OTHERS = {"bool": "truth values (bool)", "int": "whole numbers (int32)", "int8": "whole numbers (int8)"}


def cast(tensor: Tensor, name: str) -> Tensor:
    return tensor.to(getattr(torch, name))


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return {**dyvision.create_model("resnet18", num_classes=2).state_dict()}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_with_weights_of_another_kind_is_refused(tmp_path, other):
    task = ClassificationTask("test_resnet", num_classes=2)
    state = task.state_dict()
    name = next(iter(state))
    path = tmp_path / "a.ckpt"
    content = {"task": "classification", "hyper_parameters": dict(task.hparams), "pytorch-lightning_version": "2.5.0"}
    torch.save({**content, "state_dict": {**state, name: cast(state[name], other)}}, path)
    with pytest.raises(ValueError) as error:
        ClassificationTask.load_from_checkpoint(path)
    assert all(word in str(error.value) for word in (str(path), name, OTHERS[other], "(float32)"))
    # one floating-point type for another is what mixed precision saves
    torch.save({**content, "state_dict": {**state, name: state[name].bfloat16()}}, path)
    assert ClassificationTask.load_from_checkpoint(path).state_dict()[name].dtype == torch.float32


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("reader", ["backbone", "pretrained", "transfer", "official"])
def test_weights_of_another_kind_are_refused(weights, tmp_path, reader, other):
    path = tmp_path / "weights.pth"
    torch.save({**weights, "conv1.weight": cast(weights["conv1.weight"], other)}, path)
    with pytest.raises(ValueError) as error:
        if reader == "backbone":
            dyvision.load_backbone_weights(dyvision.create_backbone("resnet18"), path)
        elif reader == "pretrained":
            dyvision.create_model("resnet18", num_classes=2, pretrained=str(path))
        elif reader == "transfer":
            ClassificationTask("resnet18", num_classes=2, backbone_weights=str(path))
        else:
            load_official(dyvision.create_model("resnet18", num_classes=2), path, "odconv")
    assert all(word in str(error.value) for word in ("weights.pth", "conv1.weight", OTHERS[other], "(float32)"))


def test_half_precision_files_load(weights, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in weights.items()}, path)
    model = dyvision.create_model("resnet18", num_classes=2, pretrained=str(path))
    assert torch.equal(model.state_dict()["conv1.weight"], weights["conv1.weight"].half().float())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (torch.tensor(1.5), r"floating-point numbers \(float32\), expected whole numbers \(int64\)"),
        (torch.tensor(float("inf")), r"floating-point numbers \(float32\), expected whole numbers \(int64\)"),
        (torch.tensor(7.0, dtype=torch.float16), None),
        (torch.tensor(True), r"truth values \(bool\), expected whole numbers"),
        (torch.tensor(1j), "complex numbers"),
        (torch.tensor(3, dtype=torch.int32), None),
    ],
)
def test_counters_stay_whole_numbers(stored, message):
    target = nn.BatchNorm2d(1).state_dict()
    if message is None:
        check_kinds({"num_batches_tracked": stored}, target, "a file")
    else:
        with pytest.raises(ValueError, match=f"a file: num_batches_tracked holds {message}"):
            check_kinds({"num_batches_tracked": stored}, target, "a file")


def test_whole_numbers_that_do_not_fit_are_refused():
    small = {"index": torch.zeros(2, dtype=torch.uint8)}
    check_kinds({"index": torch.tensor([0, 255])}, small, "a file")
    with pytest.raises(ValueError, match="index holds whole numbers"):
        check_kinds({"index": torch.tensor([0, 256])}, small, "a file")
