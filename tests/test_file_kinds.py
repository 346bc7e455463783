"""If these fail, a file of another kind ends in advice that does not fit it."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import dyvision
from dyvision.checkpoint_file import read_checkpoint
from dyvision.cli import main


def network() -> torch.nn.Module:
    return torch.nn.Conv2d(3, 4, 3).eval()


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        entry = tarfile.TarInfo("weights.pth")
        entry.size = 4
        made.addfile(entry, io.BytesIO(b"abcd"))
    return file.getvalue()


#: name of the file -> its bytes, and what the message has to say
STRANGE = {
    "a.jpg": (picture("JPEG"), "a picture"),
    "a.ckpt": (picture("PNG"), "a picture"),
    "b.ckpt": (picture("WEBP"), "a picture"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5"),
    "a.npy": (b"\x93NUMPY\x01\x00" + bytes(90), "NumPy"),
    "a.pth.gz": (b"\x1f\x8b\x08\x00" + bytes(90), "unpack it first"),
    "a.tar": (archive(), r"archive \(tar\); unpack it first"),
    "a.tflite": (bytes(4) + b"TFL3" + bytes(90), "TensorFlow Lite"),
    "a.xml": (b'<?xml version="1.0"?>\n<net name="a" version="11">\n</net>', r"OpenVINO; openvino\.Core\(\).*\.onnx"),
    "b.onnx.data": (bytes(90), r"parameters of b\.onnx, which is the file to give"),
    "onnx.ckpt": (b"\x08\x0a\x12\x07pytorch\x1a\x05" + bytes(90), r"an ONNX file; give it a name that ends in \.onnx"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_files_of_other_kinds_are_called_what_they_are(name, tmp_path) -> None:
    content, message = STRANGE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as found:
        dyvision.load(tmp_path / name)
    assert name in str(found.value) and "\n" not in str(found.value)


def test_parameters_of_openvino_lead_to_their_network(tmp_path) -> None:
    (tmp_path / "a.xml").write_text("<net/>")
    (tmp_path / "a.bin").write_bytes(bytes(range(200)))
    with pytest.raises(ValueError, match=r"a\.bin: the parameters of the OpenVINO network a\.xml"):
        dyvision.load(tmp_path / "a.bin")


def test_weights_lead_to_what_takes_them(tmp_path) -> None:
    state = network().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    save_file(state, tmp_path / "called.ckpt")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.pt")
    for name in ("a.safetensors", "called.ckpt", "a.pth", "a.pt"):
        with pytest.raises(ValueError, match=r"--model\.backbone_weights .* dyvision\.create_model") as found:
            dyvision.load(tmp_path / name)
        assert name in str(found.value)


def test_what_the_advice_names_takes_the_file(tmp_path) -> None:
    state = dyvision.create_model("test_resnet", num_classes=3).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        made = dyvision.create_model("test_resnet", num_classes=3, pretrained=str(tmp_path / name))
        assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())


def test_folders_of_the_adapter_lead_to_it(tmp_path) -> None:
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"library": "dyvision"}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match=r"dyvision\.adapters\.huggingface\.from_pretrained\(FOLDER\)"):
            dyvision.load(path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(ValueError, match=r"create_model"):
        dyvision.load(tmp_path / "model.safetensors")


def test_programs_lead_to_what_runs_them(tmp_path) -> None:
    images = torch.rand(2, 3, 8, 8)
    torch.export.save(torch.export.export(network(), (images,)), tmp_path / "a.pt2")
    with pytest.raises(
        ValueError, match=r"a\.pt2: a program of torch\.export.*torch\.export\.load\(FILE\)\.module\(\)"
    ):
        dyvision.load(tmp_path / "a.pt2")
    assert torch.export.load(tmp_path / "a.pt2").module()(images).shape == (2, 4, 6, 6)
    torch.jit.trace(network(), images).save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: a TorchScript program.*torch\.jit\.load\(FILE\)\(images\)"):
        dyvision.load(tmp_path / "a.pt")


def test_a_checkpoint_that_is_called_onnx(tmp_path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.onnx: a file of torch\.save, not an ONNX file") as found:
        dyvision.load(tmp_path / "a.onnx")
    assert ".ckpt" in str(found.value)


@pytest.mark.parametrize(
    "name", ["https://a.example/last.ckpt", "s3://bucket/last.ckpt", "https://a.example/last.onnx"]
)
def test_addresses_are_no_files(name) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name}: an address, not a file; download it first"):
        dyvision.load(name)


def test_what_nobody_knows_is_not_explained_by_torch(tmp_path, capsys) -> None:
    (tmp_path / "a.engine").write_bytes(bytes(4000))
    with pytest.raises(ValueError, match=r"not a file of torch\.save, or damaged") as found:
        read_checkpoint(tmp_path / "a.engine")
    assert "weights_only" not in str(found.value)
    assert main(["validate", f"--ckpt_path={tmp_path / 'a.engine'}"]) == 2
    assert "weights_only" not in capsys.readouterr().err
