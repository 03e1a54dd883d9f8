//! Storage of the spectrum of a flow in a file.

use tch::{Device, Kind, Tensor};

use super::displacements::are_times;
use super::time::count;
use super::{Facts, FlowSpectrum, Rate};
use crate::error::{Error, Result};
use crate::store::{Stored, Tensors};
use crate::tensor::shape_text;

impl Stored for FlowSpectrum {
    const KIND: &'static str = "flow spectrum";
    type Description = Facts;

    fn description(&self) -> Result<Facts> {
        Ok(self.facts.clone())
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.arrays.iter().map(|(name, tensor)| (name.to_string(), tensor.shallow_clone())).collect())
    }

    fn rebuild(facts: Facts, tensors: &mut Tensors, _: Device) -> Result<Self> {
        check(&facts)?;
        let mut arrays = Vec::new();
        for (name, shape) in facts.shapes()? {
            let tensor = tensors.take(name, Kind::Double)?;
            if tensor.size() != shape {
                return Err(Error::shape(name, shape_text(&shape), shape_text(&tensor.size())));
            }
            arrays.push((name, tensor));
        }
        let spectrum = FlowSpectrum::assemble(facts, arrays)?;
        if !are_times(spectrum.times()) {
            let got = format!("{:?}", spectrum.times());
            return Err(Error::argument("times", "four or more increasing times that start at 0", got));
        }
        Ok(spectrum)
    }
}

/// Refuses facts that are inconsistent.
fn check(facts: &Facts) -> Result<()> {
    let [_, _, axes, modes, _] = facts.sizes;
    let refuse = |name: &str, expected: &str| Err(Error::argument(name, expected, "other values"));
    if facts.sizes.iter().chain([&facts.paths]).any(|size| *size < 0) {
        return refuse("sizes", "numbers that are not negative");
    }
    let numbers = [
        facts.drift,
        facts.motion,
        facts.affine,
        facts.nonlinear,
        facts.unresolved,
        facts.freedom,
        facts.edge,
        facts.bound,
    ];
    if numbers.iter().chain(&facts.unexplained).chain(&facts.agreement).any(|number| !number.is_finite()) {
        return refuse("energies", "finite numbers");
    }
    for (name, groups, members) in
        [("groups", &facts.groups, modes), ("axis_groups", &facts.axis_groups, axes)]
    {
        let rising = groups.windows(2).all(|pair| pair[0] < pair[1]);
        let within =
            groups.first().copied().unwrap_or(0) == 0 && groups.last().is_none_or(|last| *last < members);
        if !rising || !within || groups.is_empty() != (members == 0) {
            return refuse(name, "increasing indices that start at 0");
        }
    }
    if facts.agreement.len() != facts.groups.len() {
        return refuse("agreement", "a number for each group");
    }
    let own = count(&facts.rates);
    let known = |rate: &Rate| rate.growth.is_finite() && rate.frequency.is_finite() && rate.frequency >= 0.0;
    let all = [&facts.rates, &facts.basis, &facts.affine_rates]
        .into_iter()
        .chain(&facts.halves)
        .chain(&facts.candidates);
    if own == 0
        || facts.basis.is_empty()
        || !all.flatten().all(known)
        || facts.halves.iter().any(|half| count(half) != own)
    {
        return refuse("rates", "finite rates, the same number for both halves of the paths");
    }
    let counted = facts.candidates.iter().enumerate().all(|(place, rates)| count(rates) == place + 1);
    if !counted || facts.unexplained.len() != facts.candidates.len() || facts.candidates.len() < own {
        return refuse(
            "candidates",
            "sets of 1, 2, ... rates, each with the share that it leaves unexplained",
        );
    }
    Ok(())
}
