"""If these fail, an export leaves the gigabytes of an earlier one behind, or deletes a file that it did not write."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyvision.export import OnnxModel, export_onnx
from dyvision.export.quantize import quantize_onnx

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture
def large(monkeypatch):
    """A function that exports with the parameters beside the file."""

    def export(path, **arguments):
        with monkeypatch.context() as patch:
            patch.setattr("dyvision.export.onnx._LARGE", 0)
            return export_onnx(nn.Conv2d(3, 40, 3), path, image_size=8, **arguments)

    return export


class Differs(nn.Module):
    def forward(self, x):
        return x * (x.mean((1, 2, 3))[:1] if torch.compiler.is_compiling() else x.mean())


def test_a_small_file_takes_the_parameters_of_an_earlier_one_away(large, tmp_path) -> None:
    path = tmp_path / "a.onnx"
    file = large(path)
    assert file.beside == tmp_path / "a.onnx.data" and file.bytes > file.beside.stat().st_size > 4000
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="was not written"):
        export_onnx(Differs(), path, image_size=8)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    file = export_onnx(nn.Conv2d(3, 4, 3), path, image_size=8)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]
    assert file.beside is None and file.bytes == path.stat().st_size
    assert OnnxModel(path)(torch.randn(2, 3, 8, 8))["output"].shape == (2, 4, 6, 6)


@pytest.mark.parametrize("earlier", [None, b"no network", "small", "of another name"])
def test_what_no_earlier_file_names_stays(earlier, large, tmp_path) -> None:
    path = tmp_path / "a.onnx"
    if earlier == "small":
        export_onnx(nn.Conv2d(3, 4, 1), path, image_size=8)
    elif earlier == "of another name":
        large(tmp_path / "b.onnx")
        (tmp_path / "b.onnx").rename(path)
    elif earlier is not None:
        path.write_bytes(earlier)
    (tmp_path / "a.onnx.data").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.onnx: its parameters go into a\.onnx\.data, which is there already"):
        large(path)
    file = export_onnx(nn.Conv2d(3, 4, 3), path, image_size=8)
    assert (tmp_path / "a.onnx.data").read_text() == "mine"
    assert file.beside is None and file.bytes == path.stat().st_size


def test_a_quantised_file_does_the_same(large, tmp_path) -> None:
    source, path = tmp_path / "float.onnx", tmp_path / "a.onnx"
    export_onnx(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), source, image_size=8)
    large(path)
    quantize_onnx(source, path, [torch.randn(4, 3, 8, 8)])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx", "float.onnx"]


def test_a_network_that_no_message_holds_is_not_quantised(large, tmp_path, monkeypatch) -> None:
    file = large(tmp_path / "a.onnx")
    images = [torch.randn(4, 3, 8, 8)]
    monkeypatch.setattr("dyvision.export.quantize._LARGEST", file.bytes - 1)
    with pytest.raises(
        ValueError, match=r"^a\.onnx has 0\.0 GB, and a network above 2 GB cannot be quantised: collapse"
    ):
        quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", images)
    assert not (tmp_path / "b.onnx").exists()
    monkeypatch.setattr("dyvision.export.quantize._LARGEST", file.bytes)
    quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", images)  # its parameters are in the new file
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data", "b.onnx"]


def test_behind_a_link_lie_the_parameters_of_the_file_itself(large, tmp_path) -> None:
    folder, path = tmp_path / "real", tmp_path / "a.onnx"
    folder.mkdir()
    large(folder / "a.onnx")
    path.symlink_to(folder / "a.onnx")
    (tmp_path / "a.onnx.data").write_text("mine")
    export_onnx(nn.Conv2d(3, 4, 3), path, image_size=8)
    assert path.is_symlink() and (tmp_path / "a.onnx.data").read_text() == "mine"
    assert [entry.name for entry in folder.iterdir()] == ["a.onnx"]


def made_by_others(path, location) -> None:
    """A file whose constant, inside a node, is in another file."""
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    output = onnx.helper.make_tensor_value_info("y", 1, [2])
    path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output])).SerializeToString())


@pytest.mark.parametrize("location", ["a.onnx.data", "./a.onnx.data", None])
@pytest.mark.parametrize("length", [1, 120])
def test_parameters_that_another_file_has_as_well_stay(location, length, large, tmp_path) -> None:
    path = tmp_path / f"{'a' * length}.onnx"
    large(path)
    other = tmp_path / "other.onnx"
    if location is None:
        other.write_bytes(path.read_bytes())  # a copy
    else:
        made_by_others(other, location.replace("a.onnx", path.name))
    data = tmp_path / f"{path.name}.data"
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"which is there already and has those of other\.onnx as well"):
        large(path)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    export_onnx(nn.Conv2d(3, 4, 3), path, image_size=8)
    assert data.read_bytes() == before[data.name] and other.read_bytes() == before[other.name]


def test_a_file_whose_name_ends_alike_shares_nothing(large, tmp_path) -> None:
    large(tmp_path / "a.onnx")
    large(tmp_path / "my-a.onnx")
    large(tmp_path / "a.onnx")
    export_onnx(nn.Conv2d(3, 4, 3), tmp_path / "a.onnx", image_size=8)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx", "my-a.onnx", "my-a.onnx.data"]


def test_a_large_network_behind_a_link_is_written_where_it_leads(large, tmp_path) -> None:
    folder, path = tmp_path / "real", tmp_path / "a.onnx"
    folder.mkdir()
    export_onnx(nn.Conv2d(3, 4, 3), folder / "a.onnx", image_size=8)
    path.symlink_to(folder / "a.onnx")
    file = large(path)
    assert path.is_symlink() and sorted(entry.name for entry in folder.iterdir()) == ["a.onnx", "a.onnx.data"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx", "real"]
    assert file.beside == folder / "a.onnx.data" and file.bytes > file.beside.stat().st_size > 4000
    assert OnnxModel(path)(torch.randn(2, 3, 8, 8))["output"].shape == (2, 40, 6, 6)
    large(path)  # its own are replaced
    export_onnx(nn.Conv2d(3, 4, 3), path, image_size=8)
    assert path.is_symlink() and [entry.name for entry in folder.iterdir()] == ["a.onnx"]
