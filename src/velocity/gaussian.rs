//! (to come)
pub struct GaussianField;
