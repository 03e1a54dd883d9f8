//! The input of the observables network for (t, x): the time, and the coordinates of x along the data's principal
//! axes, both raw and standardised by the mean and deviation of x_t along each axis at time t. On 64-D digits the
//! standardised half alone lowered the endpoint error from .45 to .32. The input of a U-Net is x as an image whose
//! channels are standardised in the same way.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::nets::Dual;
use crate::tensor::shared;

/// Floor of the deviations, so that axes without variance in the data (blank pixels) do not amplify noise.
const DEVIATION_FLOOR: f64 = 0.02;

/// Dimension up to which the principal axes are those of the full covariance. Its decomposition takes one second at
/// this size and 45 seconds in 3,072 dimensions, and cannot be interrupted.
const COVARIANCE_LIMIT: i64 = 1024;
/// Number of samples from which principal axes are computed in higher dimensions.
const AXES_ROWS: i64 = 256;
/// Maximum number of multiplications for the table of means and deviations, which take a few seconds. Fewer samples
/// are used if all of them would need more.
const TABLE_WORK: i64 = 40_000_000_000;
const LEAST_TABLE_ROWS: i64 = 64;

/// The map from (t `[B]`, x `[B, d]`) to network inputs `[B, 1 + 2 d]`.
#[derive(Debug)]
pub struct InputCoordinates {
    /// Mean of the data, `[d]`.
    center: Tensor,
    /// Principal axes of the data as columns, `[d, d]`; `None` for images, which are not rotated.
    axes: Option<Tensor>,
    /// Shape of one sample if samples are images, otherwise empty.
    event_shape: Vec<i64>,
    /// Inverse of the data's root-mean-square deviation, `[]`.
    scale: Tensor,
    /// Mean of x_t along each axis at `T` uniform times, `[T, d]`.
    means: Tensor,
    /// Deviation of x_t along each axis at the same times, `[T, d]`.
    deviations: Tensor,
    /// Means and deviations, and their increments over the following interval, `[T, 4 d]`, so that one lookup
    /// suffices.
    table: Tensor,
}

impl InputCoordinates {
    /// Tabulates the statistics of trajectories, `[N, T, d]` at `T` uniform times from 0 to 1.
    pub fn from_trajectories(states: &Tensor, kind: Kind, device: Device) -> Result<Self> {
        Self::from_samples(states.size()[1], |index| Ok(states.select(1, index)), kind, device)
    }

    /// Tabulates the statistics of samples `[N, d]` of x_t, which `at(index)` returns for each of `times` uniform
    /// times. The samples need not lie on trajectories.
    pub fn from_samples(
        times: i64,
        at: impl Fn(i64) -> Result<Tensor>,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let data = at(times - 1)?.to_kind(Kind::Double);
        let (count, dimension) = data.size2()?;
        let center = data.mean_dim(0, false, Kind::Double);
        let centered = &data - &center;
        let (axes, variance) = principal_axes(&centered)?;
        let scale = variance.f_sqrt()?.f_clamp_min(1e-12)?.f_reciprocal()?;
        let work = times * dimension * dimension;
        let rows = (TABLE_WORK / work.max(1)).max(LEAST_TABLE_ROWS).min(count);
        // In many dimensions float32 halves the time of the products and is precise enough for deviations.
        let exact = if dimension <= COVARIANCE_LIMIT { Kind::Double } else { Kind::Float };
        let along = axes.to_kind(exact);
        let rotated = |index: i64| {
            let x = at(index)?.narrow(0, 0, rows).to_kind(Kind::Double) - &center;
            Ok(x.to_kind(exact).f_matmul(&along)?.to_kind(Kind::Double))
        };
        let (means, deviations) = moments(times, rotated, &scale)?;
        Ok(Self::from_tensors(center, Some(axes), scale, (means, deviations), kind, device))
    }

