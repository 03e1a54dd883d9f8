//! The spectral generator: phi' = phi Λ with blocks [[a, b], [-b, a]] and [a], and
//! x' = b0 + t b1 + phi B. Every propagation is elementwise and exact, also at tau = 0:
//! x(t + tau) = x + b0 tau + b1 (t tau + tau²/2) + phi K(tau) B, K(tau) = Λ^{-1} (e^{tau Λ} - I).

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::koopman::{Basis, Blocks, Observables, Propagator, StudentConfig};
use crate::nets::Parameters;
use crate::tensor::{check_finite, shape_text, shared, RandomSource};

#[derive(Debug)]
pub struct SpectralGenerator {
    /// Λ.
    blocks: Blocks,
    /// B, `[k, d]`.
    readout: Tensor,
    /// b0 and b1, `[2, d]`.
    drift: Tensor,
}

impl SpectralGenerator {
    pub fn new(
        config: &StudentConfig,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (dimension, features) = (config.dimension(), config.observables);
        let options = (parameters.kind(), parameters.device());
        let blocks = Blocks::new("generator", features, config.pairs, parameters, random)?;
        let bound = 1.0 / (features as f64).sqrt();
        let readout = match config.basis {
            // Initially the pixels of the network's output are the rates of the image's pixels.
            Basis::UNet => Tensor::f_eye_m(features, dimension, options)?,
            _ => (random.uniform(&[features, dimension], options.0, options.1)? * 2.0 - 1.0) * bound,
        };
        Ok(SpectralGenerator {
            blocks,
            readout: parameters.add("generator.readout", readout),
            drift: parameters.add("generator.drift", Tensor::zeros([2, dimension], options)),
        })
    }

    pub fn options(&self) -> (Kind, Device) {
        (self.readout.kind(), self.readout.device())
    }

    /// Sets B, `[k, d]`, and (b0, b1), `[2, d]`.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NonFinite`] name `readout` or `drift`.
    pub fn set_readout(&self, readout: &Tensor, drift: &Tensor) -> Result<()> {
        let parts = [("readout", &self.readout, readout), ("drift", &self.drift, drift)];
        for (name, own, given) in parts {
            if given.size() != own.size() {
                return Err(Error::shape(name, shape_text(&own.size()), shape_text(&given.size())));
            }
            check_finite(name, given)?;
        }
        let _guard = tch::no_grad_guard();
        for (_, own, given) in parts {
            own.shallow_clone().f_copy_(given)?;
        }
        Ok(())
    }

    /// Growth rates `[p + r]` and frequencies `[p]` of the pairs, then the real eigenvalues; float64 on the CPU.
    pub fn rates(&self) -> (Tensor, Tensor) {
        let exact = self.in_double();
        (exact.blocks.growth(), exact.blocks.frequency().shallow_clone())
    }

    /// Λ by its parameters.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Growth rate of each feature, `[k]`, differentiable.
    pub fn growth_of_features(&self) -> Tensor {
        let (growth, pairs) = (self.blocks.growth(), self.blocks.pairs());
        Tensor::cat(&[growth.narrow(0, 0, pairs), growth], 0)
    }

    /// Contribution of each feature to dx/dt: `[k, d]`, differentiable.
    pub fn modes(&self) -> Tensor {
        self.readout.shallow_clone()
    }

    /// The same generator in float64 on the CPU, without gradients.
    fn in_double(&self) -> Self {
        let convert = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        SpectralGenerator {
            blocks: self.blocks.map(convert),
            readout: convert(&self.readout),
            drift: convert(&self.drift),
        }
    }

    pub fn rate(&self, g: &Observables) -> (Tensor, Tensor) {
        let drift = self.drift.select(0, 0) + g.t.unsqueeze(1) * self.drift.select(0, 1);
        (drift.addmm(&g.features, &self.readout), self.blocks.rate(&g.features))
    }

    /// phi K(tau), `[B, k]`, for features `[B, k]` and tau `[B]`: x(t + tau) is linear in the readout and the
    /// drift given these.
    pub fn integrated(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        self.blocks.integrated(features, tau)
    }

