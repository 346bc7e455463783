"""Finding images and class folders, without what operating systems and storage devices leave between them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import Image

from dyvision.data.errors import DataError, describe, looked_up
from dyvision.data.findings import Findings
from dyvision.file_kinds import as_address
from dyvision.text import some

_COMMON = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .pfm .tga .jp2 .j2k "
    ".j2c .jpc .jpf .jpx .avif .avifs .qoi .dds .pcx .sgi .rgb .rgba .bw .psd .ico .ras .xbm .xpm .heic .heif"
).split()
#: Extensions that count as an image, compared without case: what Pillow reads here (HEIC needs pillow-heif's plugin).
IMAGE_EXTENSIONS = tuple(
    name
    for name in _COMMON
    # Pillow opens an MPO, a JPEG with further pictures behind the first, as a JPEG
    if name == ".mpo" or Image.registered_extensions().get(name) in Image.OPEN
)

# pictures that other programs read
_UNREADABLE = (
    *(name for name in _COMMON if name not in IMAGE_EXTENSIONS),
    *".jxl .svg .exr .hdr .dcm .nii .raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .jls .jxr .svs .ndpi .czi".split(),
)

# made by macOS, Windows, Synology, QNAP, NetApp, ext4, Android, FrontPage, version control and Python; compared without
# case
_SYSTEM_FOLDERS = frozenset(
    (
        "__macosx resource.frk temporaryitems $recycle.bin recycler recycled msdownld.tmp @eadir @synoresource "
        "#recycle @recycle @recently-snapshot @__thumb #snapshot ~snapshot @tmp @appstore lost+found lost.dir cvs "
        "cvsroot rcs sccs _svn _darcs _gsdata_ __pycache__ __pypackages__"
    ).split()
) | {"system volume information", "network trash folder", "temporary items"}
_SYSTEM_PATTERN = re.compile(r"found\.\d{3}|_vti_\w+")  # chkdsk, FrontPage


def is_image(name: str) -> bool:
    """Whether a file name looks like an image (hidden files, such as macOS' ``._a.png``, do not)."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden or belongs to an operating system or a storage device: it holds no data."""
    return (
        name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS or bool(_SYSTEM_PATTERN.fullmatch(name.casefold()))
    )


def list_images(folder: Path, findings: Findings | None = None, dead_links: bool = False) -> list[str]:
    """Images below a folder at any depth, links followed, except those to a folder above.

    Args:
        folder: Where to look.
        findings: Is told what was left out. Without it, a link that leads nowhere stays in the list.
        dead_links: Keep such links in any case.

    Returns:
        Paths relative to ``folder`` with forward slashes, sorted.

    Raises:
        DataError: If a link leads nowhere, unless ``findings`` collects.
    """
    found: list[str] = []
    seen: set[str] = set()
    stack = [""]
    while stack:
        relative = stack.pop()
        real = os.path.realpath(folder / relative)
        if real in seen:  # links may form a cycle
            continue
        seen.add(real)
        with os.scandir(folder / relative) as entries:
            # in order: which of two links to one folder counts must not depend on the file system
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_dir():
                    if _is_data_folder(entry, real, folder, path, findings):
                        stack.append(path)
                elif _is_data_file(entry, folder, path, findings, dead_links):
                    found.append(path)
    return sorted(found)


def list_folders(folder: Path, findings: Findings | None = None) -> list[str]:
    """Names of the folders directly below a folder, sorted; without hidden and system folders and links to above."""
    real = os.path.realpath(folder)
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and _is_data_folder(entry, real, folder, entry.name, findings)
        )


def find_images(path: Path, findings: Findings | None = None) -> list[Path]:
    """Images to predict on: one file, or everything below a folder.

    Args:
        path: The file or folder.
        findings: Is told what was left out; links that lead nowhere are not.

    Raises:
        DataError: If the path does not exist, or holds no image.
    """
    if path.is_file():
        return [path]
    found = [path / name for name in list_images(path, findings, dead_links=True)] if path.is_dir() else []
    if not found:
        if (address := as_address(path)) is not None and not path.exists():
            raise DataError(f"predict_root={address!r}: an address, not a file or folder; download the images first.")
        raise DataError(
            f"predict_root={str(path)!r}{looked_up(path)} holds no image ({describe(path)}); give an image file, or a "
            f"folder with files of these kinds: {some(IMAGE_EXTENSIONS, 8)}."
        )
    return found


def _is_data_folder(entry: os.DirEntry[str], parent: str, root: Path, path: str, findings: Findings | None) -> bool:
    if is_system_folder(entry.name):
        if findings is not None and not entry.name.startswith("."):
            findings.repaired(root, "system folders between the data", "left out", path)
        return False
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if parent == target or parent.startswith(target.rstrip(os.sep) + os.sep):
            if findings is not None:
                findings.repaired(root, "links to a folder above", "not followed", path)
            return False
    return True


def _is_data_file(entry: os.DirEntry[str], root: Path, path: str, findings: Findings | None, dead_links: bool) -> bool:
    name = entry.name
    if not is_image(name):
        if findings is not None and not name.startswith(".") and name.lower().endswith(_UNREADABLE):
            findings.warned(root, "pictures in a format that cannot be read here", "left out; convert them", path)
        return False
    if entry.is_file():
        return True
    if not entry.is_symlink() or os.path.exists(entry.path):
        if findings is not None:
            findings.warned(root, "neither files nor folders (named pipes, sockets or devices)", "left out", path)
        return False
    if findings is None or dead_links:
        return True
    findings.refused_because(
        root,
        "a link leads nowhere",
        "fetch the file it stands for (git annex get, dvc pull, a complete download) or remove the link",
        path,
    )
    return False
