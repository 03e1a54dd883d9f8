//! Optional terms that depend only on the student: on its generator, its modes or the scale of its features.

use tch::{Kind, Tensor};

use crate::koopman::{Generator, Observables};

/// Growth rates of the features, differentiable: the eigenvalues of the symmetric part of their block of L.
/// For a spectral generator they are the real parts of its eigenvalues, with multiplicity. For a dense one
/// the largest of them bounds the growth of the norm of the features.
fn growth(generator: &Generator) -> Tensor {
    match generator {
        Generator::Spectral(generator) => generator.growth_of_features(),
        Generator::Levels(generator) => generator.growth(),
        Generator::Dense(generator) => {
            let block = generator.feature_block();
            ((&block + block.tr()) * 0.5).linalg_eigvalsh("L")
        }
    }
}

/// Mean squared growth. It is 0 if and only if the features' propagator is unitary.
pub(in crate::distill) fn unitarity(generator: &Generator) -> Tensor {
    let growth = growth(generator);
    growth.square().mean(growth.kind())
}

/// Mean of max(0, growth)².
pub(in crate::distill) fn stability(generator: &Generator) -> Tensor {
    let growth = growth(generator);
    growth.relu().square().mean(growth.kind())
}

/// Mean squared cosine between different rows of the map from features to dx/dt, the modes of a
/// spectral generator.
pub(in crate::distill) fn orthogonality(generator: &Generator) -> Tensor {
    let modes = match generator {
        Generator::Spectral(generator) => generator.modes(),
        Generator::Dense(generator) => generator.modes(),
        // Without a linear readout there are no modes, and the options are refused earlier.
        Generator::Levels(generator) => return generator.growth().sum(generator.options().0) * 0.0,
    };
    let kind = modes.kind();
    let count = modes.size()[0];
    let lengths = modes.square().sum_dim_intlist(1, true, kind).clamp_min(1e-12).sqrt();
    let unit = modes / lengths;
    let cosines = unit.matmul(&unit.tr());
    let off = cosines.square().sum(kind) - cosines.diagonal(0, 0, 1).square().sum(kind);
    off / (count * (count - 1)).max(1) as f64
}

/// Mean over the features of the squared mean, plus that of the squared distance of the deviation from 1,
/// over the batch.
pub(in crate::distill) fn latent_moments(g: &Observables) -> Tensor {
    let kind: Kind = g.features.kind();
    let mean = g.features.mean_dim(0, false, kind);
    let deviation = (g.features.var_dim(0, false, false) + 1e-12).sqrt();
    mean.square().mean(kind) + (deviation - 1.0).square().mean(kind)
}
