//! (to come)
pub struct EmpiricalField;