    /// Tabulates the mean and deviation of each channel over its pixels, for images of `event_shape`.
    pub fn of_channels(
        event_shape: &[i64],
        times: i64,
        at: impl Fn(i64) -> Result<Tensor>,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let data = at(times - 1)?.to_kind(Kind::Double);
        let center = data.mean_dim(0, false, Kind::Double);
        let scale = data.std_dim(0, false, false).f_square()?.f_mean(Kind::Double)?.f_sqrt()?;
        let scale = scale.f_clamp_min(1e-12)?.f_reciprocal()?;
        let (channels, pixels) = (event_shape[0], event_shape[1..].iter().product::<i64>());
        // Rows [N pixels, C] at each time. The results are repeated over the pixels below.
        let rows = |index: i64| {
            let images = at(index)?.to_kind(Kind::Double).f_reshape([-1, channels, pixels])?;
            Ok(images.f_transpose(1, 2)?.f_reshape([-1, channels])?)
        };
        let (means, deviations) = moments(times, rows, &scale)?;
        let spread =
            |x: Tensor| x.unsqueeze(2).expand([-1, -1, pixels], false).reshape([times, channels * pixels]);
        let table = (spread(means), spread(deviations));
        let coordinates = Self::from_tensors(center, None, scale, table, kind, device);
        Ok(InputCoordinates { event_shape: event_shape.to_vec(), ..coordinates })
    }

    /// An untrained table, to be filled by [`Self::restore`].
    pub fn identity(dimension: i64, times: i64, kind: Kind, device: Device) -> Self {
        let options = (Kind::Double, Device::Cpu);
        let axes = Tensor::eye(dimension, options);
        let table = (Tensor::zeros([times, dimension], options), Tensor::ones([times, dimension], options));
        let (center, scale) = (Tensor::zeros([dimension], options), Tensor::ones([], options));
        Self::from_tensors(center, Some(axes), scale, table, kind, device)
    }

    /// [`Self::identity`] for images, as used by networks that were trained on unscaled images.
    pub fn identity_of_channels(event_shape: &[i64], times: i64, kind: Kind, device: Device) -> Self {
        let dimension = event_shape.iter().product();
        let coordinates = Self::identity(0, times, kind, device);
        let options = (kind, device);
        let (means, deviations) =
            (Tensor::zeros([times, dimension], options), Tensor::ones([times, dimension], options));
        InputCoordinates {
            center: Tensor::zeros([dimension], options),
            axes: None,
            table: table(&means, &deviations),
            means,
            deviations,
            event_shape: event_shape.to_vec(),
            ..coordinates
        }
    }

    fn from_tensors(
        center: Tensor,
        axes: Option<Tensor>,
        scale: Tensor,
        (means, deviations): (Tensor, Tensor),
        kind: Kind,
        device: Device,
    ) -> Self {
        let convert = |tensor: Tensor| tensor.to_kind(kind).to_device(device).contiguous();
        let (means, deviations) = (convert(means), convert(deviations));
        let table = table(&means, &deviations);
        let (center, axes, scale) = (convert(center), axes.map(convert), convert(scale));
        InputCoordinates { center, axes, scale, means, deviations, table, event_shape: Vec::new() }
    }

    pub fn size(&self) -> i64 {
        1 + 2 * self.center.size()[0]
    }

    /// Mean of the data, `[d]`.
    pub fn center(&self) -> &Tensor {
        &self.center
    }

    /// Root-mean-square deviation of the data, `[]`.
    pub fn deviation(&self) -> Tensor {
        self.scale.reciprocal()
    }

    /// The total standard deviation of the data: the square root of the sum of its variances.
    pub fn spread(&self) -> f64 {
        (self.center.numel() as f64).sqrt() / self.scale.double_value(&[])
    }

