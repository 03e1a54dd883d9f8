//! Eigenvectors of a generator. Those of a dense one are tables. Those of a spectral one are kept as blocks,
//! since their tables would be almost all zeros.

use tch::{Device, Kind, Tensor};

use crate::error::Result;

const REAL: (Kind, Device) = (Kind::Double, Device::Cpu);
const COMPLEX: (Kind, Device) = (Kind::ComplexDouble, Device::Cpu);

/// A real tensor as a complex one.
pub(super) fn complex(real: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_complex(real, &real.f_zeros_like()?)?)
}

/// Right eigenvectors W, with psi = g W, and left ones Q, with Q W = I, of r eigenvalues λ; m observables.
pub(super) enum Vectors {
    Tables {
        /// W, complex `[m, r]`.
        weights: Tensor,
        /// Q, complex `[r, m]`.
        rows: Tensor,
        /// Λ Q, complex `[r, m]`.
        rates: Tensor,
    },
    Blocks(Blocks),
}

/// Eigenvectors of a spectral generator. Its features are laid out as [real parts (p), imaginary parts (p),
/// real ones], and the eigenfunctions of a pair are psi = re ± i im.
pub(super) struct Blocks {
    /// 1 or -1: psi = re + sign i im has the positive frequency, `[p]`.
    pub sign: Tensor,
    /// B of x' = ... + phi B, `[k, d]`.
    pub readout: Tensor,
}

impl Blocks {
    fn pairs(&self) -> i64 {
        self.sign.size()[0]
    }

    fn features(&self) -> i64 {
        self.readout.size()[0]
    }

    /// The parts of the last dimension: real parts, imaginary parts, and real features.
    fn parts(&self, features: &Tensor) -> [Tensor; 3] {
        let (pairs, all) = (self.pairs(), self.features());
        [(0, pairs), (pairs, pairs), (2 * pairs, all - 2 * pairs)]
            .map(|(start, length)| features.narrow(-1, start, length))
    }

    /// From real features `[.., k]` to complex `[.., k]`: re ± i im of each pair next to each other, then the
    /// real ones.
    fn couple(&self, features: &Tensor) -> Result<Tensor> {
        let [re, im, rest] = self.parts(features);
        let im = im * &self.sign;
        let one = Tensor::f_complex(&re.contiguous(), &im)?;
        let other = Tensor::f_complex(&re.contiguous(), &im.neg())?;
        let mut shape = one.size();
        let last = shape.len() - 1;
        shape[last] *= 2;
        let couples = Tensor::f_stack(&[one, other], -1)?.f_reshape(shape)?;
        Ok(Tensor::f_cat(&[couples, complex(&rest.contiguous())?], -1)?)
    }

    /// Re(a Q) for the features: from complex amplitudes `[.., k]` to real `[.., k]`. The rows of a pair are
    /// (re ∓ i im)/2.
    fn fold(&self, amplitudes: &Tensor) -> Result<Tensor> {
        let (pairs, rest) = (2 * self.pairs(), self.features() - 2 * self.pairs());
        let couples = amplitudes.narrow(-1, 0, pairs);
        let each = |start: i64| couples.slice(-1, start, pairs, 2);
        let (one, other) = (each(0), each(1));
        let re = (one.f_real()? + other.f_real()?) * 0.5;
        let im = (one.f_imag()? - other.f_imag()?) * &self.sign * 0.5;
        Ok(Tensor::f_cat(&[re, im, amplitudes.narrow(-1, pairs, rest).f_real()?], -1)?)
    }

    /// The columns of Q for the features, complex `[k, k]`.
    fn dual(&self) -> Result<Tensor> {
        let halves = Tensor::f_ones([self.features()], REAL)?;
        let _ = halves.narrow(0, 0, 2 * self.pairs()).f_fill_(0.5)?;
        let columns = self.couple(&Tensor::f_eye(self.features(), REAL)?)?;
        Ok(columns.f_transpose(0, 1)?.f_conj()?.f_resolve_conj()? * halves.unsqueeze(1))
    }

