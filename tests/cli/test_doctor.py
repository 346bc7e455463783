"""If these fail, a report of a fault says the wrong things about its machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from dyvision.analysis import doctor
from dyvision.cli import main
from dyvision.ops import native


def diagnosed(capsys) -> dict:
    assert main(["doctor", "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_there(capsys) -> None:
    found = diagnosed(capsys)
    assert found["versions"]["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert torch.__version__.startswith(found["versions"]["torch"])
    engines = {engine["name"]: engine for engine in found["engines"]}
    assert engines["native CPU kernels"]["active"] == native.available()
    assert engines["PyTorch on CPUs"]["active"]
    assert {"export", "mmseg", "openvino"} <= {extra["name"] for extra in found["extras"]}


def test_the_tables_say_the_same(capsys, tmp_path) -> None:
    assert main(["doctor", f"--json={tmp_path / 'machine.json'}"]) == 0
    printed = capsys.readouterr().out
    for part in json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))["engines"]:
        assert part["name"] in printed
    assert torch.__version__.partition("+")[0] in printed


@pytest.mark.parametrize(
    ("installed", "missing", "complete"),
    [
        ({"onnx": "1.20", "onnxruntime": "1.20"}, ["onnxscript>=0.7"], False),
        ({"onnx": "1.20", "onnxruntime": "1.20", "onnxscript": "0.5"}, ["onnxscript>=0.7"], False),
        ({"onnx": "1.20", "onnxruntime": "1.20", "onnxscript": "0.7.1"}, [], False),
        ({"onnx": "1.20", "onnxruntime": "1.20", "onnxscript": "0.7.1", "openvino": "2026.1"}, [], True),
    ],
)
def test_extras_that_are_missing_or_too_old(installed, missing, complete, capsys, monkeypatch) -> None:
    lines = [
        "torch>=2.6",
        "tomli>=2; python_version < '3.0'",
        'onnx>=1.16; extra == "export"',
        "onnxruntime>=1.18; extra == 'export'",
        'onnxscript>=0.7; extra == "export"',
        'dyvision[export]; extra == "openvino"',
        'openvino>=2024.0; extra == "openvino"',
        'triton>=3.2; platform_system == "Nowhere" and extra == "triton"',
    ]
    monkeypatch.setattr(doctor, "requires", lambda _: lines)
    monkeypatch.setattr(doctor, "_version", installed.get)
    extras = {extra["name"]: extra for extra in diagnosed(capsys)["extras"]}
    assert extras["export"]["missing"] == missing
    assert extras["export"]["command"] == 'pip install "dyvision[export]"'
    assert (not extras["openvino"]["missing"]) == complete
    assert "triton" not in extras  # there is none for this system


@pytest.mark.parametrize("forced", ["off", "mmx"])
def test_why_the_native_kernels_are_not_used(forced) -> None:
    command = [sys.executable, "-m", "dyvision", "doctor", "--json", "-"]
    environment = {**os.environ, native.VARIABLE: forced}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    engine = json.loads(done.stdout)["engines"][0]
    assert not engine["active"] and "\n" not in engine["note"]
    assert (f"{native.VARIABLE}={forced}" in engine["note"]) or "not built" in engine["note"]
