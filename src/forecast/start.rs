//! The start of a fit: a forecaster with coordinates and a basis, whose evolution is not fitted yet.

use tch::{Device, Kind, Tensor};

use super::basis::polynomial_count;
use super::components::principal;
use super::model::{Coordinates, Facts, Sizes};
use super::moments::{standard_rows, windows};
use super::{Basis, BasisKind, Evolution, Forecaster, ForecasterConfig};
use crate::data::{Observed, Segment};
use crate::error::{Error, Result};
use crate::nets::Parameters;
use crate::tensor::RandomSource;

/// Maximum number of centres whose pairwise distances determine the median distance.
const DISTANCES: i64 = 500;
/// Maximum number of monomials.
const MOST_MONOMIALS: i64 = 8192;

/// The sizes of a forecaster for data of `event_shape`.
///
/// # Errors
/// [`Error::Argument`] naming `event_shape`, `components`, `degree` or `rank`.
pub fn sizes(config: &ForecasterConfig, data: &Observed, event_shape: &[i64]) -> Result<Sizes> {
    let mut sizes = Sizes {
        event_shape: event_shape.to_vec(),
        components: config.components,
        history: config.history,
        inputs: data.input_size(),
        conditions: data.condition_size(),
        psi: 0,
        rank: config.rank,
    };
    if sizes.event_size() != data.dimension() {
        let expected = format!("a shape of {} numbers", data.dimension());
        return Err(Error::argument("event_shape", expected, format!("{} numbers", sizes.event_size())));
    }
    if let Some(count) = sizes.components.filter(|count| *count > sizes.event_size()) {
        let expected = format!("at most {}, the size of a row", sizes.event_size());
        return Err(Error::argument("components", expected, count));
    }
    sizes.psi = match config.basis {
        BasisKind::Polynomial => polynomial_count(sizes.basis_inputs(), config.degree, MOST_MONOMIALS)?,
        _ => config.observables.unwrap_or_else(|| config.default_observables(data.rows())),
    };
    if let Some(rank) = sizes.rank.filter(|rank| *rank >= sizes.all()) {
        return Err(Error::argument(
            "rank",
            format!("at most {}, the number of observables without the constant", sizes.all() - 1),
            rank,
        ));
    }
    Ok(sizes)
}

/// A model of `sizes` whose state does not change.
///
/// # Errors
/// The errors of [`Observed::statistics`]; errors of libtorch.
pub fn start(
    config: &ForecasterConfig,
    sizes: &Sizes,
    data: &Observed,
    segments: &[Segment],
) -> Result<Forecaster> {
    let device = config.training.place()?.1;
    let statistics = data.statistics()?;
    let columns = [&statistics.mean, &statistics.scale, &statistics.low, &statistics.high];
    let random = RandomSource::new(config.training.seed);
    let coordinates = match sizes.components {
        Some(count) => principal(
            data,
            (&statistics.mean, &statistics.scale),
            count,
            device,
            &mut random.fork("principal components"),
        )?,
        None => Coordinates {
            table: Tensor::f_stack(&columns, 0)?.to_device(device),
            rows: Tensor::f_stack(&columns[..2], 0)?.to_device(device),
            frame: None,
            centre: None,
        },
    };
    let continuous = data.spacing().is_none();
    let facts = Facts {
        step: data.spacing().unwrap_or_else(|| data.typical_spacing()),
        re_encode: None,
        noise: config.noise.unwrap_or(0.0),
        continuous,
    };
    let mut parameters = Parameters::new(Kind::Double, device);
    let mut own = random.fork("forecaster basis");
    let basis = Basis::new(config, sizes.basis_inputs(), sizes.psi, &mut parameters, &mut own)?;
    let mut model = Forecaster {
        config: config.clone(),
        sizes: sizes.clone(),
        parameters,
        basis,
        coordinates,
        evolution: still(sizes, device)?,
        facts,
    };
    if config.basis == BasisKind::Kernel && sizes.psi > 0 {
        let centres = centres(&model, data, segments, &mut random.fork("kernel centres"))?;
        let (length, _) = config.lengths.unwrap_or((1.0, 1.0));
        let length = length * median_distance(&centres)?;
        model.parameters = Parameters::new(Kind::Double, device);
        model.basis = Basis::kernel(&centres, length, &mut model.parameters)?;
        model.sizes.psi = centres.size()[0];
        model.evolution = still(&model.sizes, device)?;
    }
    model.parameters.pack();
    Ok(model)
}

/// An evolution in which no observable changes.
fn still(sizes: &Sizes, device: Device) -> Result<Evolution> {
    let (m, d, options) = (sizes.all(), sizes.dimension(), (Kind::Double, device));
    Ok(Evolution {
        transition: Tensor::f_eye(m, options)?,
        finer: None,
        generator: None,
        drive: None,
        readout: slice(m, d, device)?,
        covariance: Tensor::f_zeros([m, m], options)?,
        gain: Tensor::f_eye(d, options)?,
        mean: Tensor::f_zeros([m], options)?,
        spread: Tensor::f_zeros([m, m], options)?,
        projection: None,
    })
}

/// The readout `[m, d]` of a state that is a slice of the observables.
pub fn slice(m: i64, d: i64, device: Device) -> Result<Tensor> {
    let readout = Tensor::f_zeros([m, d], (Kind::Double, device))?;
    readout.narrow(0, 1, d).f_copy_(&Tensor::f_eye(d, (Kind::Double, device))?)?;
    Ok(readout)
}

/// Distinct random stacks of the data with their conditions, `[k, inputs]`.
fn centres(
    model: &Forecaster,
    data: &Observed,
    segments: &[Segment],
    random: &mut RandomSource,
) -> Result<Tensor> {
    let history = model.sizes.history as usize;
    let places: Vec<(usize, usize)> = match segments.is_empty() {
        false => segments
            .iter()
            .flat_map(|part| (part.first..=part.first + part.length - history).map(|row| (part.path, row)))
            .collect(),
        true => {
            (0..data.rows()).filter(|row| data.seen_whole(*row)).map(|row| (data.path_of(row), row)).collect()
        }
    };
    let order: Vec<i64> = Vec::try_from(&random.permutation(places.len() as i64, Device::Cpu))?;
    let found = order.iter().take(model.sizes.psi as usize).map(|place| {
        let (path, row) = places[*place as usize];
        let stack = windows(model, &standard_rows(model, data, row..row + history))?;
        let condition = data.condition(path).map(|c| c.to_device(model.device()).unsqueeze(0));
        Ok(match condition {
            Some(condition) => Tensor::f_cat(&[stack, condition], 1)?,
            None => stack,
        })
    });
    let all = Tensor::f_cat(&found.collect::<Result<Vec<_>>>()?, 0)?;
    Ok(all.f_unique_dim(0, true, false, false)?.0)
}

fn median_distance(centres: &Tensor) -> Result<f64> {
    let few = centres.narrow(0, 0, centres.size()[0].min(DISTANCES));
    let distances = few.f_pdist(2.0)?;
    match distances.numel() {
        0 => Ok(1.0),
        _ => Ok(distances.median().double_value(&[]).max(1e-6)),
    }
}
