"""If these fail, people do not learn what was changed in their data, or learn it ten thousand times."""

import warnings

import pytest

from dyvision.data.errors import DataError
from dyvision.data.findings import Findings


def test_one_warning_per_kind_with_a_count_and_examples():
    findings = Findings()
    for number in range(10):
        findings.repaired("a.json", "iscrowd is text", "read as a number", f"annotation {number}")
    findings.warned("a.json", "boxes in 0..1", "left out", count=4)
    with pytest.warns(UserWarning) as caught:
        findings.report()
    texts = [str(item.message) for item in caught]
    assert texts[0] == (
        "a.json: iscrowd is text (annotation 0, annotation 1, annotation 2 and 7 more); read as a number."
    )
    assert texts[1] == "a.json: boxes in 0..1; left out."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        findings.report()  # told once


def test_a_refusal_ends_training_and_is_collected_for_a_table():
    with pytest.raises(DataError, match=r"a\.json: annotation 3: area is a list; write a number\."):
        Findings().refused_because("a.json", "area is a list", "write a number", "annotation 3")
    findings = Findings(collect=True)
    findings.refused_because("a.json", "area is a list", "write a number", "annotation 3")
    assert findings.refused
    assert findings.all[0].examples == ["annotation 3"]
    findings.report()


def test_of_several_processes_the_first_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in (0, 1):
        monkeypatch.setattr("dyvision.data.findings.rank_and_world", lambda rank=rank: (rank, 2))
        findings = Findings()
        findings.warned("a.json", "odd", "read as it is")
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            findings.report()
        assert len(record) == 1 - rank and findings.all == []
