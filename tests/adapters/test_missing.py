"""What an adapter says whose framework is not installed."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("adapter", "package", "extra"),
    [("smp", "segmentation_models_pytorch", "smp"), ("transformers", "transformers", "hf")],
)
def test_one_line_says_how_to_install_it(adapter, package, extra, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"dyvision.adapters.{adapter}", raising=False)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "dyvision\[{extra}\]"') as raised:
        import_module(f"dyvision.adapters.{adapter}")
    assert "\n" not in str(raised.value)
