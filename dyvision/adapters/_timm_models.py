"""Where timm looks for what it registers: functions of the models' names, and ``default_cfgs``; filled by ``timm``."""

from __future__ import annotations

from timm.models import DefaultCfg

__all__: list[str] = []
default_cfgs: dict[str, DefaultCfg] = {}
