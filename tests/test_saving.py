"""If these fail, a full disk or a killed process costs somebody the file they had."""

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from dyvision.saving import replacing, write_text


def test_the_old_file_stays_when_writing_fails(tmp_path):
    target = tmp_path / "results.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="in the middle"), replacing(target) as part:
        part.write_text("half")
        raise RuntimeError("in the middle")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_full_disk_is_named_with_the_room_that_is_missing(tmp_path):
    target = tmp_path / "last.ckpt"
    write_text(target, "old")
    with (
        pytest.raises(OSError, match=r"last\.ckpt could not be written: .*MB free, .*MB needed\).*is unchanged"),
        replacing(target, needed=2**60),
    ):
        pass
    with pytest.raises(OSError, match=r"MB free\)"), replacing(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"


def test_a_link_stays_a_link_and_folders_are_made(tmp_path):
    write_text(tmp_path / "store" / "a.txt", "old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "store" / "a.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "store" / "a.txt").read_text() == "new"


def test_two_that_write_the_same_file_do_not_meet(tmp_path):
    target = tmp_path / "picture.txt"
    with replacing(target) as first:
        first.write_text("f")
        with replacing(target) as second:
            assert second != first and second.suffix == first.suffix
            second.write_text("second")
        assert target.read_text() == "second"
        first.write_text("first")
    assert target.read_text() == "first"
    with pytest.raises(RuntimeError), replacing(target), replacing(target) as second:
        second.write_text("half")
        raise RuntimeError
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["picture.txt"]


def test_many_writers_leave_one_whole_file(tmp_path):
    target = tmp_path / "results.json"
    texts = [str(number) * 100_000 for number in range(8)]

    def write(text: str) -> None:
        for _ in range(20):
            write_text(target, text)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, texts))
    assert target.read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_remainder_of_a_killed_process_is_overwritten(tmp_path):
    (tmp_path / ".last.part.ckpt").write_text("half of a long checkpoint")
    write_text(tmp_path / "last.ckpt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_text() == "new"


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path) -> None:
    from dyvision.saving import check_folder

    check_folder(tmp_path, "--output")
    check_folder(tmp_path / "new" / "folder", "--output")
    (tmp_path / "file").write_text("old")
    for below in ("file", "file/a/b"):
        with pytest.raises(NotADirectoryError, match=r"--output .*: .*file is a file; give a folder"):
            check_folder(tmp_path / below, "--output")
    assert not (tmp_path / "new").exists()


def test_a_target_that_cannot_be_written_is_told_before_the_work(tmp_path) -> None:
    from dyvision.saving import check_target

    check_target(tmp_path / "new" / "folder" / "a.csv", "--csv")
    (tmp_path / "there.csv").write_text("old")
    check_target(tmp_path / "there.csv", "--csv")
    with pytest.raises(IsADirectoryError, match=r"--csv .*: a folder; give a file in it"):
        check_target(tmp_path, "--csv")
    with pytest.raises(NotADirectoryError, match=r"--json .*there\.csv is a file, not a folder"):
        check_target(tmp_path / "there.csv" / "a" / "b.json", "--json")
