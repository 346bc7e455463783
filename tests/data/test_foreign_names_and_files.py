"""If these failed, class names of another locale would end a run, and files of other kinds have no hint."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dyvision.data import COCODataModule, DataError
from dyvision.data.coco_stream import read_json
from dyvision.text import readable


def test_bytes_of_another_locale_become_text():
    assert readable("k\udcc3\udca4se \udce7\udc8c\udcab") == "käse 猫"
    assert readable("\udce4") == "\\xe4"  # Latin-1 is no UTF-8
    assert readable("[/b] 猫 😀") == "[/b] 猫 😀"
    readable("\ud800").encode("utf-8")  # half a character of JSON


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_class_names_are_the_same_in_every_locale(tmp_path):
    for split in ("train", "val"):
        for name in ("ä猫", "z=1", "[b] 😀"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    program = (
        "import json, sys; from dyvision.data import ImageFolderDataModule as D; d = D(sys.argv[1], num_workers=0); "
        "d.setup('fit'); print(json.dumps(d.class_names)); print(len(d.build_dataset('val', False)[0]))"
    )
    found = []
    for locale in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1"}):
        environment = {**os.environ, **locale}
        command = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        found.append(json.loads(done.stdout.splitlines()[0]))
    assert found[0] == found[1] == sorted(["ä猫", "z=1", "[b] 😀"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_every_encoding_of_unicode(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps({"a": "ä猫"}, ensure_ascii=False).encode(encoding))
    assert read_json(path, {}) == {"a": "ä猫"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"{}", mtime=0), "compressed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
        (b"<html>404</html>", "HTML"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(path, {})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_the_annotations_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(DataError, match="pipe"):
        read_json(tmp_path / "a.json", {})


def coco(root: Path, annotations: list[dict[str, Any]]) -> COCODataModule:
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    Image.new("RGB", (16, 16)).save(root / "train2017" / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 16, "width": 16}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}],
    }
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return COCODataModule(root, val_split="train2017", num_workers=0)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([{"id": 1, "image_id": 1, "caption": "a cat"}], "captions format"),
        ([{"image_id": 1, "file_name": "1.png", "segments_info": []}], "panoptic format"),
        ([], "instances_train2017.json: none of its 1 images has an object"),
    ],
)
def test_annotations_without_objects_are_named(tmp_path, annotations, message):
    with pytest.raises(DataError, match=message):
        coco(tmp_path, annotations).setup("fit")