    pub fn propagate_state(&self, g: &Observables, tau: &Tensor) -> Tensor {
        let integrated = self.blocks.integrated(&g.features, tau);
        let tau = tau.expand_as(&g.t);
        let times = Tensor::stack(&[&tau, &(&tau * (&g.t + &tau * 0.5))], 1);
        g.x.addmm(&times, &self.drift).addmm(&integrated, &self.readout)
    }

    /// phi e^{tau Λ}, `[B, k]`.
    pub fn propagate_features(&self, features: &Tensor, tau: &Tensor) -> Tensor {
        self.blocks.propagate(features, tau)
    }

    pub fn propagate(&self, g: &Observables, tau: &Tensor) -> Observables {
        Observables {
            t: &g.t + tau,
            x: self.propagate_state(g, tau),
            features: self.propagate_features(&g.features, tau),
        }
    }

    /// The state's columns of exp(tau L) in float64 on the CPU.
    fn fold(&self, tau: f64) -> Result<Propagator> {
        let exact = self.in_double();
        let tau = Tensor::from_slice(&[tau]).unsqueeze(1);
        let features = exact.readout.size()[0];
        // `scale` acts on rows, so applying it to the identity gives K(tau).
        let identity = Tensor::eye(features, (Kind::Double, Device::Cpu));
        let folded = exact.blocks.scale(&identity, &exact.blocks.integrals(&tau)).f_matmul(&exact.readout)?;
        let (slow, fast) = (exact.drift.select(0, 0), exact.drift.select(0, 1));
        let tau = tau.reshape([1]);
        Ok(Propagator {
            constant: slow * &tau + &fast * (tau.square() * 0.5),
            time: fast * tau,
            state: None,
            features: folded,
        })
    }

    pub fn propagator(&self, tau: f64) -> Result<Propagator> {
        let (kind, device) = self.options();
        Ok(self.fold(tau)?.to_device_and_kind(device, kind))
    }

    /// exp(tau L), `[m, m]`, float64 on the CPU.
    pub fn exponential(&self, tau: f64) -> Result<Tensor> {
        let exact = self.in_double();
        let thin = self.fold(tau)?;
        let size = exact.readout.size();
        let (features, dimension) = (size[0], size[1]);
        let options = (Kind::Double, Device::Cpu);
        let step = Tensor::from_slice(&[tau]);
        let factors = exact.blocks.exponentials(&step.unsqueeze(1));
        let matrix = Tensor::f_eye(2 + dimension + features, options)?;
        matrix.narrow(0, 0, 1).narrow(1, 1, 1).f_copy_(&step)?;
        let state = matrix.narrow(1, 2, dimension);
        state.select(0, 0).f_copy_(&thin.constant)?;
        state.select(0, 1).f_copy_(&thin.time)?;
        state.narrow(0, 2 + dimension, features).f_copy_(&thin.features)?;
        let block = matrix.narrow(0, 2 + dimension, features).narrow(1, 2 + dimension, features);
        block.shallow_clone().f_copy_(&exact.blocks.scale(&Tensor::f_eye(features, options)?, &factors))?;
        Ok(matrix)
    }

    pub fn matrix(&self) -> Tensor {
        let exact = self.in_double();
        let size = exact.readout.size();
        let (features, dimension) = (size[0], size[1]);
        let m = 2 + dimension + features;
        let one = Tensor::from_slice(&[1.0]);
        let identity = Tensor::eye(features, (Kind::Double, Device::Cpu));
        let block = exact.blocks.rate(&identity);
        let matrix = Tensor::zeros([m, m], (Kind::Double, Device::Cpu));
        matrix.narrow(0, 0, 1).narrow(1, 1, 1).copy_(&one);
        matrix.narrow(0, 0, 2).narrow(1, 2, dimension).copy_(&exact.drift);
        matrix.narrow(0, 2 + dimension, features).narrow(1, 2, dimension).copy_(&exact.readout);
        matrix.narrow(0, 2 + dimension, features).narrow(1, 2 + dimension, features).copy_(&block);
        matrix
    }

    /// Eigenvalues `[m, 2]`: zero for the constant, time and state, then those of Λ.
    pub fn eigenvalues(&self) -> Tensor {
        let exact = self.in_double();
        let still = Tensor::zeros([2 + exact.readout.size()[1], 2], (Kind::Double, Device::Cpu));
        Tensor::cat(&[still, exact.blocks.eigenvalues()], 0)
    }
}

shared!(SpectralGenerator { blocks, readout, drift });
