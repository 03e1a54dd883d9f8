//! Sampling from a student in closed form, and what builds on it: paths, edits, inversion to noise,
//! derivatives of the one-step map, densities, and weighted samples (`tilt/`).

mod anderson;
mod chunks;
mod denoise;
mod density;
mod edit;
mod follows;
mod invert;
mod lanczos;
mod map;
mod sample;
mod segments;
pub mod tilt;

pub use denoise::denoise;
pub use density::{
    pull_back, sample_with_density, student_density, Determinant, StudentDensity, StudentDensityOptions,
};
pub use edit::{edit, Source};
pub use follows::{consistency_residual, phase_error};
pub use invert::{invert_from, invert_polished, Inversion, Polish};
pub use lanczos::log_quadratic_form;
pub use map::{SampleMap, JACOBIAN_LIMIT};
pub use sample::{invert, sample, sample_count, sample_maps, sample_modes, sample_path};
pub use segments::{
    invert_segments, invert_segments_polished, path_of_segments, sample_segments, starts_of_segments,
};
