//! All monomials of some of the inputs, by total degree.

use tch::{Device, Kind, Tensor};

use super::{Dual, Network};

/// A map from `[B, inputs]` to `[B, outputs]`: the last `linear` variables, followed by the monomials of total degree
/// 2 to `degree`, sorted by degree. It has no parameters.
pub struct Polynomial {
    /// Indices of the input columns that are variables, int64 `[v]`.
    variables: Tensor,
    linear: i64,
    /// For each degree from 2, every monomial as the product of a monomial of the degree below and a variable.
    levels: Vec<Level>,
}

struct Level {
    parents: Tensor,
    factors: Tensor,
}

/// Number of outputs, C(v + degree, degree) - 1 - v + linear; `None` if that overflows.
pub fn monomial_count(variables: i64, linear: i64, degree: i64) -> Option<i64> {
    // C(v + i, i) = C(v + i - 1, i - 1) (v + i) / i, an integer at every step.
    let mut all = 1i64;
    for order in 1..=degree {
        all = all.checked_mul(variables.checked_add(order)?)? / order;
    }
    all.checked_sub(1)?.checked_sub(variables)?.checked_add(linear)
}

impl Polynomial {
    /// Builds the map. The last `linear` of `variables` are outputs themselves. Memory is a few numbers per monomial;
    /// see [`monomial_count`].
    pub fn new(variables: &[i64], linear: i64, degree: i64, device: Device) -> Self {
        let count = variables.len();
        let index = |values: &[i64]| Tensor::from_slice(values).to_kind(Kind::Int64).to_device(device);
        // The last variable of each monomial. A monomial is multiplied only by this variable or a later one, so that
        // every product arises once.
        let mut last: Vec<usize> = (0..count).collect();
        let mut levels = Vec::new();
        for _ in 2..=degree {
            let (mut parents, mut factors, mut next) = (Vec::new(), Vec::new(), Vec::new());
            for (parent, first) in last.iter().enumerate() {
                for factor in *first..count {
                    parents.push(parent as i64);
                    factors.push(factor as i64);
                    next.push(factor);
                }
            }
            levels.push(Level { parents: index(&parents), factors: index(&factors) });
            last = next;
        }
        Polynomial { variables: index(variables), linear, levels }
    }

    pub fn shallow_clone(&self) -> Self {
        Polynomial {
            variables: self.variables.shallow_clone(),
            linear: self.linear,
            levels: self
                .levels
                .iter()
                .map(|level| Level {
                    parents: level.parents.shallow_clone(),
                    factors: level.factors.shallow_clone(),
                })
                .collect(),
        }
    }

    fn own_linear(&self, variables: &Tensor) -> Tensor {
        variables.narrow(1, variables.size()[1] - self.linear, self.linear)
    }
}

impl Network for Polynomial {
    fn forward(&self, input: &Tensor) -> Tensor {
        let variables = input.index_select(1, &self.variables);
        let mut parts = vec![self.own_linear(&variables)];
        let mut below = variables.shallow_clone();
        for level in &self.levels {
            below = below.index_select(1, &level.parents) * variables.index_select(1, &level.factors);
            parts.push(below.shallow_clone());
        }
        Tensor::cat(&parts, 1)
    }

    fn forward_with_tangent(&self, input: &Dual) -> Dual {
        let pick = |dual: &Dual, index: &Tensor| {
            Dual::new(dual.primal.index_select(1, index), dual.tangent.index_select(1, index))
        };
        let variables = pick(input, &self.variables);
        let mut parts =
            vec![Dual::new(self.own_linear(&variables.primal), self.own_linear(&variables.tangent))];
        for level in &self.levels {
            let below = parts.last().filter(|_| parts.len() > 1).unwrap_or(&variables);
            let (parent, factor) = (pick(below, &level.parents), pick(&variables, &level.factors));
            let tangent = &parent.tangent * &factor.primal + &parent.primal * &factor.tangent;
            parts.push(Dual::new(parent.primal * factor.primal, tangent));
        }
        Dual::cat(&parts)
    }
}
