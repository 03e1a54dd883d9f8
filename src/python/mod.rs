//! The Python bindings: only classes and conversions, no algorithms. Each class has its own file.

mod array;
mod baseline;
mod callable_field;
mod dlpack;
mod door;
mod errors;
mod feature_distance;
mod files;
mod flow_spectrum;
mod forecast;
mod handle;
mod json;
mod level_spectrum;
mod mean_shift;
mod metrics;
#[cfg(feature = "probe")]
mod probe;
mod segments;
mod snapshots;
mod solving;
mod source;
mod spectrum;
mod student;
mod tilt;
mod torch_state;
mod training;
mod velocity_field;
mod world;

use pyo3::prelude::*;

/// The torch version that this build is linked against (from build.rs).
const TORCH_VERSION: &str = env!("KOOPFLOW_TORCH_VERSION");

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    errors::install(module.py())?;
    door::install();
    torch_state::install();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("TORCH_VERSION", TORCH_VERSION)?;
    module.add_class::<velocity_field::PyVelocityField>()?;
    module.add_class::<source::PySource>()?;
    module.add_class::<student::PyStudent>()?;
    module.add_class::<segments::PySegments>()?;
    module.add_class::<baseline::PyBaseline>()?;
    module.add_class::<spectrum::PySpectrum>()?;
    module.add_class::<flow_spectrum::PyDisplacements>()?;
    module.add_class::<flow_spectrum::PyFlowSpectrum>()?;
    module.add_class::<forecast::PyObserved>()?;
    module.add_class::<forecast::PyForecaster>()?;
    module.add_function(wrap_pyfunction!(forecast::forecaster_defaults, module)?)?;
    module.add_class::<metrics::PyStatistic>()?;
    module.add_class::<tilt::PyPopulation>()?;
    module.add_class::<tilt::PyLaplace>()?;
    module.add_function(wrap_pyfunction!(tilt::step, module)?)?;
    module.add_function(wrap_pyfunction!(tilt::weighed, module)?)?;
    module.add_function(wrap_pyfunction!(tilt::systematic_resample, module)?)?;
    module.add_class::<level_spectrum::PyLevelSpectrum>()?;
    module.add_function(wrap_pyfunction!(files::describe_file, module)?)?;
    module.add_function(wrap_pyfunction!(files::_write_atomically, module)?)?;
    module.add_function(wrap_pyfunction!(student::student_defaults, module)?)?;
    module.add_function(wrap_pyfunction!(training::train_teacher, module)?)?;
    module.add_function(wrap_pyfunction!(snapshots::check_snapshots, module)?)?;
    module.add_function(wrap_pyfunction!(snapshots::train_on_snapshots, module)?)?;
    module.add_function(wrap_pyfunction!(training::teacher_defaults, module)?)?;
    module.add_function(wrap_pyfunction!(training::normal, module)?)?;
    module.add_function(wrap_pyfunction!(training::lower_precision, module)?)?;
    module.add_function(wrap_pyfunction!(mean_shift::mean_shift, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::path_geometry, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::sliced_wasserstein, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::energy_distance, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::wasserstein2, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::frechet_distance, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::mmd, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::median_bandwidths, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::precision_recall, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::total_std, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::endpoint_error, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::path_error, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::inversion_error, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::round_trip_error, module)?)?;
    module.add_function(wrap_pyfunction!(metrics::straightness, module)?)?;
    #[cfg(feature = "probe")]
    probe::add(module)?;
    // pyo3 also lists private names here. The Python package defines its own `__all__`.
    module.delattr("__all__")
}
