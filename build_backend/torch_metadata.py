"""The metadata of a wheel that is pinned to one torch.

maturin writes the metadata of pyproject.toml, which are the same for every torch version. A wheel needs the
pin of its own build, ``Requires-Dist: torch==2.13.0``, and the version ``0.2.0+torch2.13``. Wheels for
several torch versions can then be in the same folder, and pip chooses the one that matches.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path


def label(torch: str) -> str:
    """The local version of a wheel: ``+torch2.13`` for torch 2.13.0."""
    return "+torch" + ".".join(torch.split(".")[:2])


def pinned(metadata: str, torch: str, requirements: Iterable[str], *, local: str) -> str:
    """maturin's ``METADATA`` with the pin, the requirements and the local version."""
    lines = [f"Requires-Dist: torch=={torch}", *(f"Requires-Dist: {each}" for each in requirements)]
    return _after_version(metadata, local, lines)


def pin_wheel(folder: Path, name: str, change: Callable[[str], str], *, local: str) -> str:
    """Replace a wheel by one whose metadata are changed by `change`; returns its file name."""
    stem, version, tags = name.split("-", 2)
    old, new = f"{stem}-{version}.dist-info/", f"{stem}-{version}{local}.dist-info/"
    pinned_name = f"{stem}-{version}{local}-{tags}"
    temporary = folder / f"{pinned_name}.part"
    records = []
    with zipfile.ZipFile(folder / name) as source, zipfile.ZipFile(temporary, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename == f"{old}RECORD":
                continue
            if item.filename == f"{old}METADATA":
                data = change(data.decode()).encode()
            item.filename = item.filename.replace(old, new, 1)
            target.writestr(item, data, zipfile.ZIP_DEFLATED, 9)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{item.filename},sha256={digest},{len(data)}")
        record = zipfile.ZipInfo(f"{new}RECORD", (1980, 1, 1, 0, 0, 0))
        record.external_attr = 0o644 << 16
        target.writestr(record, "\n".join([*records, f"{new}RECORD,,", ""]), zipfile.ZIP_DEFLATED)
    (folder / name).unlink()
    temporary.rename(folder / pinned_name)
    return pinned_name


def mark_sdist_dynamic(path: Path) -> None:
    """Mark the requirements of a source distribution as dynamic: known only when it is built (PEP 643)."""
    temporary = path.with_suffix(".part")
    with tarfile.open(path) as source, tarfile.open(temporary, "w:gz") as target:
        for item in source.getmembers():
            data = source.extractfile(item)
            content = data.read() if data else b""
            if item.name.count("/") == 1 and item.name.endswith("/PKG-INFO"):
                content = _after_version(content.decode(), "", ["Dynamic: Requires-Dist"]).encode()
                item.size = len(content)
            target.addfile(item, io.BytesIO(content))
    temporary.replace(path)


def _after_version(metadata: str, local: str, lines: Iterable[str]) -> str:
    before, version, after = metadata.partition("\nVersion: ")
    number, _, rest = after.partition("\n")
    return "\n".join([f"{before}{version}{number}{local}", *lines, rest])