    /// Mean and deviation at each time, concatenated to `[B, 2 d]`, and their derivatives in t (0 outside [0, 1]).
    fn interpolate(&self, t: &Tensor) -> Dual {
        let intervals = self.means.size()[0] - 1;
        let position = t.clamp(0.0, 1.0) * intervals;
        let left = position.floor().clamp_max(intervals - 1);
        let weight = (&position - &left).unsqueeze(1);
        let columns = 2 * self.means.size()[1];
        let around = self.table.index_select(0, &left.to_kind(Kind::Int64));
        let (low, rise) = (around.narrow(1, 0, columns), around.narrow(1, columns, columns));
        let inside = t.ge(0.0).logical_and(&t.le(1.0)).to_kind(t.kind()).unsqueeze(1) * intervals;
        Dual::new(low.addcmul(&weight, &rise), rise * inside)
    }

    /// Mean and deviation at one time, concatenated to `[2 d]`.
    fn moments_at(&self, time: f64) -> Tensor {
        let intervals = self.means.size()[0] - 1;
        let position = time.clamp(0.0, 1.0) * intervals as f64;
        let left = position.floor().min((intervals - 1) as f64);
        let columns = 2 * self.means.size()[1];
        let around = self.table.get(left as i64);
        let low = around.narrow(0, 0, columns);
        match position - left {
            0.0 => low,
            weight => low + around.narrow(0, columns, columns) * weight,
        }
    }

    /// The coordinates of x along the data's principal axes.
    fn rotate(&self, x: &Tensor) -> Tensor {
        match &self.axes {
            Some(axes) => x.matmul(axes),
            None => x.shallow_clone(),
        }
    }

    /// x `[B, d]` as a standardised image `[B, C, H, W]`.
    pub fn image(&self, t: &Tensor, x: &Tensor) -> Tensor {
        let moments = self.interpolate(t).primal.chunk(2, 1);
        self.unflatten((x - &moments[0]) / &moments[1])
    }

    /// [`Self::image`] with its derivative along (t', x').
    pub fn image_with_tangent(&self, t: &Dual, x: &Dual) -> Dual {
        let standardised = self.standardise(t, &x.primal, &x.tangent);
        Dual::new(self.unflatten(standardised.primal), self.unflatten(standardised.tangent))
    }

    fn unflatten(&self, x: Tensor) -> Tensor {
        let mut shape = vec![x.size()[0]];
        shape.extend(&self.event_shape);
        x.reshape(shape)
    }

    /// (x - mean) / deviation at t, and its derivative.
    fn standardise(&self, t: &Dual, x: &Tensor, x_rate: &Tensor) -> Dual {
        let Dual { primal, tangent } = self.interpolate(&t.primal);
        let (moments, slopes) = (primal.chunk(2, 1), tangent.chunk(2, 1));
        let standardised = (x - &moments[0]) / &moments[1];
        let drift = (&slopes[0] + &standardised * &slopes[1]) * t.tangent.unsqueeze(1);
        Dual::new(standardised, (x_rate - drift) / &moments[1])
    }

    /// Network inputs for samples `[B, d]` at times `[B]`, or at one time `[1]` for all of them.
    pub fn forward(&self, t: &Tensor, x: &Tensor) -> Tensor {
        let rotated = self.rotate(&(x - &self.center));
        let moments = match t.size1() {
            Ok(1) if t.device() == Device::Cpu && !t.requires_grad() => self.moments_at(t.double_value(&[0])),
            _ => self.interpolate(t).primal,
        };
        let moments = moments.chunk(2, -1);
        let standardised = (&rotated - &moments[0]) / &moments[1];
        let time = t.expand([x.size()[0]], false).unsqueeze(1);
        Tensor::cat(&[time, rotated * &self.scale, standardised], 1)
    }

