"""The torch versions that koopflow can be built against, and the choice of the version for a build.

A build uses the torch version in ``KOOPFLOW_TORCH``. Without it, an isolated build uses the newest version in
the table, and any other build the installed torch.

``python build_backend/torch_versions.py`` prints the table, one version per line.
"""

from __future__ import annotations

import importlib.metadata
import os

#: The newest patch of each release, oldest first.
SUPPORTED = ("2.11.0", "2.12.1", "2.13.0", "2.14.1", "2.15.0")

#: The version that torch-sys was generated for, which needs no bypass, wrapped compiler or stand-ins.
NATIVE = "2.11.0"


def chosen() -> str:
    """The version that an isolated build installs."""
    return _supported(os.environ.get("KOOPFLOW_TORCH") or SUPPORTED[-1])


def installed() -> str:
    """The public version (without ``+cu130``) of this environment's torch, which the build uses."""
    try:
        version = importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(
            f"koopflow is built against torch, which is not installed here: pip install 'torch=={chosen()}'"
        ) from None
    wanted = os.environ.get("KOOPFLOW_TORCH")
    if wanted and _supported(wanted) != version:
        raise SystemExit(
            f"KOOPFLOW_TORCH asks for torch {wanted}, but this environment has torch {version}: install that "
            "torch, or unset KOOPFLOW_TORCH"
        )
    return _supported(version)


def _supported(version: str) -> str:
    if version not in SUPPORTED:
        raise SystemExit(f"koopflow cannot be built for torch {version}; it can for {', '.join(SUPPORTED)}")
    return version


if __name__ == "__main__":
    print(*SUPPORTED, sep="\n")
