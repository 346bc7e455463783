"""Reads a whole data set as training would, and reports everything that was found in one go."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dyvision.data.base import VisionDataModule
from dyvision.data.datasets import VisionDataset
from dyvision.data.errors import DataError
from dyvision.data.findings import Finding, Findings
from dyvision.data.loaders import IGNORE_INDEX, init_worker
from dyvision.data.pipeline import Pipeline
from dyvision.data.same_files import shared_images
from dyvision.data.statistics import Duplicates, SampleCounts, SplitStatistics
from dyvision.text import one_line, some

#: Is called with (split, samples done, samples in all).
Progress = Callable[[str, int, int], None]

_SAMPLES_AT_ONCE = 8


@dataclass
class Report:
    """What a check found.

    Attributes:
        findings: Everything repaired, doubted or refused.
        splits: Counts of each split.
        duplicates: Images that repeat an earlier one of the same split, by split.
        task: What the data is for.
    """

    findings: Findings
    splits: list[SplitStatistics]
    duplicates: dict[str, int]
    task: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        findings = [
            {"outcome": found.outcome, "file": found.file, "where": found.examples, "what": found.what,
             "training": found.training, "count": found.count}
            for found in self.findings.all
        ]  # fmt: skip
        splits = [{**split.as_dict(), "duplicates": self.duplicates.get(split.split, 0)} for split in self.splits]
        return {"refused": self.findings.refused, "findings": findings, "splits": splits}


def check(
    module: VisionDataModule,
    splits: Sequence[str] | None = None,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Reads every image and every label of a data set.

    Args:
        module: As for training: what it would repair, warn about or refuse is what is reported.
        splits: Names of splits; if None, those of the module.
        num_workers: Processes that read; 0 reads in this one.
        progress: Is told how far it is.

    Returns:
        Findings and statistics.
    """
    findings = Findings(collect=True)
    module.findings = findings
    names = list(dict.fromkeys(_own_splits(module) if splits is None else splits))
    datasets = {}
    for name in names:
        dataset = _build(module, name, findings)
        if dataset is not None:
            datasets[name] = dataset
    if splits is None:
        _compare_splits(module, datasets, findings)
    statistics, duplicates = [], Duplicates()
    for name, dataset in datasets.items():
        kept, part_names = _validated(module, name, findings) if splits is None else (set(), [name])
        parts = [SplitStatistics(part, dataset.class_names) for part in part_names]
        for position, (sample, found) in enumerate(_read_all(dataset, num_workers)):
            counts = parts[position in kept]
            _merge(findings, found)
            counts.add(sample)
            _report_duplicate(findings, counts.split, sample, duplicates)
            if progress is not None:
                progress(name, position + 1, len(dataset))
        for counts in parts:
            _judge(findings, module, counts, name)
        statistics += parts
    return Report(findings, statistics, dict(duplicates.within), module.task)


def _validated(module: VisionDataModule, split: str, findings: Findings) -> tuple[set[int], list[str]]:
    """Positions of the samples that ``val_fraction`` keeps for validation, and the names of the parts."""
    if module.val_fraction is None or split != module.train_split:
        return set(), [split]
    try:
        validated = set(module.build_validation_dataset().paths())
        paths = module.build_dataset(split, train=False).paths()
    except (DataError, OSError) as error:
        _refuse(findings, str(module.root / split), error)
        return set(), [split]
    kept = {position for position, path in enumerate(paths) if path in validated}
    return kept, [f"{split}, without val_fraction", f"{split}, val_fraction={module.val_fraction:g}"]


def _own_splits(module: VisionDataModule) -> list[str]:
    names = [module.train_split] if module.val_fraction is not None else [module.train_split, module.val_split]
    return [*names, module.test_split] if module.test_split is not None else names


def _build(module: VisionDataModule, split: str, findings: Findings) -> VisionDataset | None:
    dataset = None
    try:
        dataset = module.build_dataset(split, train=False)
        if split == module.train_split:
            dataset.reader.findings = Findings(collect=True)  # every label map is read, and told of, later
            module.check_labels(dataset)
    except (DataError, OSError) as error:
        _refuse(findings, str(module.root / split), error)
    return dataset


