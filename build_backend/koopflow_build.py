"""The build backend: maturin's, with the location of the torch that is used in this build.

torch-sys asks ``python3`` on PATH where libtorch is, and cargo stores the result in its target directory. The
torch of an isolated build is in a temporary folder that is deleted afterwards, so a second ``pip install .``
would link against a missing library. Here every build uses one symbolic link with a fixed path:
``<target>/torch-<version>/site`` points to the site-packages that holds torch at the moment, and ``python3``
is the interpreter that runs this file. The target directory belongs to this link, so a plain ``cargo test``
does not use it, and a second install finds everything compiled.

torch-sys supports one torch version. For the others (``torch_versions``) its version check is bypassed. The
C++ compiler is then a script that sets the C++ standard of their headers and includes stand-ins for functions
that they no longer have.

``python build_backend/koopflow_build.py COMMAND ...`` runs any command in that environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch_metadata
import torch_versions

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def torch_environment() -> Iterator[None]:
    """Point cargo, torch-sys and maturin to this interpreter and its torch."""
    version = torch_versions.installed()
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("torch is installed, but cannot be found by Python")
    site = Path(spec.origin).resolve().parent.parent
    base = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
    # Separate for torch with and without CUDA (2.13.0, 2.13.0+cpu), which have different libraries to link.
    target = base / f"torch-{importlib.metadata.version('torch')}"
    tools = target / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    with (target / "koopflow.lock").open("w") as lock:
        # All builds share the link, so a second build waits; otherwise it would change the link of the first.
        fcntl.flock(lock, fcntl.LOCK_EX)
        link = target / "site"
        link.unlink(missing_ok=True)
        link.symlink_to(site, target_is_directory=True)
        for name in ("python", "python3"):
            _script(tools / name, shlex.quote(sys.executable))
        changes = {
            "CARGO_TARGET_DIR": str(target),
            "PATH": _join(str(tools), os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)),
            "PYTHONPATH": _join(str(link), os.environ.get("PYTHONPATH", "")),
        }
        if version != torch_versions.NATIVE:
            changes |= _newer_torch(tools)
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _newer_torch(tools: Path) -> dict[str, str]:
    """Environment variables for compiling torch-sys for a torch that it was not generated for."""
    compiler = os.environ.get("CXX") or "c++"
    header = shlex.quote(str(ROOT / "build_backend/torch_stand_ins.h"))
    # torch-sys sets C++17; the last flag takes precedence.
    _script(tools / "torch-c++", compiler, f"-std=c++20 -include {header}")
    return {"CXX": str(tools / "torch-c++"), "LIBTORCH_BYPASS_VERSION_CHECK": "1"}


def _script(path: Path, command: str, more: str = "") -> None:
    path.write_text(f'#!/bin/sh\nexec {command} "$@" {more}\n')
    path.chmod(0o755)


def _join(*parts: str) -> str:
    return os.pathsep.join(part for part in parts if part)


Settings = Mapping[str, Any] | None


def build_wheel(directory: str, settings: Settings = None, metadata: str | None = None) -> str:
    import maturin

    with torch_environment():
        return _pin(Path(directory), maturin.build_wheel(directory, settings))


def build_editable(directory: str, settings: Settings = None, metadata: str | None = None) -> str:
    import maturin

    with torch_environment():
        return _pin(Path(directory), maturin.build_editable(directory, settings))


def build_sdist(directory: str, settings: Settings = None) -> str:
    import maturin

    name = str(maturin.build_sdist(directory, settings))
    torch_metadata.mark_sdist_dynamic(Path(directory) / name)
    return name


def prepare_metadata_for_build_wheel(directory: str, settings: Settings = None) -> str:
    import maturin

    folder = Path(directory, maturin.prepare_metadata_for_build_wheel(directory, settings))
    path = folder / "METADATA"
    path.write_text(_pinned(path.read_text("utf-8")), "utf-8")
    return folder.rename(folder.with_name(folder.name.replace(".dist-info", f"{_local()}.dist-info"))).name


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def get_requires_for_build_wheel(settings: Settings = None) -> list[str]:
    import maturin

    return [f"torch=={torch_versions.chosen()}", *maturin.get_requires_for_build_wheel(settings)]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(settings: Settings = None) -> list[str]:
    return []


def _local() -> str:
    # A wheel must have the version of the source distribution that it is built from, or pip refuses it.
    return "" if (ROOT / "PKG-INFO").exists() else torch_metadata.label(torch_versions.installed())


def _pinned(metadata: str) -> str:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["koopflow"][
        "dependencies"
    ]
    return torch_metadata.pinned(metadata, torch_versions.installed(), requirements, local=_local())


def _pin(folder: Path, name: str) -> str:
    return torch_metadata.pin_wheel(folder, name, _pinned, local=_local())


if __name__ == "__main__":
    with torch_environment():
        sys.exit(subprocess.run(sys.argv[1:] or ["cargo", "--version"]).returncode)
