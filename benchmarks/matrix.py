"""Every layer in every kind of network: what works there, what does not apply and why.

    python -m benchmarks.matrix --json matrix.json --markdown docs/matrix.md
    python -m benchmarks.matrix --layers dyconv dcd --networks resnet18 unet

Each layer in each network is a process of its own with a limit of time. What is done is in the JSON file after every
check, and a run that was stopped goes on there; ``--retry`` tries again what failed. Needs ``pip install
"dyvision[export]"``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import dyvision
from benchmarks._matrix_checks import CHECKS, run_check
from benchmarks._matrix_networks import NETWORKS
from benchmarks._matrix_pages import markdown, tables, versions
from dyvision.saving import write_text
from dyvision.tables import make_console

Cells = dict[str, dict[str, Any]]


def main() -> None:
    """Run what is missing, print all, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    layers = [name for name in dyvision.list_layers() if name != "static"]
    parser.add_argument("--layers", nargs="+", choices=layers, default=layers, metavar="NAME")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--checks", nargs="+", choices=list(CHECKS), default=list(CHECKS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what is done, read at the start and kept there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS", help="of one layer in one network")
    parser.add_argument("--retry", action="store_true", help="try again what failed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = _read(options)
    for network in options.networks:
        for layer in options.layers:
            todo = [check for check in options.checks if _missing(cells.get(f"{network}/{layer}/{check}"), options)]
            if todo:
                _run_group(network, layer, todo, cells, options)
    console = make_console()
    for table in tables(cells, options.layers, options.networks, options.checks):
        console.print(table)
    if options.markdown is not None:
        write_text(options.markdown, markdown(cells, options.layers, options.networks, options.checks, options.backend))
    failed = [key for key, cell in cells.items() if cell["state"] == "FAIL"]
    sys.exit(1 if failed else 0)


def _read(options: argparse.Namespace) -> Cells:
    if options.json is None or not options.json.exists():
        return {}
    found = json.loads(options.json.read_text(encoding="utf-8"))
    if found["versions"] != versions() or found["backend"] != options.backend:
        raise SystemExit(f"{options.json} is of other versions or another backend: remove it to start anew")
    return dict(found["cells"])


def _missing(cell: dict[str, Any] | None, options: argparse.Namespace) -> bool:
    return cell is None or (options.retry and cell["state"] == "FAIL")


def _run_group(network: str, layer: str, checks: list[str], cells: Cells, options: argparse.Namespace) -> None:
    """One layer in one network, in a process forked from this one, which has imported everything."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(network, layer, checks, options.backend, send))
    process.start()
    send.close()
    end = time.monotonic() + options.timeout
    for check in checks:
        start = time.monotonic()
        state, note = "FAIL", f"no end after {options.timeout:.0f} s"
        try:
            if receive.poll(max(0.0, end - time.monotonic())):
                state, note = receive.recv()
        except EOFError:
            process.join()
            state, note = "FAIL", f"its process ended with status {process.exitcode}"
        seconds = round(time.monotonic() - start, 1)
        cells[f"{network}/{layer}/{check}"] = {"state": state, "note": note, "seconds": seconds}
        if options.json is not None:
            found = {"versions": versions(), "backend": options.backend, "cells": cells}
            write_text(options.json, json.dumps(found, indent=1) + "\n")
        print(f"{network}, {layer}, {check}: {state} ({note}), {seconds} s", file=sys.stderr, flush=True)
    process.kill()
    process.join()


def _work(network: str, layer: str, checks: list[str], backend: str, send: Connection) -> None:
    for check in checks:
        send.send(run_check(check, NETWORKS[network], layer, backend))
    send.close()


if __name__ == "__main__":
    main()