    /// [`Self::forward`] with its derivative along (t', x').
    pub fn forward_with_tangent(&self, t: &Dual, x: &Dual) -> Dual {
        let rotated = self.rotate(&(&x.primal - &self.center));
        let rotated_rate = self.rotate(&x.tangent);
        let standardised = self.standardise(t, &rotated, &rotated_rate);
        let (time, time_rate) = (t.primal.unsqueeze(1), t.tangent.unsqueeze(1));
        Dual::new(
            Tensor::cat(&[time, rotated * &self.scale, standardised.primal], 1),
            Tensor::cat(&[time_rate, rotated_rate * &self.scale, standardised.tangent], 1),
        )
    }

    fn entries(&self) -> Vec<(&'static str, &Tensor)> {
        let mut entries = vec![("coordinates.center", &self.center)];
        entries.extend(self.axes.as_ref().map(|axes| ("coordinates.axes", axes)));
        entries.extend([
            ("coordinates.scale", &self.scale),
            ("coordinates.means", &self.means),
            ("coordinates.deviations", &self.deviations),
        ]);
        entries
    }

    /// Copies of the tables for a file, with their names.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.entries().into_iter().map(|(name, tensor)| (name.to_string(), tensor.copy())).collect()
    }

    /// Overwrites the tables with tensors of the same names and shapes, taken from `take`.
    pub fn restore(&mut self, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        for (name, tensor) in self.entries() {
            let stored = take(name)?;
            if stored.size() != tensor.size() {
                use crate::tensor::shape_text;
                return Err(crate::Error::shape(
                    name,
                    shape_text(&tensor.size()),
                    shape_text(&stored.size()),
                ));
            }
            tensor.shallow_clone().f_copy_(&stored)?;
        }
        self.table = table(&self.means, &self.deviations);
        Ok(())
    }
}

shared!(InputCoordinates { center, axes, scale, means, deviations, table; event_shape });

/// Orthonormal axes `[d, d]` as columns, in ascending order of the variance of the centered rows `[N, d]` along them,
/// and the mean variance of the coordinates.
fn principal_axes(rows: &Tensor) -> Result<(Tensor, Tensor)> {
    let (count, dimension) = rows.size2()?;
    if dimension <= COVARIANCE_LIMIT {
        let covariance = rows.tr().f_matmul(rows)? / (count as f64);
        let variance = covariance.trace().f_div_scalar(dimension)?;
        return Ok((covariance.f_linalg_eigh("L")?.1, variance));
    }
    // The principal axes of the span of some rows, from the Gram matrix of these rows, completed to an orthonormal
    // basis.
    let some = rows.narrow(0, 0, count.min(AXES_ROWS));
    let (_, weights) = some.f_matmul(&some.tr())?.f_linalg_eigh("L")?;
    let falling = some.tr().f_matmul(&weights)?.f_flip([1])?;
    let (axes, _) = Tensor::f_linalg_qr(&falling, "complete")?;
    Ok((axes.f_flip([1])?, rows.square().mean(Kind::Double)))
}

/// The mean and the floored deviation of each column of `at(index)` at each time, both `[T, columns]`.
fn moments(times: i64, at: impl Fn(i64) -> Result<Tensor>, scale: &Tensor) -> Result<(Tensor, Tensor)> {
    let floor = DEVIATION_FLOOR / scale.double_value(&[]).max(1.0);
    let (mut means, mut deviations) = (Vec::new(), Vec::new());
    for index in 0..times {
        let rows = at(index)?;
        means.push(rows.mean_dim(0, false, Kind::Double));
        deviations.push(rows.std_dim(0, false, false).f_clamp_min(floor)?);
    }
    Ok((Tensor::f_stack(&means, 0)?, Tensor::f_stack(&deviations, 0)?))
}

/// Means, deviations, and their increments over the following interval, which are 0 in the last row.
fn table(means: &Tensor, deviations: &Tensor) -> Tensor {
    let levels = Tensor::cat(&[means, deviations], 1);
    let next = Tensor::cat(&[levels.narrow(0, 1, levels.size()[0] - 1), levels.narrow(0, -1, 1)], 0);
    Tensor::cat(&[&levels, &(next - &levels)], 1)
}
