"""If these fail, an export on a full disk ends the process, or destroys what lay there before."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from dyvision.export import export_onnx, export_openvino, export_program

resource = pytest.importorskip("resource")

FORMATS = {
    "onnx": (export_onnx, ".onnx", "onnxscript"),
    "torch": (export_program, ".pt2", "torch"),
    "openvino": (export_openvino, ".xml", "openvino"),
}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more into a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 256, 3), torch.nn.ReLU(), torch.nn.Conv2d(256, 256, 3)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_the_earlier_file_stays(name, tmp_path) -> None:
    export, suffix, package = FORMATS[name]
    pytest.importorskip(package)
    path = tmp_path / f"a{suffix}"
    export(network(), path, image_size=16, check=False)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with files_of_at_most(2**18), pytest.raises(OSError, match="could not be written") as found:
        export(network(), path, image_size=16, check=False)
    assert "\n" not in str(found.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_parameters_beside_a_file_replace_nothing_of_others(tmp_path, monkeypatch) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "a.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.xml: its parameters go into a\.bin, which is there already"):
        export_openvino(network(), tmp_path / "a.xml", image_size=16)
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.raises(FileExistsError, match=r"a\.bin"):
        export_openvino(network(), tmp_path / "a.xml", image_size=16)
    assert (tmp_path / "a.bin").read_text() == "mine"
    export_openvino(network(), tmp_path / "b.xml", image_size=16, check=False)
    export_openvino(network(), tmp_path / "b.xml", image_size=16, check=False)  # its own are replaced

    monkeypatch.setattr(importlib.import_module("dyvision.export.onnx"), "_LARGE", 0)
    (tmp_path / "c.onnx.data").write_text("mine")
    with pytest.raises(FileExistsError, match=r"c\.onnx: its parameters go into c\.onnx\.data"):
        export_onnx(network(), tmp_path / "c.onnx", image_size=16, check=False)
    assert (tmp_path / "c.onnx.data").read_text() == "mine" and not (tmp_path / "c.onnx").exists()
