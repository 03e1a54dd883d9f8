"""Plots of samples, paths, images, training and spectra.

Every function draws on the matplotlib axes ``ax`` (``axes`` for several panels), by default on those of a new
figure, with the text ``title`` above, and returns the axes. A ``spectrum`` may be a selection of one. The
functions do not show figures: use ``ax.figure.savefig(...)`` or a notebook. Outside notebooks no figure is
registered with pyplot, so none has to be closed.
"""

from ._canvas import COLOURS, new_figure
from .blueprint import blueprint, build_up, flow_groups
from .classes import embedding, signatures
from .flow import flow_agreement, flow_amplitudes, flow_energy, flow_profiles, flow_rates
from .images import edit_strip, image_grid, inversion_strip, save_image_grid
from .levels import level_build_up
from .modes import eigenfunctions, mode_energy, modes, truncation
from .populations import population
from .samples import loss_history, paths, samples, side_by_side
from .sequence_modes import sequence_eigenvalues
from .sequences import forecast_errors, forecast_fan, smoothed
from .spectra import eigenvalues, generator, level_eigenvalues, spectrum
from .weights import weights

__all__ = [
    "COLOURS",
    "blueprint",
    "build_up",
    "edit_strip",
    "eigenfunctions",
    "eigenvalues",
    "embedding",
    "flow_agreement",
    "flow_amplitudes",
    "flow_energy",
    "flow_groups",
    "flow_profiles",
    "flow_rates",
    "forecast_errors",
    "forecast_fan",
    "generator",
    "image_grid",
    "inversion_strip",
    "level_build_up",
    "level_eigenvalues",
    "loss_history",
    "mode_energy",
    "modes",
    "new_figure",
    "paths",
    "population",
    "samples",
    "save_image_grid",
    "sequence_eigenvalues",
    "side_by_side",
    "signatures",
    "smoothed",
    "spectrum",
    "truncation",
    "weights",
]