def _compare_splits(module: VisionDataModule, datasets: dict[str, VisionDataset], findings: Findings) -> None:
    train, val = datasets.get(module.train_split), datasets.get(module.val_split)
    if module.val_fraction is not None or train is None or val is None:
        return
    both = shared_images(train.paths(), val.paths())
    if both:
        findings.refused_because(
            module.root,
            f"{len(both)} images of val_split={module.val_split!r} are images of train_split={module.train_split!r}",
            "set val_fraction, or give val_split other images",
            both[0],
        )


class _Inspector(Dataset[tuple[SampleCounts, list[Finding]]]):
    """Samples as counts and findings; nothing that a file holds ends it."""

    def __init__(self, dataset: VisionDataset) -> None:
        self._dataset = dataset
        self._paths = dataset.paths()
        # the stored picture with its labels, not what transforms make of it
        dataset.pipeline = Pipeline([], dataset.task)
        dataset.to_tensor = _stored

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[SampleCounts, list[Finding]]:
        findings = Findings(collect=True)
        self._dataset.reader.findings = findings
        sample = SampleCounts(self._paths[index] if self._paths else f"sample {index}")
        try:
            self._count(self._dataset[index], sample)
            with open(sample.path, "rb") as file:
                sample.digest = hashlib.blake2b(file.read(), digest_size=16).digest()
        except (DataError, OSError, ValueError) as error:
            _refuse(findings, sample.path, error)
        return sample, findings.all

    def _count(self, content: dict[str, Any], sample: SampleCounts) -> None:
        sample.path = content.get("path", sample.path)
        if "label" in content:
            sample.objects = Counter([int(content["label"])])
        if "target" in content:
            sample.objects = Counter(int(label) - 1 for label in content["target"]["labels"])
        if "mask" in content:
            classes = len(self._dataset.class_names)
            counts = np.bincount(content["mask"].numpy().reshape(-1), minlength=IGNORE_INDEX + 1)
            sample.pixels = np.append(counts[:classes], counts[IGNORE_INDEX]).astype(np.int64)
        sample.size = (int(content["image"].shape[-2]), int(content["image"].shape[-1]))


def _stored(image: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _read_all(dataset: VisionDataset, num_workers: int) -> Iterator[tuple[SampleCounts, list[Finding]]]:
    loader: DataLoader[Any] = DataLoader(
        _Inspector(dataset),
        batch_size=_SAMPLES_AT_ONCE,
        num_workers=min(num_workers, -(-len(dataset) // _SAMPLES_AT_ONCE)),
        collate_fn=list,
        worker_init_fn=init_worker,
    )
    for batch in loader:
        yield from batch


def _merge(findings: Findings, found: Sequence[Finding]) -> None:
    for one in found:
        if one.outcome == "refused":
            findings.refused_because(one.file, one.what, one.training, *one.examples[:1])
        else:
            add = findings.repaired if one.outcome == "repaired" else findings.warned
            add(one.file, one.what, one.training, ", ".join(one.examples), one.count)


def _refuse(findings: Findings, file: str, error: Exception) -> None:
    """An exception as a finding: readers name the file first and the fix last."""
    text = one_line(error)
    named, separator, rest = text.partition(": ")
    if separator and os.path.lexists(named):
        file, text = named, rest
    what, separator, fix = text.rstrip(".").rpartition("; ")
    findings.refused_because(file, what if separator else fix, fix if separator else "training ends there")


def _report_duplicate(findings: Findings, split: str, sample: SampleCounts, duplicates: Duplicates) -> None:
    earlier = duplicates.add(split, sample)
    if earlier is None:
        return
    other_split, path, same = earlier
    if other_split != split:
        findings.warned(
            sample.path,
            f"the same picture is in the split {other_split!r}",
            "counts in both: metrics look better",
            path,
        )
    elif not same:
        findings.warned(sample.path, "the same picture has other classes elsewhere", "trained on both", path)


def _judge(findings: Findings, module: VisionDataModule, counts: SplitStatistics, split: str) -> None:
    missing = counts.missing_classes()
    if counts.images and missing and len(missing) < len(counts.class_names):
        what = "a pixel" if counts.pixels is not None else "an object" if module.task == "detection" else "an image"
        trained = split == module.train_split and "val_fraction=" not in counts.split
        findings.warned(
            module.root / counts.split,
            f"{len(missing)} class{'es' * (len(missing) > 1)} without {what}: {some(missing, 8)}",
            "never learnt from this split" if trained else "no metric for them",
        )
    if counts.images and counts.ignored_share() == 1 and split != module.train_split:
        findings.warned(module.root / split, "every pixel is ignored", "nothing can be measured")
