"""What several networks cost, a row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dyvision.analysis.profile import Profile
from dyvision.text import plain

if TYPE_CHECKING:
    from dyvision.tables import FittingTable


def side_by_side(profiles: Mapping[str, Profile], title: str) -> FittingTable:
    """The totals of profiles of one input size, and their multiply-adds over those of the first.

    Args:
        profiles: By the name of the row; at least one.
        title: What the rows have in common.
    """
    from dyvision.tables import NAME, FittingTable

    first = next(iter(profiles.values()))
    timed = first.latency_ms is not None
    size = " x ".join(map(str, first.input_size))
    table = FittingTable(f"{title}, input {size} on {first.device}", first.counted, elsewhere="--json FILE has them")
    table.add_column("layer", NAME)
    numbers = (("parameters", 1), ("MACs\n(M)", 1), ("over the\nfirst", 3), ("branch\n(M)", 4), ("mixing\n(M)", 4))
    for name, importance in (*numbers, ("activations\n(MiB)", 5), *((("ms", 2),) if timed else ())):
        table.add_column(name, importance, justify="right")
    for name, profile in profiles.items():
        cells = [f"{value / 1e6:.2f}" for value in (profile.macs, profile.cost.branch, profile.cost.mixing)]
        cells.insert(1, f"{profile.macs / first.macs:.2f}" if first.macs else "-")
        cells.append(f"{profile.activation_bytes / 2**20:.2f}")
        cells += [f"{profile.latency_ms:.1f}"] if timed and profile.latency_ms is not None else []
        table.add_row(plain(name), f"{profile.params:,}", *cells)
    return table
