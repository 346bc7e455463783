"""If these fail, what training scripts wrote around official weights hides them, or a wrong file is no clear line."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dyvision.checkpoints import build_network, create_official, load_official

_spec = importlib.util.spec_from_file_location("official_of_containers", Path(__file__).with_name("official.py"))
_official = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_official)


def weights(method: str = "odconv", **options) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    official = _official.ResNet(method, (8, 8, 16, 16), (1, 1, 1, 1), stem=8, **options)
    official(torch.randn(3, 3, 32, 32, dtype=torch.float64))
    return {name: t.float() if t.is_floating_point() else t for name, t in official.state.items()}


def optimizer(state: dict[str, torch.Tensor]) -> dict:
    moments = {number: {"exp_avg": torch.ones_like(t)} for number, t in enumerate(state.values())}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]}


def older(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t * 0 for name, t in state.items()}


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


CONTAINERS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s, "best_acc1": torch.tensor(70.0)},
    "data parallel": lambda s: {"state_dict": prefixed(s, "module."), "arch": "od_resnet18"},
    "data parallel, compiled": lambda s: prefixed(s, "module._orig_mod."),
    "with an optimizer": lambda s: {"model": s, "optimizer": optimizer(s), "args": argparse.Namespace(lr=0.1)},
    "averaged, timm": lambda s: {"state_dict": older(s), "state_dict_ema": s, "optimizer": optimizer(s)},
    "averaged, ConvNeXt": lambda s: {"model": older(s), "model_ema": prefixed(s, "module."), "scaler": {}},
    "averaged, none yet": lambda s: {"model": s, "model_ema": None},
    "averaged, torch": lambda s: {"n_averaged": torch.tensor(9), **prefixed(s, "module.")},
    "Lightning": lambda s: {"state_dict": prefixed(s, "model."), "global_step": 4, "optimizer_states": [optimizer(s)]},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_weights_are_found_in_what_scripts_save(kind, tmp_path) -> None:
    state = weights(kernel_num=2)
    expected = create_official(state, "odconv").state_dict()
    torch.save(CONTAINERS[kind](state), tmp_path / "w.pth.tar")
    for source in (None, "odconv"):
        found = create_official(tmp_path / "w.pth.tar", source).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["odconv", "dcd", "dgc", "dyconv"])
def test_weights_of_another_precision_are_converted(method, dtype, tmp_path) -> None:
    state = weights(method, kernel_num=2)
    other = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    back = {name: t.float() if t.is_floating_point() else t for name, t in other.items()}
    save_file({name: t.contiguous() for name, t in other.items()}, tmp_path / "w.safetensors")
    expected, found = create_official(back, method), create_official(tmp_path / "w.safetensors", method)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(x), expected(x), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["dcd", "dgc", "dyconv"])
def test_weights_of_another_method_are_named(method) -> None:
    state, other = weights(kernel_num=2), weights(method)
    arguments = {"kernel_num": 2, "num_classes": 10}
    model = build_network("odconv", "od_resnet18", arguments, {}, state)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=f"names are those of {method}: load_official\\(..., source='{method}'\\)"
    ) as e:
        load_official(model, other, "odconv")
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="do not fit the model") as e:
        load_official(model, other, method)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"source must be one of .*, got 'OSVAI'"):
        load_official(model, state, "OSVAI")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([1, 2], "no tensors by name"),
        (torch.zeros(3), "no tensors by name"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "no tensors by name"),
        ({"state_dict": {}}, "no tensors by name"),
        ({"layer1.0.conv1.attention.channel_fc.bias": torch.tensor([float("nan")])}, "not finite|NaN|nan"),
        (b"\x89PNG and no weights", "cannot be read"),
        (b"", "cannot be read"),
        (b"<html>404</html>", "cannot be read"),
    ],
    ids=str,
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_files_that_are_no_state_dict_are_one_line(content, text, ending, tmp_path) -> None:
    path = tmp_path / f"w.{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
        text = text if ending == "pth" else "cannot be read"
    with pytest.raises(ValueError, match=text) as error:
        create_official(path, "odconv")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_would_run_code_is_refused(tmp_path) -> None:
    class Door:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trace",))

    torch.save({"state_dict": weights(kernel_num=2), "extra": Door()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="cannot be read") as error:
        create_official(tmp_path / "w.pth", "odconv")
    assert not (tmp_path / "trace").exists() and "\n" not in str(error.value)
