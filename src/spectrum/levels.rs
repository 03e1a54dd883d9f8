//! The spectrum of a hierarchical student: eigenvalues and eigenfunctions of the feature maps of every level.

use tch::{Kind, Tensor};

use super::facts::check_teacher;
use crate::error::{Error, Result};
use crate::koopman::{exponential_integral, Direction, FeatureMap, Generator, LevelGenerator, Student};
use crate::monitor::Monitor;
use crate::ode::{self, Chunks, SolveOptions};
use crate::tensor::exact;
use crate::velocity::VelocityField;

/// One feature map's eigenvalues; float64 on the CPU.
pub struct MapSpectrum {
    /// The map's size and its number among the encoder's maps of that size, such as `"8x8, 1"`, or
    /// `"middle"`.
    pub name: String,
    pub map: FeatureMap,
    /// Number of pixels that share eigenvalues.
    pub shared: i64,
    /// Number of complex pairs.
    pub pairs: i64,
    /// One of each conjugate pair, then the real ones: complex `[r]`.
    pub eigenvalues: Tensor,
    /// Mean square over noise, summed over pixels, of the change of the eigenfunctions from noise to data, as
    /// a share of the sum over all maps: `[r]`.
    pub energy: Tensor,
    /// Standard deviation over noise of psi(0, x0), for all pixels together: `[r]`.
    pub spread: Tensor,
    /// Mean over noise of psi(0, x0): complex `[r, shared]`.
    pub mean: Tensor,
    /// RMS distance of the eigenfunctions at the teacher's endpoints from e^lambda psi(0, x0), divided by
    /// their standard deviation there: `[r]`; `None` without a teacher.
    pub residual: Option<Tensor>,
}

impl MapSpectrum {
    fn shallow_clone(&self) -> MapSpectrum {
        MapSpectrum {
            name: self.name.clone(),
            eigenvalues: self.eigenvalues.shallow_clone(),
            energy: self.energy.shallow_clone(),
            spread: self.spread.shallow_clone(),
            mean: self.mean.shallow_clone(),
            residual: self.residual.as_ref().map(Tensor::shallow_clone),
            ..*self
        }
    }
}

/// Measurements of one map, which are fields of [`MapSpectrum`].
pub struct MeasuredMap {
    pub energy: Tensor,
    pub spread: Tensor,
    pub mean: Tensor,
    pub residual: Option<Tensor>,
}

/// The spectra of a hierarchy's feature maps, from full resolution down to the middle.
pub struct LevelSpectrum {
    pub maps: Vec<MapSpectrum>,
}

impl LevelSpectrum {
    /// A shallow copy, which shares the tensors.
    pub fn shallow_clone(&self) -> LevelSpectrum {
        LevelSpectrum { maps: self.maps.iter().map(MapSpectrum::shallow_clone).collect() }
    }

    /// The spectrum from earlier measurements of the same student.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `student` if it is not a hierarchy, or `maps` if they belong to another
    /// hierarchy.
    pub fn known(student: &Student, measured: Vec<MeasuredMap>) -> Result<LevelSpectrum> {
        let mut maps = layout(student)?;
        let fits = |(map, own): (&MapSpectrum, &MeasuredMap)| {
            [&own.energy, &own.spread].iter().all(|of| of.size() == map.eigenvalues.size())
                && own.mean.size() == map.mean.size()
        };
        if maps.len() != measured.len() || !maps.iter().zip(&measured).all(fits) {
            return Err(Error::argument(
                "maps",
                "those of this student",
                format!("{} maps of another student", measured.len()),
            ));
        }
        for (map, MeasuredMap { energy, spread, mean, residual }) in maps.iter_mut().zip(measured) {
            (map.energy, map.spread, map.mean, map.residual) = (energy, spread, mean, residual);
        }
        Ok(LevelSpectrum { maps })
    }

