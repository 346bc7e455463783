"""If these failed, a damaged or foreign file would be taken for a checkpoint, or end in a traceback."""

from __future__ import annotations

import pickle
import zipfile
from typing import Any

import pytest
import torch

from dyvision.backbones import create_backbone, create_model, read_state_dict
from dyvision.building import LimitedMemory
from dyvision.checkpoint_file import load_plain, read_checkpoint
from dyvision.cli import main
from dyvision.tasks import ClassificationTask, SegmentationTask


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """What a checkpoint holds, of a small network."""
    model = ClassificationTask(backbone="test_resnet", num_classes=2)
    return {
        "task": "classification",
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": dict(model.hparams),
        "state_dict": model.state_dict(),
    }


def rewrite(source: Any, target: Any, change: Any, compress: int = zipfile.ZIP_STORED) -> None:
    """Copy a zip file, its records through ``change(name, bytes)``, with check sums that are right."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))


def overwritten(path):
    """Other bytes in the middle of the largest record, as a bad memory or disk leaves them."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    data = bytearray(path.read_bytes())
    middle = largest.header_offset + 200 + largest.file_size // 2
    data[middle : middle + 4] = bytes(byte ^ 0xFF for byte in data[middle : middle + 4])
    path.write_bytes(data)


def test_overwritten_bytes_are_noticed_everywhere(content, tmp_path, capsys):
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    ClassificationTask.load_from_checkpoint(path)
    overwritten(path)
    torch.load(path, weights_only=True)  # which is why it has to be checked
    for read in (ClassificationTask.load_from_checkpoint, read_checkpoint, read_state_dict):
        with pytest.raises(ValueError, match="not those that were saved"):
            read(path)
    assert main(["validate", f"--ckpt_path={path}", "--data.root=x"]) == 2
    assert "not those that were saved" in capsys.readouterr().err


def test_a_trainer_of_ones_own_notices_it_too(content, tmp_path):
    import lightning as L

    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    overwritten(path)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model = ClassificationTask(backbone="test_resnet", num_classes=2)
    loader = torch.utils.data.DataLoader([])
    with pytest.raises(ValueError, match="not those that were saved"):
        trainer.validate(model, loader, ckpt_path=path, verbose=False)


