"""If these fail, the parity command calls something equal that is not, or stumbles over a file instead of naming it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import CondConv2d as TimmCondConv2d

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("parity_benchmark", ROOT / "benchmarks" / "parity.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def run(parity, monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["parity.py", *map(str, arguments)])
        status = parity.main()
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


def write(path: Path, method: str, name: str, constructor: dict, tensors: dict, inputs: list[str]) -> None:
    meta = {"method": method, "class": name, "constructor": json.dumps(constructor), "inputs": json.dumps(inputs)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().float().contiguous().clone() for key, value in tensors.items()}, path, meta)


def timm_layer(**constructor) -> dict[str, torch.Tensor]:
    """timm's layer, its own inputs, outputs and gradients: the official code is at hand."""
    torch.manual_seed(0)
    layer = TimmCondConv2d(**constructor).double()
    x = torch.randn(3, constructor["in_channels"], 9, 8, dtype=torch.float64, requires_grad=True)
    routing = torch.rand(3, constructor["num_experts"], dtype=torch.float64, requires_grad=True)
    output = layer(x, routing)
    seed = torch.randn_like(output)
    (output * seed).sum().backward()
    return {
        "input": x,
        "routing_weights": routing,
        "output_eval": output,
        "output_train": output,
        "grad_seed": seed,
        "grad_input": x.grad,
        "grad_routing_weights": routing.grad,
        **{f"param.{name}": parameter for name, parameter in layer.named_parameters()},
        **{f"grad.{name}": parameter.grad for name, parameter in layer.named_parameters()},
    }


LAYER = {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "num_experts": 3, "stride": 2, "bias": True}


@pytest.mark.parametrize(
    "change", [{}, {"padding": "same"}, {"groups": 2, "dilation": 2}, {"padding": 0, "bias": False}]
)
def test_timms_layer_agrees(run, tmp_path, change) -> None:
    constructor = {**LAYER, **change}
    tensors = timm_layer(**constructor)
    write(
        tmp_path / "deep" / "timm.safetensors",
        "condconv",
        "CondConv2d",
        constructor,
        tensors,
        ["input", "routing_weights"],
    )
    status, text = run("--fixtures", tmp_path)
    assert status == 0, text
    assert "1 of 1 agree" in text


@pytest.mark.parametrize("name", ["output_eval", "output_train", "grad_input", "grad_routing_weights", "grad.weight"])
def test_any_single_wrong_tensor_fails(run, tmp_path, name) -> None:
    tensors = timm_layer(**LAYER)
    wrong = tensors[name].detach().clone()
    wrong.view(-1)[-1] += 0.01 * wrong.abs().max()
    write(
        tmp_path / "a.safetensors",
        "condconv",
        "CondConv2d",
        LAYER,
        {**tensors, name: wrong},
        ["input", "routing_weights"],
    )
    status, text = run("--fixtures", tmp_path)
    assert status == 1
    assert text.startswith("FAIL  a ") and "0 of 1 agree" in text
    assert run("--fixtures", tmp_path, "--output_tolerance", 0.1, "--gradient_tolerance", 0.1)[0] == 0


def test_a_whole_network_agrees(run, tmp_path, condconv_network) -> None:
    torch.manual_seed(0)
    # as the fixtures: float64 from what is float32
    network = condconv_network(10, 3).double().eval()
    x = torch.randn(8, 3, 64, 64).double()
    tensors = {f"param.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    constructor = {"num_classes": 10, "width_mult": 0.35, "num_experts": 3}
    tensors.update({"input": x, "output_eval": network(x)})
    output = network.train()(x)
    tensors.update({"output_train": output, "grad_seed": torch.randn_like(output)})
    (output * tensors["grad_seed"]).sum().backward()
    tensors.update({f"grad.{name}": parameter.grad for name, parameter in network.named_parameters()})
    write(tmp_path / "net.safetensors", "condconv", "CondMobileNetV2", constructor, tensors, ["input"])
    # gradients through seventeen norms over few values are what float32 gives
    options = ("--fixtures", tmp_path, "--output_tolerance", 1e-4, "--gradient_tolerance", 0.05)
    status, text = run(*options)
    assert status == 0, text
    tensors["param.features.17.dw.weight"] = tensors["param.features.17.dw.weight"].flip(3)
    write(tmp_path / "net.safetensors", "condconv", "CondMobileNetV2", constructor, tensors, ["input"])
    assert run(*options)[0] == 1


def test_files_that_cannot_be_compared_are_failures_with_a_reason(run, tmp_path) -> None:
    tensors = timm_layer(**LAYER)
    inputs = ["input", "routing_weights"]
    write(tmp_path / "method.safetensors", "condcomv", "CondConv2d", LAYER, tensors, inputs)
    write(tmp_path / "class.safetensors", "condconv", "CondConv3d", LAYER, tensors, inputs)
    write(tmp_path / "network.safetensors", "dyconv", "MobileNetV9", {}, tensors, inputs)
    write(tmp_path / "outputs.safetensors", "condconv", "CondConv2d", LAYER, {"input": tensors["input"]}, ["input"])
    missing = {name: tensor for name, tensor in tensors.items() if name != "param.bias"}
    write(tmp_path / "missing.safetensors", "condconv", "CondConv2d", LAYER, missing, inputs)
    (tmp_path / "broken.safetensors").write_bytes(b"not a file")
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    status, text = run("--fixtures", tmp_path)
    lines = {line.split()[1]: line for line in text.splitlines()}
    assert status == 1 and "0 of 7 agree" in text
    assert "unknown method 'condcomv' (did you mean 'condconv'" in lines["method"]
    assert "'CondConv3d'" in lines["class"]
    assert "no network for class 'MobileNetV9' of method 'dyconv'" in lines["network"]
    assert "FAIL" in lines["outputs"]
    assert "missing bias" in lines["missing"]
    assert "cannot be read" in lines["broken"]
    assert "metadata have no 'method'" in lines["bare"]


def test_a_directory_without_files_is_an_error(run, tmp_path) -> None:
    assert run("--fixtures", tmp_path) == (2, f"--fixtures: no *.safetensors file in {tmp_path} or below\n")
    status, text = run("--fixtures", tmp_path / "none")
    assert status == 2 and "is not a directory" in text