    /// Measures energies, means and standard deviations over the noise `[B, *event]`, and residuals at the
    /// teacher's endpoints for it.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `student` if it is not a hierarchy; [`Error::Shape`] naming `teacher` if
    /// its events have another shape; any error of the student, the teacher's solver or the monitor.
    pub fn measure(
        student: &Student,
        noise: &Tensor,
        condition: Option<&Tensor>,
        teacher: Option<&dyn VelocityField>,
        monitor: &mut dyn Monitor,
    ) -> Result<LevelSpectrum> {
        let _guard = tch::no_grad_guard();
        let mut maps = layout(student)?;
        let encode = |t: f64, x: &Tensor| student.encode(&Tensor::from(t), x, Direction::Forward, condition);
        let start = split(&encode(0.0, noise)?, &maps)?;
        let mut total = 0.0;
        for (map, psi) in maps.iter_mut().zip(&start) {
            // |e^lambda - 1|² without cancellation.
            let change =
                (exponential_integral(&map.eigenvalues, 1.0)? * &map.eigenvalues).f_abs()?.f_square()?;
            let power = psi.f_abs()?.f_square()?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
            map.energy = power.f_sum_dim_intlist(1, false, Kind::Double)? * change;
            total += map.energy.f_sum(Kind::Double)?.double_value(&[]);
            map.mean = psi.f_mean_dim([0i64].as_slice(), false, None::<Kind>)?;
            map.spread = mean_square(&(psi - &map.mean))?.f_sqrt()?;
        }
        for map in &mut maps {
            map.energy = &map.energy / total.max(1e-300);
        }
        if let Some(teacher) = teacher {
            check_teacher(student, teacher)?;
            let (options, chunks) = (SolveOptions::default(), Chunks::new("sample"));
            let solved =
                ode::solve_chunked(teacher, noise, &[0.0, 1.0], &options, condition, chunks, monitor)?;
            let ends = split(&encode(1.0, &solved.trajectory.select(0, 1))?, &maps)?;
            for ((map, before), after) in maps.iter_mut().zip(&start).zip(&ends) {
                let expected = before * map.eigenvalues.f_exp()?.unsqueeze(1);
                map.residual = Some(gap(after, &expected)?);
            }
        }
        Ok(LevelSpectrum { maps })
    }

    /// Number of eigenfunctions of all maps together, R.
    pub fn count(&self) -> i64 {
        self.maps.iter().map(|map| map.eigenvalues.size()[0]).sum()
    }

    /// Splits values for all eigenfunctions, `[.., R]`, into those of each map, `[.., r]`.
    pub(super) fn by_map(&self, values: &Tensor) -> Result<Vec<Tensor>> {
        let counts: Vec<i64> = self.maps.iter().map(|map| map.eigenvalues.size()[0]).collect();
        Ok(values.f_split_with_sizes(&counts, -1)?)
    }

    /// Means of the eigenfunctions over noise at `time`, as features: `[k]`.
    pub(super) fn mean_features(&self, time: f64) -> Result<Tensor> {
        let carried = |map: &MapSpectrum| Ok(&map.mean * (&map.eigenvalues * time).f_exp()?.unsqueeze(1));
        join(&self.maps.iter().map(carried).collect::<Result<Vec<_>>>()?, &self.maps)
    }

    /// Propagates values of eigenfunctions that all pixels share, complex `[.., R]`, by `tau`, and returns
    /// them as features: `[.., k]`.
    pub(super) fn carried_features(&self, values: &Tensor, tau: f64) -> Result<Tensor> {
        let spread = |(values, map): (&Tensor, &MapSpectrum)| {
            let carried = (values * (&map.eigenvalues * tau).f_exp()?).f_unsqueeze(-1)?;
            let mut shape = carried.size();
            *shape.last_mut().unwrap_or(&mut 1) = map.shared;
            Ok(carried.f_expand(shape, false)?)
        };
        let each = self.by_map(values)?;
        join(&each.iter().zip(&self.maps).map(spread).collect::<Result<Vec<_>>>()?, &self.maps)
    }

    /// psi(t, x) of one map: complex `[B, r, height, width]`, or `[B, r]` if every pixel has eigenvalues of
    /// its own.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `index`; any error of the student.
    pub fn eigenfunctions(
        &self,
        student: &Student,
        t: &Tensor,
        x: &Tensor,
        condition: Option<&Tensor>,
        index: usize,
    ) -> Result<Tensor> {
        let Some(map) = self.maps.get(index) else {
            return Err(Error::argument("index", format!("one of {} feature maps", self.maps.len()), index));
        };
        let g = student.encode(t, x, Direction::Forward, condition)?;
        let psi = split(&g, &self.maps)?.swap_remove(index);
        let (batch, features) = (psi.size()[0], psi.size()[1]);
        Ok(match map.shared {
            1 => psi.f_squeeze_dim(2)?,
            _ => psi.f_reshape([batch, features, map.map.height, map.map.width])?,
        })
    }
}

