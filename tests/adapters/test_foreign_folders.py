"""If these fail, a folder of a stranger on the hub does more than hold a network, or its faults are not named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest
from safetensors.torch import load_file, save_file

import dyvision
from dyvision.adapters.huggingface import from_pretrained, save_pretrained
from dyvision.tasks import SegmentationTask

TINY = {"backbone": "test_resnet", "num_classes": 3}


@pytest.fixture
def folder(tmp_path):
    return save_pretrained(dyvision.create_model("test_resnet", "dcd", num_classes=3), tmp_path / "saved")


def edit(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    arguments = {**config["arguments"], **changes.pop("arguments")} if "arguments" in changes else None
    config |= changes if arguments is None else {**changes, "arguments": arguments}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pipeline"}, r"config\.json: 'kind' is 'pipeline'"),
        ({"kind": ["model"]}, r"config\.json: 'kind' is"),
        ({"kind": "task", "task": 3}, r"config\.json: 'task' is 3"),
        ({"kind": "task", "task": "segmentatoin"}, r"config\.json: 'task' is 'segmentatoin' .did you mean"),
        ({"arguments": {"name": "test_resnt"}}, r"config\.json.*test_resnt.*did you mean"),
        ({"arguments": {"name": 3}}, r"config\.json: no network can be built"),
        ({"arguments": {"layer": "dcf"}}, r"config\.json.*unknown layer 'dcf'"),
        ({"arguments": {"num_classes": "many"}}, r"config\.json.*num_classes"),
        ({"arguments": {"num_classes": 4}}, r"model\.safetensors.*has \d+ of another shape .fc\.weight"),
        ({"arguments": {"layer": "static"}}, r"model\.safetensors.*has \d+ of other names"),
        ({"arguments": {"layer_kwargs": {"zap": 1}}}, r"config\.json.*zap"),
        ({"arguments": {"num_classes": 10**9}}, r"config\.json.*far larger"),
        ({"arguments": {"name": "hf-hub:user/net"}}, r"config\.json.*names 'hf-hub:user/net'.*could be any program"),
        ({"arguments": {"name": "local-dir:/etc"}}, r"config\.json.*names 'local-dir:/etc'"),
        ({"arguments": {"model_kwargs": {"act_layer": {"class_path": "os.system"}}}}, "os.system"),
    ],
)
def test_a_wrong_config_names_file_and_field(change, message, folder) -> None:
    edit(folder, **change)
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(folder)
    assert "\n" not in str(raised.value)


def test_a_keyword_that_the_weights_do_not_fit_is_named(folder) -> None:
    with pytest.raises(ValueError, match=r"with num_classes as given here; without, they fit .*reset_classifier"):
        from_pretrained(folder, num_classes=5)


def test_weights_from_elsewhere_are_not_fetched(folder) -> None:
    places = {"pretrained": True, "model_kwargs": {"pretrained_cfg": {"file": "/etc/passwd"}, "checkpoint_path": "/x"}}
    edit(folder, arguments=places)
    with pytest.warns(UserWarning, match="not used"):
        from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_config(content, folder) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: ") as raised:
        from_pretrained(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("part", ["", "head", "end"])
def test_damaged_weights(part, folder) -> None:
    content = (folder / "model.safetensors").read_bytes()
    damaged = {"": b"", "head": b"\xff" * 16 + content[16:], "end": content[:-100]}[part]
    (folder / "model.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"model\.safetensors") as raised:
        from_pretrained(folder)
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_finite(folder) -> None:
    state = load_file(folder / "model.safetensors")
    state["fc.bias"][0] = float("nan")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: fc\.bias.* NaN"):
        from_pretrained(folder)


def test_other_places(folder, tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="a file; give the folder"):
        from_pretrained(folder / "config.json")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="no such folder, and no repository") as raised:
        from_pretrained(tmp_path / "missing")
    assert "\n" not in str(raised.value)
    os.rename(folder / "model.safetensors", tmp_path / "outside.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file"):
        from_pretrained(folder)
    (folder / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(ValueError, match="a link to a file outside the folder"):
        from_pretrained(folder)


def test_the_hubs_cache_is_a_folder_of_links(folder, tmp_path) -> None:
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "abc", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate(("config.json", "model.safetensors")):
        os.rename(folder / name, blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert from_pretrained(snapshot).num_classes == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}}, "subprocess.Popen"),
        ({"head": {"class_path": "os.system"}}, "os.system"),
        ({"backbone": "local-dir:/etc"}, "local-dir:/etc"),
        ({"num_classes": 1_000_000}, "num_classes|ignore_index"),
    ],
)
def test_a_task_of_a_stranger_runs_no_code(arguments, message, tmp_path) -> None:
    save_pretrained(SegmentationTask(layer="dcd", **TINY), tmp_path)
    edit(tmp_path, arguments=arguments)
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(tmp_path)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_task_of_a_stranger_reads_and_writes_nothing_else(tmp_path) -> None:
    save_pretrained(SegmentationTask(layer="dcd", **TINY), tmp_path)
    edit(tmp_path, arguments={"backbone_weights": "/etc/passwd", "results_dir": "/etc"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = from_pretrained(tmp_path)
    assert any("backbone_weights, results_dir of the checkpoint not used" in str(each.message) for each in caught)
    assert task.hparams.backbone_weights is None


def test_the_stranger_of_another_process(folder) -> None:
    """What was saved needs nothing of the process that saved it."""
    code = f"from dyvision.adapters.huggingface import from_pretrained; from_pretrained({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