    /// The columns of Λ Q for the state, complex `[k, d]`.
    fn state_rates(&self) -> Result<Tensor> {
        let halves = Tensor::f_ones([self.features()], REAL)?;
        let _ = halves.narrow(0, 0, 2 * self.pairs()).f_fill_(0.5)?;
        let coupled = self.couple(&self.readout.f_transpose(0, 1)?)?;
        Ok(coupled.f_transpose(0, 1)?.f_conj()?.f_resolve_conj()? * halves.unsqueeze(1))
    }
}

impl Vectors {
    /// psi = g W, from real observables `[B, m]` to complex `[B, r]`.
    pub fn read(&self, g: &Tensor) -> Result<Tensor> {
        match self {
            Vectors::Tables { weights, .. } => product(g, weights),
            Vectors::Blocks(blocks) => {
                let features = blocks.features();
                blocks.couple(&g.narrow(1, g.size()[1] - features, features))
            }
        }
    }

    /// As [`Vectors::read`], for the eigenfunctions at `places` only.
    pub fn read_some(&self, g: &Tensor, places: &[i64]) -> Result<Tensor> {
        let places = Tensor::from_slice(places);
        match self {
            Vectors::Tables { weights, .. } => product(g, &weights.f_index_select(1, &places)?),
            Vectors::Blocks(_) => Ok(self.read(g)?.f_index_select(1, &places)?),
        }
    }

    /// Re(a Λ Q): the contribution of amplitudes, complex `[.., r]`, to dg/dt, real `[.., m]`.
    pub fn write(&self, amplitudes: &Tensor, eigenvalues: &Tensor) -> Result<Tensor> {
        match self {
            Vectors::Tables { rates, .. } => real_product(amplitudes, rates),
            Vectors::Blocks(blocks) => {
                let state = blocks.fold(amplitudes)?.f_matmul(&blocks.readout)?;
                let features = blocks.fold(&(amplitudes * eigenvalues))?;
                let mut head = features.size();
                *head.last_mut().unwrap_or(&mut 0) = 2;
                Ok(Tensor::f_cat(&[Tensor::f_zeros(head, REAL)?, state, features], -1)?)
            }
        }
    }

    /// Re(W diag(factors) Λ Q), real `[m, m]`, for complex factors `[r]`. Factors that are 0 cost nothing.
    pub fn motion(&self, factors: &Tensor, eigenvalues: &Tensor) -> Result<Tensor> {
        match self {
            Vectors::Tables { weights, rates, .. } => {
                let used = factors.f_abs()?.f_gt(0.0)?.f_nonzero()?.f_reshape([-1])?;
                let scaled = weights.f_index_select(1, &used)? * factors.f_index_select(0, &used)?;
                real_product(&scaled, &rates.f_index_select(0, &used)?)
            }
            Vectors::Blocks(_) => self.write(&(self.weights()? * factors), eigenvalues),
        }
    }

    /// W, complex `[m, r]`.
    pub fn weights(&self) -> Result<Tensor> {
        match self {
            Vectors::Tables { weights, .. } => Ok(weights.shallow_clone()),
            Vectors::Blocks(blocks) => {
                let (features, dimension) = (blocks.features(), blocks.readout.size()[1]);
                let above = Tensor::f_zeros([2 + dimension, features], COMPLEX)?;
                Ok(Tensor::f_cat(&[above, blocks.couple(&Tensor::f_eye(features, REAL)?)?], 0)?)
            }
        }
    }

    /// Q, complex `[r, m]`. For blocks, the columns for the state are those of Λ Q times `inverse`, which is
    /// 1/λ, or 0 where λ vanishes.
    pub fn rows(&self, inverse: &Tensor) -> Result<Tensor> {
        match self {
            Vectors::Tables { rows, .. } => Ok(rows.shallow_clone()),
            Vectors::Blocks(blocks) => {
                let head = Tensor::f_zeros([blocks.features(), 2], COMPLEX)?;
                let state = blocks.state_rates()? * inverse.unsqueeze(1);
                Ok(Tensor::f_cat(&[head, state, blocks.dual()?], 1)?)
            }
        }
    }

