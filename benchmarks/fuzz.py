"""Made-up input until something breaks: checkpoints' hyperparameters, COCO annotations, label maps and configs.

    python benchmarks/fuzz.py [checkpoints] [annotations] [masks] [configs] [--examples 2000]

Each kind is a function of a number of examples and a folder for files. It raises an error (hypothesis shows the
smallest example) if an example ends in anything but a result or one sentence, runs code, or takes too long.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

#: seconds after which an example counts as hanging
LIMIT = 60
#: what the command line prints as one line without a traceback
SENTENCES = (ValueError, OSError, ImportError)


def options(examples: int) -> settings:
    """The same examples in every run, without a data base of earlier failures."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )


@contextlib.contextmanager
def held(what: object) -> Iterator[None]:
    """Check that the block ends in a result or a sentence, in time, and starts no program."""
    started: list[str] = []
    _AUDIT.append(started)
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        yield
    except SENTENCES as error:
        assert str(error).strip(), f"{what!r}: {type(error).__name__} without a text"
    except Exception as error:
        raise AssertionError(f"{what!r}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        _AUDIT.remove(started)
    assert not started, f"{what!r} ran {started}"


#: lists that the events of running code go to, while an example is held
_AUDIT: list[list[str]] = []
_CODE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn", "os.remove")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _AUDIT:
        return
    named = event == "import" and str(arguments[0]).split(".")[0] in _FOREIGN
    if named or event in _CODE:
        _AUDIT[-1].append(f"{event} {arguments[0]!r}")


def _too_long(*_: object) -> None:
    raise AssertionError(f"took more than {LIMIT} s")


#: modules that nothing of ours imports; a checkpoint that names one must not have it imported
_FOREIGN = ("antigravity", "this", "turtledemo", "idlelib")
_CODE_NAMES = (
    *("subprocess.Popen", "os.system", "builtins.eval", "importlib.import_module", "torch.load", "torch.hub.load"),
    *(
        "antigravity.fly",
        "this.s",
        "idlelib.run.main",
        "turtledemo.bytedesign.main",
        "torch.nn.Identity",
        "torch.nn.Nix",
    ),
    *("torch.optim.SGD", "torch.optim.Optimizer", "pathlib.Path", "shutil.rmtree", "torch.nn"),
    *("", ".", "a.", ".a"),
    *("dyvision.saving.write_text", "dyvision.tasks.losses.OHEMLoss", "albumentations.HorizontalFlip"),
)


_KEYS = (
    *("name", "class_path", "init_args", "type", "channels", "in_index", "args", "checkpoint_path", "pretrained", "x"),
    *(
        "_scope_",
        "pretrained_cfg",
        "file",
        "model_kwargs",
        "init_cfg",
        "checkpoint",
        "norm_cfg",
        "threshold",
        "momentum",
    ),
)


def values() -> st.SearchStrategy[Any]:
    """Plain values: of the right kind by chance, of any other mostly."""
    numbers = st.sampled_from([0, 1, -1, 2, 3, 8, 255, 10**6, 10**9, 2**63, 10**30, 0.0, 0.5, -0.5, 1e300])
    texts = st.sampled_from(
        ["", "x", "fcn", "deeplabv3", "dcd", "static", "../../x", "/etc/passwd", "local-dir:/tmp", "hf-hub:a/b", "[/b]"]
    )
    code_name = st.sampled_from(_CODE_NAMES)
    plain = st.one_of(
        st.none(), st.booleans(), numbers, texts, code_name, st.floats(), st.integers(), st.text(max_size=8)
    )
    keys = st.sampled_from(_KEYS)
    nested = st.recursive(
        plain, lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3), max_leaves=6
    )
    code = st.builds(
        lambda name, arguments: {"class_path": name, "init_args": arguments},
        st.sampled_from(_CODE_NAMES),
        st.dictionaries(keys, plain, max_size=2),
    )
    return nested | code


def checkpoints(examples: int, folder: Path) -> str | None:
    """Hyperparameters of a checkpoint, some of them replaced, in each task."""
    from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask

    path = folder / "fuzz.ckpt"
    made: dict[type, dict[str, Any]] = {}
    for task in (ClassificationTask, SegmentationTask, DetectionTask):
        model = task(backbone="test_resnet", num_classes=2)
        made[task] = {
            "task": task.task,
            "pytorch-lightning_version": "2.6.0",
            "hyper_parameters": dict(model.hparams),
            "state_dict": model.state_dict(),
        }
    names = sorted({name for content in made.values() for name in content["hyper_parameters"]})

    @options(examples)
    @given(
        st.sampled_from(sorted(made, key=str)), st.dictionaries(st.sampled_from([*names, "new"]), values(), max_size=3)
    )
    def load(task: Any, replaced: dict[str, Any]) -> None:
        content = {**made[task], "hyper_parameters": {**copy.deepcopy(made[task]["hyper_parameters"]), **replaced}}
        torch.save(content, path)
        with held((task.__name__, replaced)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task.load_from_checkpoint(path)

    load()
    return None


def coco_annotations(examples: int, folder: Path) -> str:
    """Fields of a COCO file: read, trained on, evaluated."""
    from fuzz_annotations import fuzz_annotations

    # a mask that would fill the memory is a MemoryError then
    with limited_memory(3 * 2**30):
        return _counted(fuzz_annotations(examples))


def label_maps(examples: int, folder: Path) -> str:
    """Label maps of odd values, types, formats and sizes."""
    from fuzz_masks import fuzz_masks

    return _counted(fuzz_masks(examples))


def configs(examples: int, folder: Path) -> str:
    """Quickstart configs with odd values, misspelt and missing keys."""
    from fuzz_configs import fuzz_configs

    return _counted(fuzz_configs(examples))


@contextlib.contextmanager
def limited_memory(further: int) -> Iterator[None]:
    """Let the block allocate that many bytes more, where the system can limit it."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + further, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


#: what can be fuzzed: a function of the number of examples and a folder, which may return what it counted
KINDS: dict[str, Callable[[int, Path], str | None]] = {
    "checkpoints": checkpoints,
    "annotations": coco_annotations,
    "masks": label_maps,
    "configs": configs,
}


def main() -> int:
    """Run the kinds that were asked for; 1 if one of them breaks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all if left out")
    parser.add_argument("--examples", type=int, default=2000)
    chosen = parser.parse_args()
    unknown = [kind for kind in chosen.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"no kind {unknown[0]!r}; choose from {', '.join(KINDS)}")
    faulthandler.enable()
    failed = 0
    for kind in chosen.kinds or KINDS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                counted = KINDS[kind](chosen.examples, Path(folder))
                result = "ok" if counted is None else f"ok ({counted})"
            # a traceback of the code under test is what is looked for
            except Exception as error:
                failed = 1
                traceback.print_exc()
                result = f"FAIL  {type(error).__name__}: {error}"
        print(f"{kind:<12} {chosen.examples} examples, {time.perf_counter() - started:.0f} s: {result}", flush=True)
    return failed


sys.addaudithook(_audit)
if __name__ == "__main__":
    sys.exit(main())
