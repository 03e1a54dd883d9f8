//! Functions that torch-sys wraps and that newer torches no longer have (`build_backend/torch_stand_ins.h`):
//! where torch has them they answer, and elsewhere they are an error that says so.

use tch::{Kind, TchError, Tensor};

fn gone<T>(found: &Result<T, TchError>) -> bool {
    found.as_ref().err().is_some_and(|error| error.to_string().contains("is gone from torch 2."))
}

#[test]
fn what_torch_no_longer_has_is_an_error() {
    let roots = Tensor::from_slice(&[2.0, 3.0]).diag(0);
    let a = roots.matmul(&roots);
    let empty = || Tensor::empty([0], (Kind::Double, a.device()));

    let factors = [a.f_cholesky(false), a.f_cholesky_out(&empty(), false)];
    let products =
        [a.f_qr(true), a.f_qr_q(&empty(), &empty(), true)].map(|both| both.map(|(q, r)| q.matmul(&r)));
    for (found, expected) in factors.iter().zip([&roots; 2]).chain(products.iter().zip([&a; 2])) {
        assert!(gone(found) || found.as_ref().unwrap().allclose(expected, 1e-12, 1e-12, false));
    }

    // Names of dimensions went first, and matrices last.
    let named = [a.f_align_as(&a).map(drop), Tensor::f_align_tensors(&[&a, &a]).map(drop)];
    if gone(&factors[0]) {
        assert!(factors.iter().chain(&products).all(gone));
        assert!(named.iter().all(gone));
    }
}
