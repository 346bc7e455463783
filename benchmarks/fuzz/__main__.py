"""The command: runs the kinds that were asked for."""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
import traceback

import benchmarks.fuzz
from benchmarks.fuzz.annotations import ANNOTATIONS
from benchmarks.fuzz.checkpoints import CHECKPOINTS
from benchmarks.fuzz.configs import CONFIGS
from benchmarks.fuzz.masks import MASKS
from benchmarks.fuzz.runner import fuzz

KINDS = {"checkpoints": CHECKPOINTS, "annotations": ANNOTATIONS, "masks": MASKS, "configs": CONFIGS}


def main() -> int:
    """Run the kinds that were asked for; 1 if one of them breaks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=benchmarks.fuzz.__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all if left out")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="other examples for another number")
    chosen = parser.parse_args()
    unknown = [kind for kind in chosen.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"no kind {unknown[0]!r}; choose from {', '.join(KINDS)}")
    faulthandler.enable()
    failed = 0
    for kind in chosen.kinds or KINDS:
        started = time.process_time()  # other programs do not count
        try:
            counts = fuzz(KINDS[kind], chosen.examples, chosen.seed)
            result = f"ok ({', '.join(f'{count} {outcome}' for outcome, count in counts.items())})"
        # a traceback of the code under test is what is looked for
        except Exception as error:
            failed = 1
            traceback.print_exc()
            result = f"FAIL  {type(error).__name__}: {error}"
        print(
            f"{kind:<12} {chosen.examples} examples, {time.process_time() - started:.0f} s of processor time: {result}",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
