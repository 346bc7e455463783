"""Networks in files that other programs run: ONNX, checked before they are called done."""

from __future__ import annotations

from dyvision.export.onnx import OnnxFile, export_onnx

__all__ = ("OnnxFile", "export_onnx")