/// All maps with their eigenvalues, without measurements.
fn layout(student: &Student) -> Result<Vec<MapSpectrum>> {
    let Generator::Levels(generator) = student.generator() else {
        return Err(Error::argument("student", "a hierarchy of feature maps", "a student without"));
    };
    let maps = student.config().feature_maps();
    let mut named: Vec<MapSpectrum> = Vec::with_capacity(maps.len());
    let values = eigenvalues(generator)?;
    for (index, ((map, (blocks, shared)), eigenvalues)) in
        maps.iter().zip(generator.blocks().maps()).zip(values).enumerate()
    {
        let alike = |other: &&MapSpectrum| (other.map.height, other.map.width) == (map.height, map.width);
        let name = match index + 1 == maps.len() {
            true => "middle".to_string(),
            false => format!("{}x{}, {}", map.height, map.width, named.iter().filter(alike).count() + 1),
        };
        let none = eigenvalues.f_real()?.f_zeros_like()?;
        named.push(MapSpectrum {
            name,
            map: *map,
            shared,
            pairs: blocks.pairs(),
            mean: eigenvalues.f_zeros_like()?.f_unsqueeze(1)?.f_repeat([1, shared])?,
            eigenvalues,
            energy: none.shallow_clone(),
            spread: none,
            residual: None,
        });
    }
    Ok(named)
}

/// Eigenvalues of each map: one of each pair, then the real ones. The generator lists two zeros, and then the
/// eigenvalues of each map as often as pixels share them, with pairs adjacent.
fn eigenvalues(generator: &LevelGenerator) -> Result<Vec<Tensor>> {
    let all = generator.eigenvalues().f_contiguous()?.f_view_as_complex()?;
    let mut place = 2;
    generator
        .blocks()
        .maps()
        .map(|(blocks, shared)| {
            let (features, both) = (blocks.features(), 2 * blocks.pairs());
            let own = all.narrow(0, place, features);
            place += features * shared;
            Ok(Tensor::f_cat(&[own.slice(0, 0, both, 2), own.narrow(0, both, features - both)], 0)?)
        })
        .collect()
}

/// Splits observables `[B, m]` into the eigenfunctions of each map, complex `[B, r, shared pixels]`. A map
/// holds [real parts, imaginary parts, real features], with its pixels innermost.
fn split(g: &Tensor, maps: &[MapSpectrum]) -> Result<Vec<Tensor>> {
    let (batch, mut place) = (g.size()[0], 2);
    maps.iter()
        .map(|map| {
            let (size, pairs) = (map.map.size(), map.pairs);
            let rows = exact(&g.narrow(1, place, size)).f_reshape([batch, size / map.shared, map.shared])?;
            place += size;
            let rest = rows.narrow(1, 2 * pairs, rows.size()[1] - 2 * pairs);
            let real = Tensor::f_cat(&[&rows.narrow(1, 0, pairs), &rest], 1)?;
            let imaginary = Tensor::f_cat(&[rows.narrow(1, pairs, pairs), rest.zeros_like()], 1)?;
            Ok(Tensor::f_complex(&real, &imaginary)?)
        })
        .collect()
}

/// The features, real `[.., k]`, of the eigenfunctions of each map, complex `[.., r, shared pixels]`. The
/// inverse of [`split`].
fn join(psi: &[Tensor], maps: &[MapSpectrum]) -> Result<Tensor> {
    let parts = psi.iter().zip(maps).map(|(psi, map)| {
        let (re, im) = (psi.f_real()?, psi.f_imag()?.f_narrow(-2, 0, map.pairs)?);
        let pairs = re.f_narrow(-2, 0, map.pairs)?;
        let rest = re.f_narrow(-2, map.pairs, re.size()[re.dim() - 2] - map.pairs)?;
        Ok(Tensor::f_cat(&[pairs, im, rest], -2)?.f_flatten(-2, -1)?)
    });
    Ok(Tensor::f_cat(&parts.collect::<Result<Vec<_>>>()?, -1)?)
}

/// Mean square of complex `[B, r, pixels]` over samples and pixels: `[r]`.
fn mean_square(psi: &Tensor) -> Result<Tensor> {
    Ok(psi.f_abs()?.f_square()?.f_mean_dim([0i64, 2].as_slice(), false, Kind::Double)?)
}

/// RMS of the difference, divided by the standard deviation of `found`, for each eigenfunction: `[r]`.
fn gap(found: &Tensor, expected: &Tensor) -> Result<Tensor> {
    let centre = found.f_mean_dim([0i64].as_slice(), true, None::<Kind>)?;
    Ok((mean_square(&(found - expected))? / mean_square(&(found - centre))?.clamp_min(1e-300)).sqrt())
}
