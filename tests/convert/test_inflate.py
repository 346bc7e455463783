"""If these fail, a user's own static checkpoint does not start the dynamic network, or starts it somewhere else."""

from __future__ import annotations

import logging
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dyvision.backbones import create_backbone, create_model
from dyvision.convert import dynamize, inflate_checkpoint
from dyvision.layers import list_layers

DYNAMIC = [name for name in list_layers() if name != "static"]


@pytest.fixture(scope="module")
def trained():
    """A classifier whose norms are not their initial ones: those leave the branches of its blocks out."""
    torch.manual_seed(3)
    model = create_model("test_resnet", num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.running_var, 0.5, 1)
            nn.init.normal_(module.running_mean, std=0.1)
    return model.eval()


@pytest.mark.parametrize("layer", DYNAMIC)
def test_every_layer_starts_where_the_static_network_ended(layer, trained) -> None:
    model = create_model("test_resnet", layer, num_classes=5)
    with torch.no_grad():  # as if it had been trained: what the branches have learnt is not theirs any more
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    report = inflate_checkpoint(model, {f"module.{k}": v for k, v in trained.state_dict().items()})
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model.eval()(images), trained(images), rtol=1e-3, atol=1e-4)
    assert report.kernels and report.norms and not report.classifier and not report.skipped
    assert report.loaded + len(report.branches) + len(report.others) == len(model.state_dict())


def test_a_network_of_ones_own() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())

    static, model = build().eval(), dynamize(build(), "dyconv", policy="*", preserve_outputs=False).eval()
    inflate_checkpoint(model, static.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(images), static(images), rtol=1e-4, atol=1e-5)
    bare = dynamize(nn.Conv2d(3, 8, 3), "condconv", preserve_outputs=False)
    inflate_checkpoint(bare, static[0].state_dict())
    torch.testing.assert_close(bare(images), static[0](images), rtol=1e-4, atol=1e-5)


def test_a_dynamic_classifier_starts_too(trained) -> None:
    for layer in ("dcd", "condconv"):
        model = create_model("test_resnet", layer, num_classes=5, dynamic_classifier=True, preserve_outputs=True)
        inflate_checkpoint(model, trained.state_dict())
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(model.eval()(images), trained(images), rtol=1e-3, atol=1e-4)


CONTAINERS = {
    "plain": lambda state: state,
    "lightning": lambda state: {
        "state_dict": {f"model.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "pytorch-lightning_version": "2.4.0",
    },
    "averaged first": lambda state: {
        "model": {k: torch.zeros_like(v) for k, v in state.items()},
        "ema": {"module": state},
    },
    "nested": lambda state: {"epoch": 3, "trainer": {"student": {"network": state}}, "optimizer": {"x": torch.ones(1)}},
    "averaged model": lambda state: {f"module.{k}": v for k, v in state.items()} | {"n_averaged": torch.tensor(4)},
    "both in one": lambda state: (
        {f"net.{k}": torch.zeros_like(v) for k, v in state.items()}
        | {f"net_ema.module.{k}": v for k, v in state.items()}
    ),
    "numbers beside it": lambda state: {"net_g": state, "step": torch.tensor(3)},
    "numbers beside its average": lambda state: {"ema": {"decay": torch.tensor(0.9), "shadow": state}, "model": {}},
    "only the decay of an average": lambda state: {"ema": {"decay": torch.tensor(0.9)}, "state_dict": state},
    "compiled, distributed": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_files_of_any_training_script(container, trained, tmp_path) -> None:
    torch.save(CONTAINERS[container](trained.state_dict()), tmp_path / "weights.pth")
    model = create_model("test_resnet", "dcd", num_classes=5, pretrained=tmp_path / "weights.pth").eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), trained(images), rtol=1e-3, atol=1e-4)


def test_the_kind_of_a_file_is_in_its_bytes(trained, tmp_path) -> None:
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors").rename(tmp_path / "pytorch_model.bin")
    model = create_model("test_resnet", "dcd", num_classes=5, pretrained=tmp_path / "pytorch_model.bin").eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), trained(images), rtol=1e-3, atol=1e-4)


def test_eight_bit_weights_are_read(trained, tmp_path) -> None:
    state = {name: t.to(torch.float8_e4m3fn) if t.ndim == 4 else t for name, t in trained.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    model = create_model("test_resnet", num_classes=5, pretrained=tmp_path / "weights.pth")
    torch.testing.assert_close(model.conv1[0].weight, state["conv1.0.weight"].float())


def test_a_dynamic_classifier_of_other_classes_starts_anew(trained) -> None:
    for layer in ("dcd", "condconv"):
        model = create_model("test_resnet", layer, num_classes=3, dynamic_classifier=True)
        assert any("fc" in name for name in inflate_checkpoint(model, trained.state_dict()).classifier)


def test_names_of_torchvision(tmp_path) -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.mobilenet_v2(width_mult=0.5, num_classes=6).eval()
    saved = {"state_dict": {f"model.{k}": v for k, v in theirs.state_dict().items()} | {"loss.weight": torch.ones(6)}}
    torch.save(saved, tmp_path / "theirs.ckpt")
    model = create_model("mobilenetv2_050", "dcd", num_classes=6, pretrained=tmp_path / "theirs.ckpt", policy="blocks")
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model.eval()(images), theirs(images), rtol=1e-3, atol=1e-4)


