"""If these fail, weights land in the wrong place, or a checkpoint of another network loads in silence."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from dyvision.backbones import create_backbone, create_model, load_backbone_weights


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(1)
    return create_model("test_resnet", num_classes=5).eval()


def same_maps(backbone, classifier):
    x = torch.randn(1, 3, 64, 64)
    expected = classifier.forward_intermediates(x, indices=list(backbone.out_indices), intermediates_only=True)
    for found, wanted in zip(backbone.eval()(x), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("prefix", ["", "model.", "backbone.body.", "module.model.backbone._orig_mod.body."])
def test_any_prefix(classifier, prefix):
    backbone = create_backbone("test_resnet")
    state = {prefix + key: value for key, value in classifier.state_dict().items()} | {"head.weight": torch.ones(3)}
    report = load_backbone_weights(backbone, state)
    assert report.loaded == len(backbone.state_dict())
    assert {key.split(".")[-2] for key in report.skipped} == {"fc", "head"}
    same_maps(backbone, classifier)


def test_files(classifier, tmp_path):
    save_file(classifier.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": {f"model.{k}": v for k, v in classifier.state_dict().items()}}, tmp_path / "last.ckpt")
    for name in ("weights.safetensors", "last.ckpt"):
        backbone = create_backbone("test_resnet", out_indices=(0, 2))  # pruned: the rest of the file is skipped
        load_backbone_weights(backbone, tmp_path / name)
        same_maps(backbone, classifier)


def test_dynamic_backbones_load_dynamic_classifiers():
    for layer in ("condconv", "dcd"):
        source = create_model("test_resnet", layer=layer, policy="blocks")
        backbone = create_backbone("test_resnet", layer=layer, policy="blocks")
        load_backbone_weights(backbone, source.state_dict())
        same_maps(backbone, source.eval())


@pytest.mark.parametrize("layer", ["static", "dyconv"])
@pytest.mark.parametrize("create", [create_model, create_backbone])
def test_pretrained_from_a_file(classifier, tmp_path, create, layer):
    path = tmp_path / "weights.pth"
    torch.save(classifier.state_dict(), path)
    arguments = {"num_classes": 5} if create is create_model else {}
    network = create("test_resnet", layer=layer, pretrained=path, **arguments)
    if create is create_backbone:
        same_maps(network, classifier)
    else:
        x = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(network.eval()(x), classifier(x), rtol=1e-4, atol=1e-5)


def test_pretrained_adapts_input_and_classifier_as_timm_does(classifier, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(classifier.state_dict(), path)
    network = create_model("test_resnet", num_classes=9, in_chans=1, pretrained=path).eval()
    assert network.fc.weight.shape[0] == 9
    # one grey channel with the sum of the three kernels: what the network sees in a grey image
    grey = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(
        network.forward_features(grey), classifier.forward_features(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
    )


def test_shufflenet_pretrained_file(tmp_path):
    source = create_model("shufflenetv2_050", num_classes=4).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    same_maps(create_backbone("shufflenetv2_050", pretrained=tmp_path / "weights.pth"), source)


@pytest.mark.parametrize(
    ("target", "source", "message"),
    [
        ({"name": "resnet18"}, {"name": "resnet34"}, "are unknown.*check the backbone"),
        ({"name": "resnet34"}, {"name": "resnet18"}, "tensors are missing.*check the backbone"),
        ({"name": "mobilenetv2_050"}, {"name": "mobilenetv2_035"}, "another shape.*instead of"),
        ({"name": "resnet18"}, {"name": "mobilenetv2_035"}, "tensors are missing"),
        ({"name": "test_resnet", "in_chans": 1}, {"name": "test_resnet"}, "1 have another shape.*conv1"),
        ({"name": "test_resnet", "layer": "dyconv"}, {"name": "test_resnet"}, "only its dynamic layers.*pretrained="),
    ],
)
def test_another_architecture_is_one_sentence(target, source, message):
    backbone = create_backbone(**target)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone_weights(backbone, create_model(**source).state_dict())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    torch.testing.assert_close(dict(backbone.state_dict()), before)


def test_files_that_cannot_be_used(tmp_path):
    backbone = create_backbone("test_resnet")
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "broken.safetensors").write_bytes(b"neither")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name, message in [
        ("absent.pth", "does not exist"),
        ("broken.pth", "cannot be read"),
        ("broken.safetensors", "cannot be read"),
        ("empty.pth", "holds no tensors"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            load_backbone_weights(backbone, tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="does not fit this ResNet"):
        torch.save(create_model("test_convnext").state_dict(), tmp_path / "other.pth")
        create_model("test_resnet", pretrained=tmp_path / "other.pth")
