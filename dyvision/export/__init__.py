"""Networks in files that other programs run: ONNX, torch.export, OpenVINO, checked before they are called done."""

from __future__ import annotations

from dyvision.export._check import ExportedFile
from dyvision.export._network import ImageKind, Images
from dyvision.export.onnx import OnnxFile, export_onnx
from dyvision.export.openvino import OpenvinoFile, export_openvino
from dyvision.export.program import ProgramFile, export_program
from dyvision.export.quantize import QuantizedFile, quantize_onnx
from dyvision.export.session import OnnxModel

__all__ = (
    "ExportedFile",
    "ImageKind",
    "Images",
    "OnnxFile",
    "OnnxModel",
    "OpenvinoFile",
    "ProgramFile",
    "QuantizedFile",
    "export_onnx",
    "export_openvino",
    "export_program",
    "quantize_onnx",
)
