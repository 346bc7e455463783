"""Tasks as files that other programs run, and tasks that are run by such files."""

from __future__ import annotations

from dyvision.tasks.exporting.export import FORMATS, export_task
from dyvision.tasks.exporting.running import ExportedTask, load_exported

__all__ = ("FORMATS", "ExportedTask", "export_task", "load_exported")
