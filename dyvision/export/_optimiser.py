"""onnxscript's optimiser, which torch's exporter calls, in time that grows with the graph and not with its square."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dyvision.export._packages import need


@contextmanager
def without_pair_rules() -> Iterator[None]:
    """Leave out the rules that try all pairs of nodes: half the time of a graph of thousands, for slices joined.

    The one that there is makes one Split of two slices of the same map, which no runtime runs faster.
    """
    rewriter: Any = need("onnxscript.rewriter")[0]
    # private: torch hands no rules on, and they are in no public list; where they are kept otherwise, all are used
    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", None)
    patterns: list[Any] = [getattr(rule, "_target_pattern", None) for rule in rules or ()]
    if not isinstance(rules, tuple | list) or not all(hasattr(p, "has_single_output_node") for p in patterns):
        yield
        return
    quick = [rule for rule, pattern in zip(rules, patterns, strict=True) if pattern.has_single_output_node]
    rewriter._DEFAULT_REWRITE_RULES = type(rules)(quick)
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules
