//! Stochastic Lanczos quadrature (Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
//! quadrature", SIAM J. Matrix Anal. Appl. 2017): the trace of a matrix logarithm from products alone.

use tch::{Kind, Tensor};

use crate::error::Result;

/// e^T log(A) e, `[R]`, for each probe e, a row of `probes` `[R, d]`. `apply` multiplies each row by its own
/// symmetric positive definite A. The mean over random signs estimates tr log A, and only the quadrature
/// makes it biased.
///
/// A Gauss rule of `steps` nodes lies above the integral of a function whose even derivatives are negative,
/// such as log (Golub and Meurant, "Matrices, moments and quadrature", 1994). The result is therefore too
/// large by what `steps` products do not resolve. This error is smallest for well-conditioned A, and zero
/// from `steps = d` on. Eigenvalues below `floor` times the largest are lost in the rounding of the products,
/// and count as `floor` times the largest.
///
/// # Errors
/// Any error of `apply`.
pub fn log_quadratic_form(
    probes: &Tensor,
    steps: i64,
    floor: f64,
    mut apply: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let probes = probes.to_kind(Kind::Double);
    let steps = steps.min(probes.size()[1]);
    let dot = |a: &Tensor, b: &Tensor| (a * b).sum_dim_intlist([1].as_slice(), true, Kind::Double);
    let squared_length = dot(&probes, &probes);
    let mut basis = vec![&probes / squared_length.sqrt()];
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let last = &basis[step as usize];
        let mut next = apply(last)?.to_kind(Kind::Double);
        diagonal.push(dot(&next, last));
        // Orthogonalised against all earlier vectors, twice: the three-term recurrence alone loses
        // orthogonality as soon as an eigenvalue has converged.
        for _ in 0..2 {
            for earlier in &basis {
                next = &next - dot(&next, earlier) * earlier;
            }
        }
        if step + 1 < steps {
            let length = dot(&next, &next).sqrt();
            // Once the space is exhausted the length is zero, and so are the weights of all later nodes.
            basis.push(next / length.clamp_min(f64::MIN_POSITIVE));
            beside.push(length);
        }
    }
    let mut tridiagonal = Tensor::f_cat(&diagonal, 1)?.f_diag_embed(0, 1, 2)?;
    if !beside.is_empty() {
        let beside = Tensor::f_cat(&beside, 1)?;
        tridiagonal = tridiagonal + beside.f_diag_embed(1, 1, 2)? + beside.f_diag_embed(-1, 1, 2)?;
    }
    let (nodes, vectors) = tridiagonal.f_linalg_eigh("L")?;
    let weights = vectors.select(1, 0).square();
    let largest = nodes.amax([1].as_slice(), true);
    let logarithms = nodes.maximum(&(largest * floor)).clamp_min(f64::MIN_POSITIVE).log();
    Ok((dot(&weights, &logarithms) * squared_length).squeeze_dim(1))
}
