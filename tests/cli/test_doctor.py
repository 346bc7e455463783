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
from dyvision.ops import native, rates
from dyvision.ops.work import Rates


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


SOME = Rates(1e-6, 2e-11, 2e-11, 1e-10, 2e-11, 2e-11, 1e-10, 5e-10)


@pytest.fixture
def measurement(tmp_path, monkeypatch) -> None:
    """Nothing known, and a measurement that takes no time."""
    monkeypatch.setenv(rates.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(rates, "_found", {})
    monkeypatch.setattr(rates, "measure_rates", lambda: SOME)


def test_rates_are_typical_then_measured_then_kept(measurement, capsys, monkeypatch) -> None:
    before = diagnosed(capsys)["cost_model"]
    assert before["source"] == "typical" and before["took"] is None and "not measured yet" in before["note"]
    assert main(["doctor", "--calibrate"]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert "50billionmultiply-addspersecond" in printed and "10GBpersecond" in printed
    assert "1microsecondsperoperation" in printed and "measured" in printed
    monkeypatch.setattr(rates, "_found", {})
    after = diagnosed(capsys)["cost_model"]
    assert after["source"] == "kept" and after["rates"] == SOME._asdict()
    assert after["note"] == after["file"] == str(rates.file_of_rates())


def test_calibrating_is_in_the_file_too(measurement, capsys, monkeypatch) -> None:
    assert main(["doctor", "--calibrate", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cost_model"]["source"] == "measured" and found["cost_model"]["took"] < 5
    engines = {engine["name"]: engine["note"] for engine in found["engines"]}
    assert "measured" in engines["PyTorch on CPUs"]
    monkeypatch.setattr(rates, "measure_rates", lambda: None)
    assert main(["doctor", "--calibrate", "--json", "-"]) == 0
    model = json.loads(capsys.readouterr().out)["cost_model"]
    assert model["source"] == "kept" and "busy" in model["note"] and model["rates"] == SOME._asdict()


@pytest.mark.parametrize("forced", ["off", "mmx"])
def test_why_the_native_kernels_are_not_used(forced) -> None:
    command = [sys.executable, "-m", "dyvision", "doctor", "--json", "-"]
    environment = {**os.environ, native.VARIABLE: forced}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    engine = json.loads(done.stdout)["engines"][0]
    assert not engine["active"] and "\n" not in engine["note"]
    assert (f"{native.VARIABLE}={forced}" in engine["note"]) or "not built" in engine["note"]
