"""Check of the torch version that koopflow was built for, and the versions that a bug report needs."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import torch


def check_torch(built: str | None) -> None:
    """Raise ImportError unless torch has the version that the extension was built for.

    libtorch's C++ interface changes with every release, so another version crashes or fails to load.
    """
    found = torch.__version__.split("+")[0]
    if built is None or found == built:
        return
    install = f"{sys.executable} -m pip install"
    raise ImportError(
        f"koopflow was built for torch {built}, but torch {torch.__version__} is installed. "
        f"Install the matching torch with: {install} 'torch=={built}'; "
        f"or the matching koopflow, from a folder of wheels with: {install} koopflow 'torch=={found}' "
        f"--find-links FOLDER, or in a checkout with: KOOPFLOW_TORCH={found} {install} ."
    )


def pinned_torch() -> str | None:
    """The torch version that the installed package requires, or None in a checkout that is not installed.

    It is known before the extension is loaded; afterwards ``_core.TORCH_VERSION`` gives the version.
    """
    try:
        requirements = importlib.metadata.requires("koopflow") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    pins = (each.removeprefix("torch==") for each in requirements if each.startswith("torch=="))
    return next(pins, None)


def show_versions() -> None:
    """Print the versions and devices that a bug report needs."""
    from koopflow import __version__, _core

    rows = {
        "koopflow": __version__,
        "built for torch": _core.TORCH_VERSION,
        "torch": torch.__version__,
        "torch threads": str(torch.get_num_threads()),
        "CUDA": torch.version.cuda or "none",
        "GPUs": ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none",
        "python": sys.version.replace("\n", " "),
        "platform": platform.platform(),
    }
    for name in ("numpy", "scikit-learn", "matplotlib", "tqdm"):
        try:
            rows[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = "not installed"
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:>{width}}: {value}")