def test_files_without_check_sums_load(content, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, tmp_path / "a.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["network.stem.conv1.weight", "network.bn1.running_var"])
def test_weights_that_are_not_numbers_are_refused_by_name(value, name, content, tmp_path, capsys):
    state = {key: tensor.clone() for key, tensor in content["state_dict"].items()}
    name = name if name in state else next(key for key in state if key.endswith(name.rpartition(".")[2]))
    state[name].view(-1)[0] = value
    path = tmp_path / "a.ckpt"
    torch.save({**content, "state_dict": state}, path)
    with pytest.raises(ValueError, match=rf"{name}.*NaN or infinite"):
        ClassificationTask.load_from_checkpoint(path)
    assert main(["validate", f"--ckpt_path={path}", "--data.root=x"]) == 2
    assert name in capsys.readouterr().err


def whole(content):
    return content


FILES = {
    "a list": (lambda content: [1, 2], "holds a list"),
    "a tensor": (lambda content: torch.ones(3), "holds one tensor"),
    "weights alone": (lambda content: content["state_dict"], r"plain weights\?\); give it as --model.backbone_weights"),
    "another script's": (lambda content: {"state_dict": content["state_dict"]}, "--model.backbone_weights"),
    "nothing known": (lambda content: {"net": {"a": torch.ones(1)}}, "--model.backbone_weights"),
    "a wrong state": (lambda content: {**content, "state_dict": {"a": 1}}, r"state_dict\['a'\] is a int"),
    "a wrong task": (lambda content: {**content, "task": {}}, "'task' is a dict"),
    "wrong hyperparameters": (lambda content: {**content, "hyper_parameters": [1]}, "'hyper_parameters' is a list"),
    "a set": (lambda content: {**content, "hyper_parameters": {"layer": {1}}}, "layer: set, expected numbers"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_checkpoint_is_told(kind, content, tmp_path, capsys):
    make, message = FILES[kind]
    path = tmp_path / "a.ckpt"
    torch.save(make(content), path)
    with pytest.raises(ValueError, match=message):
        ClassificationTask.load_from_checkpoint(path)
    assert main(["validate", f"--ckpt_path={path}", "--task=classification", "--data.root=x"]) == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if "dyvision: error" in line]) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"model: x\n", "text file"),
        (b"PK\x03\x04" + bytes(100), "cut off"),
        (b"\x80\x02" + bytes(50), "not a file of torch.save"),
        (bytes(range(256)) * 9, "not a file of torch.save"),
    ],
)
def test_other_files(data, message, tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_folders_and_cut_off_files(content, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"a folder.*did you mean .*last.ckpt"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_checkpoint(tmp_path / "b.ckpt")
    data = path.read_bytes()
    for part in (0.1, 0.5, 0.99):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ValueError, match="cut off"):
            read_checkpoint(path)


class Program:
    """Pickled, it would make a file when it is loaded."""

    def __init__(self, marker: Any) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return (open, (self.marker, "w"))


def test_objects_are_refused_and_not_made(content, tmp_path):
    path, marker = tmp_path / "a.ckpt", tmp_path / "marker"
    torch.save({**content, "extra": Program(marker)}, path)
    for read in (ClassificationTask.load_from_checkpoint, read_state_dict):
        with pytest.raises(ValueError, match="could run code"):
            read(path)
    path.write_bytes(pickle.dumps(Program(marker)))
    with pytest.raises(ValueError, match=r"a\.ckpt"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("how", ["file", "overlay", "checkpoint_path", "local-dir"])
def test_timm_reads_no_objects(how, tmp_path):
    weights, marker = tmp_path / "pytorch_model.bin", tmp_path / "marker"
    torch.save({"fc.weight": Program(marker)}, weights)
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet", "num_classes": 2}')
    name, arguments = "test_resnet", {"pretrained": True}
    if how == "local-dir":
        name = f"local-dir:{tmp_path}"
    elif how == "checkpoint_path":
        arguments = {"checkpoint_path": str(weights)}
    else:
        arguments["pretrained_cfg" if how == "file" else "pretrained_cfg_overlay"] = {"file": str(weights)}
    for create in (create_model, create_backbone):
        with pytest.raises(ValueError, match="could run code"):
            create(name, model_kwargs=arguments)
    assert not marker.exists()


def test_bombs(content, tmp_path):
    source, bomb = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    torch.save(content, source)
    rewrite(source, bomb, lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        load_plain(bomb)
    wide = torch.ones(1).expand(10**12)
    torch.save({**content, "state_dict": {"a": wide}}, bomb)
    with pytest.raises(ValueError, match=r"declares 1,000,000,000,000 values"):
        load_plain(bomb)
    torch.save(torch.arange(10.0), source)
    # "storage of 10 numbers" becomes one of 10^8
    rewrite(source, bomb, lambda name, data: data.replace(b"K\n", b"J\x00\xe1\xf5\x05"))
    with pytest.raises(ValueError, match=r"b\.ckpt"):
        load_plain(bomb)
    big = b"\x80\x02c__builtin__\nbytearray\nJ\x00\xe1\xf5\x05\x85R."
    rewrite(source, bomb, lambda name, data: big if name.endswith("data.pkl") else data)
    with pytest.raises(ValueError, match="bytearray"):
        load_plain(bomb)
    torch.save({**content, "callbacks": Bytes()}, bomb, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="bytearray"):
        load_plain(bomb)


class Bytes:
    """Pickled as a call of ``bytearray``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10**8,)


@pytest.mark.parametrize("key", ["loops", "optimizer_states", "initialized_from", "data_class_names", "callbacks", "x"])
@pytest.mark.parametrize("old", [False, True])
def test_values_that_never_end_anywhere(key, old, content, tmp_path):
    shared: Any = {"current": 1}
    for _ in range(60):
        shared = {"a": shared, "b": [shared]}
    path = tmp_path / "a.ckpt"
    torch.save({**content, key: [shared]}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"a\.ckpt: (stands for more than|nested)"):
        load_plain(path)
    itself: list[Any] = []
    itself.append(itself)
    torch.save({**content, key: itself}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"a\.ckpt: nested"):
        load_plain(path)


def test_values_that_never_end(content, tmp_path):
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested, nested]
    deep: Any = 0
    for _ in range(300):
        deep = [deep]
    for value, message in ((nested, "stands for more than"), (deep, "levels deep")):
        torch.save({**content, "hyper_parameters": {"layer_kwargs": value}}, tmp_path / "a.ckpt")
        with pytest.raises(ValueError, match=message):
            ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")


def test_a_network_larger_than_its_weights_is_not_built(content, tmp_path):
    hparams = dict(SegmentationTask(backbone="test_resnet", num_classes=2).hparams)
    hparams["head"] = {"name": "deeplabv3", "channels": 65_000}
    torch.save({**content, "task": "segmentation", "hyper_parameters": hparams}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="far larger than its"):
        SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    with LimitedMemory(10, "a"):
        torch.nn.Conv2d(8, 8, 3)
        with pytest.raises(ValueError, match="far larger"):
            torch.zeros(size=(10**6, 10**6))


def test_resuming_needs_the_state_of_the_optimiser(tmp_path, sample_data, capsys):
    model = ClassificationTask(backbone="test_resnet", num_classes=5)
    content = {
        "task": "classification",
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": dict(model.hparams),
        "state_dict": model.state_dict(),
    }
    torch.save(content, tmp_path / "a.ckpt")
    arguments = [f"--data.root={sample_data / 'imagenet'}", f"--trainer.default_root_dir={tmp_path}"]
    assert main(["fit", f"--ckpt_path={tmp_path / 'a.ckpt'}", *arguments, "--trainer.accelerator=cpu"]) == 2
    assert "not the state of the optimiser" in capsys.readouterr().err
