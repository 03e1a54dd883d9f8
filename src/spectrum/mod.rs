//! The spectrum of a student: eigenfunctions and modes of its generator, truncation and editing.
//!
//! In the row convention dg/dt = g L, a right eigenvector w of L gives an eigenfunction psi = g w with psi' =
//! lambda psi, and the left eigenvectors q, scaled so that q_j w_k = 1 where j = k and 0 elsewhere, give g =
//! rest + sum_k psi_k q_k: the contribution of q_k to the state is the Koopman mode of psi_k. The rest
//! belongs to the eigenvalue 0 of the constant and time and, with a spectral generator, of the state. Source:
//! Turan et al., arXiv 2506.22304, section 3; Mezić, Annu. Rev. Fluid Mech. 45 (2013), section 2.

mod decomposition;
mod edit;
mod facts;
pub mod flow;
mod levels;
mod vectors;

pub(crate) use decomposition::partners;
pub use decomposition::Spectrum;
pub use edit::{Change, Edit};
pub use facts::{Facts, Sort, RESIDUAL_TIMES};
pub use levels::{LevelSpectrum, MapSpectrum, MeasuredMap};
