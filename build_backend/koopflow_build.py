"""The build backend: maturin's, told where the torch of this very build is.

torch-sys asks ``python3`` on PATH where libtorch is, and cargo remembers the answer in its target
directory. An isolated build's torch lies in a temporary folder that is gone afterwards, so a second
``pip install .`` would link against nothing. Here every build goes through one symbolic link that
stays where it is: ``<target>/torch-<version>/site`` points to whichever site-packages holds torch now,
and ``python3`` is the interpreter that runs this file. The target directory is the link's own, so a
plain ``cargo test`` never sees it, and a second install finds everything compiled already.

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

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def torch_environment() -> Iterator[None]:
    """Point cargo, torch-sys and maturin to this interpreter and its torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("koopflow is built against torch, which this build environment lacks")
    site = Path(spec.origin).resolve().parent.parent
    base = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
    target = base / f"torch-{importlib.metadata.version('torch')}"
    tools = target / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    with (target / "koopflow.lock").open("w") as lock:
        # The link is one for all builds: a second build waits, or it would pull it from under the first.
        fcntl.flock(lock, fcntl.LOCK_EX)
        link = target / "site"
        link.unlink(missing_ok=True)
        link.symlink_to(site, target_is_directory=True)
        for name in ("python", "python3"):
            script = tools / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            script.chmod(0o755)
        changes = {
            "CARGO_TARGET_DIR": str(target),
            "PATH": _join(str(tools), os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)),
            "PYTHONPATH": _join(str(link), os.environ.get("PYTHONPATH", "")),
        }
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


def _join(*parts: str) -> str:
    return os.pathsep.join(part for part in parts if part)


Settings = Mapping[str, Any] | None


def build_wheel(directory: str, settings: Settings = None, metadata: str | None = None) -> str:
    import maturin

    with torch_environment():
        return str(maturin.build_wheel(directory, settings, metadata))


def build_editable(directory: str, settings: Settings = None, metadata: str | None = None) -> str:
    import maturin

    with torch_environment():
        return str(maturin.build_editable(directory, settings, metadata))


def build_sdist(directory: str, settings: Settings = None) -> str:
    import maturin

    return str(maturin.build_sdist(directory, settings))


def prepare_metadata_for_build_wheel(directory: str, settings: Settings = None) -> str:
    import maturin

    return str(maturin.prepare_metadata_for_build_wheel(directory, settings))


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def get_requires_for_build_wheel(settings: Settings = None) -> list[str]:
    import maturin

    return list(maturin.get_requires_for_build_wheel(settings))


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(settings: Settings = None) -> list[str]:
    return []


if __name__ == "__main__":
    with torch_environment():
        sys.exit(subprocess.run(sys.argv[1:] or ["cargo", "--version"]).returncode)
