"""koopflow: one-step, interpretable sampling of flow-matching models by Koopman operators."""

# torch comes before the extension: it loads the libtorch that the extension is linked against.
from koopflow._versions import check_torch, pinned_torch, show_versions

check_torch(pinned_torch())

from koopflow import (  # noqa: E402
    _core,
    analysis,
    baselines,
    datasets,
    distributed,
    energies,
    exceptions,
    forecasting,
    metrics,
    plotting,
    progress,
    steering,
    twins,
)

check_torch(_core.TORCH_VERSION)

from koopflow._autocast import autocast  # noqa: E402
from koopflow.compare import Comparison, compare  # noqa: E402
from koopflow.forecasting import KoopmanForecaster  # noqa: E402
from koopflow.options import Architecture, Objective, Training, Trajectories, UNet  # noqa: E402
from koopflow.spectrum import FlowSpectrum, LevelSpectrum, Spectrum  # noqa: E402
from koopflow.steering import Observation, TiltedSamples  # noqa: E402
from koopflow.students import (  # noqa: E402
    EvaluationReport,
    KoopmanDistiller,
    SegmentedDistiller,
    StudentDensity,
)
from koopflow.teachers import FlowTeacher, reflow  # noqa: E402
from koopflow.tensorboard import TensorBoardLogger  # noqa: E402

__version__ = _core.__version__

__all__ = [
    "Architecture",
    "Comparison",
    "EvaluationReport",
    "FlowSpectrum",
    "FlowTeacher",
    "KoopmanDistiller",
    "KoopmanForecaster",
    "LevelSpectrum",
    "Objective",
    "Observation",
    "SegmentedDistiller",
    "Spectrum",
    "StudentDensity",
    "TensorBoardLogger",
    "TiltedSamples",
    "Training",
    "Trajectories",
    "UNet",
    "__version__",
    "analysis",
    "autocast",
    "baselines",
    "compare",
    "datasets",
    "distributed",
    "energies",
    "exceptions",
    "forecasting",
    "metrics",
    "plotting",
    "progress",
    "reflow",
    "show_versions",
    "steering",
    "twins",
]