    /// Λ Q, complex `[r, m]`.
    pub fn rates(&self, eigenvalues: &Tensor) -> Result<Tensor> {
        match self {
            Vectors::Tables { rates, .. } => Ok(rates.shallow_clone()),
            Vectors::Blocks(blocks) => {
                let head = Tensor::f_zeros([blocks.features(), 2], COMPLEX)?;
                let features = blocks.dual()? * eigenvalues.unsqueeze(1);
                Ok(Tensor::f_cat(&[head, blocks.state_rates()?, features], 1)?)
            }
        }
    }

    /// The `dimension` columns of Λ Q for the state, complex `[r, d]`.
    pub fn state_rates(&self, dimension: i64) -> Result<Tensor> {
        match self {
            Vectors::Tables { rates, .. } => Ok(rates.narrow(1, 2, dimension)),
            Vectors::Blocks(blocks) => blocks.state_rates(),
        }
    }

    /// The columns of Q for the state, complex `[r, d]`; `inverse` as for [`Self::rows`].
    pub fn state_rows(&self, dimension: i64, inverse: &Tensor) -> Result<Tensor> {
        match self {
            Vectors::Tables { rows, .. } => Ok(rows.narrow(1, 2, dimension)),
            Vectors::Blocks(blocks) => Ok(blocks.state_rates()? * inverse.unsqueeze(1)),
        }
    }

    /// m, the number of observables.
    pub fn observables(&self) -> i64 {
        match self {
            Vectors::Tables { weights, .. } => weights.size()[0],
            Vectors::Blocks(blocks) => 2 + blocks.readout.size()[1] + blocks.features(),
        }
    }

    /// ||w_k|| ||q_k||, `[r]`; `inverse` as for [`Self::rows`].
    pub fn condition_numbers(&self, inverse: &Tensor) -> Result<Tensor> {
        let square = |tensor: &Tensor, dimension: i64| -> Result<Tensor> {
            Ok(tensor.f_abs()?.f_square()?.f_sum_dim_intlist(dimension, false, Kind::Double)?)
        };
        match self {
            Vectors::Tables { weights, rows, .. } => Ok((square(weights, 0)? * square(rows, 1)?).sqrt()),
            Vectors::Blocks(blocks) => {
                // ||w||² is 2 for a pair and 1 for a real eigenvalue. The features' part of ||q||² is the
                // reciprocal.
                let column = Tensor::f_ones([blocks.features()], REAL)?;
                let _ = column.narrow(0, 0, 2 * blocks.pairs()).f_fill_(2.0)?;
                let state = square(&(blocks.state_rates()? * inverse.unsqueeze(1)), 1)?;
                Ok((state * column + 1.0).sqrt())
            }
        }
    }

    pub fn shallow_clone(&self) -> Vectors {
        match self {
            Vectors::Tables { weights, rows, rates } => Vectors::Tables {
                weights: weights.shallow_clone(),
                rows: rows.shallow_clone(),
                rates: rates.shallow_clone(),
            },
            Vectors::Blocks(Blocks { sign, readout }) => {
                Vectors::Blocks(Blocks { sign: sign.shallow_clone(), readout: readout.shallow_clone() })
            }
        }
    }
}

/// A real matrix times a complex one, at half the cost of a complex product.
pub(super) fn product(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_complex(&left.f_matmul(&right.f_real()?)?, &left.f_matmul(&right.f_imag()?)?)?)
}

/// The real part of a complex product, also at half the cost.
fn real_product(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    Ok(left.f_real()?.f_matmul(&right.f_real()?)? - left.f_imag()?.f_matmul(&right.f_imag()?)?)
}
