"""dyvision's networks as encoders of segmentation_models_pytorch."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from dyvision.layers import DynamicConv2d

smp = pytest.importorskip("segmentation_models_pytorch")

import dyvision.adapters.smp  # noqa: E402

NAME = "dyvision-test_resnet-dyconv"
DECODERS = ["Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet"]


@pytest.mark.parametrize("decoder", [*DECODERS, "Segformer"])
def test_every_decoder_trains(decoder) -> None:
    model = getattr(smp, decoder)(NAME, encoder_weights=None, in_channels=2, classes=3).train()
    assert any(isinstance(module, DynamicConv2d) for module in model.encoder.modules())
    size = 128 if decoder == "PAN" else 64  # it pools a map of reduction 16 three times
    x = torch.randn(2, 2, size, size)
    nn.functional.cross_entropy(model(x), torch.randint(3, (2, size, size))).backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    again = getattr(smp, decoder)(NAME, encoder_weights=None, in_channels=2, classes=3)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x), model.eval()(x))


@pytest.mark.parametrize("network", ["mobilenetv2_035-dcd", "test_convnext-odconv", "dy_mobilenetv2"])
@pytest.mark.parametrize("depth", [3, 4, 5])
def test_depths(network, depth) -> None:
    channels = (32, 16, 8, 8, 4)[:depth]
    model = smp.Unet(f"dyvision-{network}", encoder_depth=depth, encoder_weights=None, decoder_channels=channels)
    x = torch.randn(1, 3, 64, 64)
    maps = model.eval().encoder(x)
    assert [m.shape[1] for m in maps] == list(model.encoder.out_channels) and len(maps) == depth + 1
    assert maps[-1].shape[-1] == 64 // 2**depth
    assert model(x).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("stride", [8, 16])
def test_output_strides(stride) -> None:
    model = smp.DeepLabV3(NAME, encoder_weights=None, encoder_output_stride=stride).eval()
    x = torch.randn(1, 3, 64, 64)
    assert model.encoder(x)[-1].shape[-1] == 64 // stride
    assert model(x).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("channels", [3, 1])
def test_encoder_weights_are_those_of_the_static_network(channels, tmp_path, monkeypatch) -> None:
    static = timm.create_model("test_resnet", num_classes=1000).eval()
    save_file(static.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def download(repo_id, filename, revision):
        asked.append(repo_id)
        return str(tmp_path / filename)

    monkeypatch.setattr(smp.encoders, "hf_hub_download", download)
    encoder = smp.encoders.get_encoder(NAME, in_channels=channels, weights="imagenet").eval()
    assert set(asked) == {timm.get_pretrained_cfg("test_resnet").hf_hub_id}
    expected = timm.create_model(
        "test_resnet",
        pretrained=True,
        in_chans=channels,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors")},
    ).eval()
    x = torch.randn(2, channels, 64, 64)
    torch.testing.assert_close(encoder(x)[-1], expected.forward_features(x), rtol=1e-4, atol=1e-4)


def test_through_timm_with_layer_arguments() -> None:
    model = smp.Unet("tu-dyvision_test_resnet_dyconv", encoder_weights=None, num_kernels=2).eval()
    kernels = {m.num_kernels for m in model.encoder.modules() if isinstance(m, DynamicConv2d)}
    assert kernels == {2} and model(torch.randn(1, 3, 64, 64)).shape == (1, 1, 64, 64)
    params = smp.encoders.get_preprocessing_params("tu-dyvision_tf_efficientnet_lite0_dcd")
    assert params["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dyvision-resnt18-dcd", "unknown network 'resnt18'.*did you mean"),
        ("dyvision-resnet18-dyconf", "unknown layer 'dyconf'.*did you mean"),
    ],
)
def test_a_wrong_name_gives_the_closest(name, message) -> None:
    with pytest.raises(ValueError, match=message):
        smp.Unet(name, encoder_weights=None)


def test_no_weights_of_that_name() -> None:
    with pytest.raises(KeyError, match="Wrong pretrained weights"):
        smp.Unet("dyvision-resnet10-dcd", encoder_weights="imagenet")


def test_other_encoders_are_as_they_were() -> None:
    assert "resnet18" in smp.encoders.get_encoder_names()
    assert smp.Unet("resnet18", encoder_weights=None).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 1, 64, 64)
    with pytest.raises(KeyError, match="Wrong encoder name"):
        smp.Unet("resnt18", encoder_weights=None)
    assert dyvision.adapters.smp.DyVisionEncoder.__mro__[1] is smp.encoders.TimmUniversalEncoder