def test_the_report_says_what_came_from_where(trained, tmp_path, caplog) -> None:
    save_file({f"model.{k}": v for k, v in trained.state_dict().items()}, tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO, "dyvision"):
        model = create_model(
            "test_resnet", "dyconv", num_classes=3, in_chans=1, pretrained=tmp_path / "weights.safetensors"
        )
    (line,) = [record.getMessage() for record in caplog.records]
    report = model.pretrained_report
    for text in (
        f"{len(report.kernels)} kernels and biases of dynamic layers",
        f"{len(report.norms)} of norms",
        f"coefficient branches {len(report.branches)}",
        "classifier 2",
    ):
        assert text in line
    assert model.conv1[0].weight.shape[-3] == 1
    kept = create_model("test_resnet", "dyconv", pretrained=tmp_path / "weights.safetensors", preserve_outputs=False)
    assert kept.pretrained_report.kernels == () and kept.pretrained_report.norms


def test_a_classifier_from_what_segmentation_trained(tmp_path) -> None:
    backbone = create_backbone("mobilenetv2_035")
    saved = {f"network.backbone.{k}": v for k, v in backbone.state_dict().items()} | {"network.head.x": torch.ones(2)}
    torch.save({"state_dict": saved}, tmp_path / "last.ckpt")
    model = create_model("mobilenetv2_035", "dcd", num_classes=4, pretrained=tmp_path / "last.ckpt")
    assert "conv_head.weight" in model.pretrained_report.classifier
    assert model.pretrained_report.skipped == ("network.head.x",)
    again = create_backbone("mobilenetv2_035", "dcd", pretrained=tmp_path / "last.ckpt").eval()
    images = torch.randn(1, 3, 32, 32)
    for found, wanted in zip(again(images), backbone.eval()(images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_the_same_dynamic_layers_are_loaded_as_they_are(tmp_path) -> None:
    source = create_model("test_resnet", "condconv", num_classes=5).eval()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "dynamic.pth")
    model = create_model("test_resnet", "condconv", num_classes=5, pretrained=tmp_path / "dynamic.pth").eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), source(images))
    assert not model.pretrained_report.branches and "none starts anew" in str(model.pretrained_report)


class _Code:
    def __reduce__(self):
        return print, ("code ran",)


def test_files_that_are_refused_in_one_line(trained, tmp_path, capsys) -> None:
    state = trained.state_dict()
    broken = {**state, "conv1.0.weight": torch.full_like(state["conv1.0.weight"], float("nan"))}
    files = {
        "nothing": {"epoch": 3},
        "nan": broken,
        "dynamic": create_model("test_resnet", "dcd", num_classes=5).state_dict(),
        "described": {
            "state_dict": create_model("resnet10", num_classes=5).state_dict(),
            "hyper_parameters": {"backbone": "resnet10"},
        },
        "other": create_model("mobilenetv2_035", num_classes=5).state_dict(),
        "sparse": {**state, "conv1.0.weight": state["conv1.0.weight"].to_sparse()},
        "meta": {name: tensor.to("meta") for name, tensor in state.items()},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    (tmp_path / "folder.pth").mkdir()
    with zipfile.ZipFile(tmp_path / "program.pth", "w") as archive:  # as torch.jit.save writes it
        archive.writestr("program/data.pkl", b"")
        archive.writestr("program/constants.pkl", b"")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": _Code()}))
    for name, message in [
        ("nothing", "holds no tensors by name .it holds epoch"),
        ("nan", "conv1.0.weight of [0-9]+ hold NaN"),
        ("dynamic", r"dynamic layers \(dcd\)"),
        ("described", "its tensors are those of resnet10"),
        ("other", "its tensors are those of mobilenetv2_035, not of test_resnet"),
        ("code", "code.pth cannot be read"),
        ("absent", "does not exist"),
        ("sparse", "conv1.0.weight are no plain tensors"),
        ("meta", "are no plain tensors"),
        ("page", "a web page"),
        ("pointer", "git lfs pull"),
        ("folder", "is a folder"),
        ("program", "a TorchScript program"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            create_model("test_resnet", "dyconv", num_classes=5, pretrained=tmp_path / f"{name}.pth")
        assert f"{name}.pth" in str(caught.value) and "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_files_under_the_name_of_another_kind(trained, tmp_path) -> None:
    torch.save(trained.state_dict(), tmp_path / "theirs.pth")
    (tmp_path / "theirs.pth").rename(tmp_path / "theirs.safetensors")
    with pytest.raises(ValueError, match=r"a file of torch\.save, not one of safetensors; give it a name"):
        create_model("test_resnet", num_classes=5, pretrained=tmp_path / "theirs.safetensors")


def test_nothing_changes_where_something_does_not_fit(trained) -> None:
    model = create_model("test_resnet", "dyconv", num_classes=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor for name, tensor in trained.state_dict().items() if "layer3" not in name}
    with pytest.raises(ValueError, match="tensors are missing"):
        inflate_checkpoint(model, state)
    torch.testing.assert_close(dict(model.state_dict()), before)
