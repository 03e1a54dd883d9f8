//! The learned columns of a dense generator, which are free or constrained for stability. The constraint
//! bounds the eigenvalues of the block D that maps [x, phi] to [x, phi], so that paths do not blow up. L is
//! block triangular, so these are all its eigenvalues except the two zeros of the constant and time.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::nets::Parameters;
use crate::tensor::{shared, RandomSource};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Stability {
    /// Any matrix.
    #[default]
    Free,
    /// D = S - S^T - R R^T: no eigenvalue grows.
    Dissipative,
    /// D = S - S^T + M, M symmetric of Frobenius norm at most [`Stability::BOUND`], which bounds the real
    /// parts of the eigenvalues.
    Bounded,
}

impl Stability {
    /// Largest growth or decay rate of a bounded generator. The spectral generator has the same bound.
    pub const BOUND: f64 = 8.0;

    pub fn name(self) -> &'static str {
        match self {
            Stability::Free => "free",
            Stability::Dissipative => "dissipative",
            Stability::Bounded => "bounded",
        }
    }
}

/// The columns `[2 + n, n]`, n = d + k, by their parameters.
#[derive(Debug)]
pub(in crate::koopman) struct Columns {
    stability: Stability,
    /// All columns if they are free, else the rows of the constant and time, `[2, n]`.
    first: Tensor,
    /// S and R or M, `[n, n]`; empty if the columns are free.
    rest: Vec<Tensor>,
}

impl Columns {
    pub fn new(
        stability: Stability,
        free: i64,
        parameters: &mut Parameters,
        random: &mut RandomSource,
    ) -> Result<Self> {
        let (kind, device) = (parameters.kind(), parameters.device());
        let mut draw = |name: &str, rows: i64| -> Result<Tensor> {
            let initial = random.normal(&[rows, free], kind, device)? * 1e-3;
            Ok(parameters.add(format!("generator.{name}"), initial))
        };
        let (first, rest) = match stability {
            Stability::Free => (draw("columns", 2 + free)?, vec![]),
            Stability::Dissipative => (draw("affine", 2)?, vec![draw("skew", free)?, draw("damping", free)?]),
            Stability::Bounded => (draw("affine", 2)?, vec![draw("skew", free)?, draw("symmetric", free)?]),
        };
        Ok(Columns { stability, first, rest })
    }

    pub fn options(&self) -> (Kind, Device) {
        (self.first.kind(), self.first.device())
    }

    /// `[2 + n, n]`, differentiable.
    pub fn matrix(&self) -> Tensor {
        let [skew, other] = &self.rest[..] else {
            return self.first.shallow_clone();
        };
        let symmetric = match self.stability {
            Stability::Dissipative => other.matmul(&other.tr()).neg(),
            Stability::Free | Stability::Bounded => {
                let symmetric = (other + other.tr()) * 0.5;
                let square = symmetric.square().sum(symmetric.kind());
                let scale = square.clamp_min(Stability::BOUND.powi(2)).rsqrt() * Stability::BOUND;
                symmetric * scale
            }
        };
        Tensor::cat(&[&self.first, &(skew - skew.tr() + symmetric)], 0)
    }

    /// Sets the columns, `[2 + n, n]`, to the nearest ones (in the Frobenius norm) of this structure.
    pub fn set(&self, columns: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let write = |target: &Tensor, value: &Tensor| -> Result<()> {
            target.shallow_clone().f_copy_(value)?;
            Ok(())
        };
        let [skew, other] = &self.rest[..] else {
            return write(&self.first, columns);
        };
        let columns = columns.to_kind(Kind::Double).to_device(Device::Cpu);
        let block = columns.f_narrow(0, 2, skew.size()[0])?;
        let symmetric = (&block + block.tr()) * 0.5;
        let other_value = match self.stability {
            Stability::Dissipative => {
                let (values, vectors) = symmetric.f_linalg_eigh("L")?;
                vectors * values.neg().clamp_min(0.0).sqrt()
            }
            Stability::Free | Stability::Bounded => symmetric,
        };
        write(&self.first, &columns.narrow(0, 0, 2))?;
        write(skew, &((&block - block.tr()) * 0.25))?;
        write(other, &other_value)
    }

    /// The same columns in float64 on the CPU, without gradients.
    pub fn in_double(&self) -> Tensor {
        let convert = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double);
        let exact = Columns {
            stability: self.stability,
            first: convert(&self.first),
            rest: self.rest.iter().map(convert).collect(),
        };
        exact.matrix()
    }
}

shared!(Columns { first, rest; stability });
