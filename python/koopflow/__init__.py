"""koopflow: one-step, interpretable sampling of flow-matching models by Koopman operators."""

# torch comes before the extension: it loads the libtorch that the extension is linked against.
from koopflow._versions import PINNED_TORCH, check_torch, show_versions

check_torch(PINNED_TORCH)

from koopflow import _core, exceptions  # noqa: E402

check_torch(_core.TORCH_VERSION)

__version__ = _core.__version__

__all__ = ["__version__", "exceptions", "show_versions"]
