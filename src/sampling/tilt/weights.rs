//! Statistics of log-weights. A weight of zero is minus infinity.

use rand::Rng;

use crate::tensor::RandomSource;

/// Log of the mean of exp(values); minus infinity if all values are.
pub fn log_mean(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + (values.iter().map(|value| (value - largest).exp()).sum::<f64>() / values.len() as f64).ln()
}

/// Effective sample size (sum w)^2 / sum w^2 (Kong, 1992); 0 if no weight is above zero.
pub fn effective_size(log_weights: &[f64]) -> f64 {
    let largest = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return 0.0;
    }
    let (mut sum, mut squares) = (0.0, 0.0);
    for log_weight in log_weights {
        let weight = (log_weight - largest).exp();
        sum += weight;
        squares += weight * weight;
    }
    sum * sum / squares
}

/// 5% and 95% quantiles of the effective sample size over bootstrap resamples of the weights.
pub fn effective_size_interval(log_weights: &[f64], resamples: u64, random: &RandomSource) -> (f64, f64) {
    let count = log_weights.len();
    let mut sizes: Vec<f64> = (0..resamples)
        .map(|resample| {
            let mut rng = random.at(resample);
            let drawn: Vec<f64> = (0..count).map(|_| log_weights[rng.random_range(0..count)]).collect();
            effective_size(&drawn)
        })
        .collect();
    sizes.sort_by(f64::total_cmp);
    let at = |share: f64| sizes[((sizes.len() - 1) as f64 * share).round() as usize];
    (at(0.05), at(0.95))
}

/// Systematic resampling (Kitagawa, 1996): indices of `count` draws in proportion to the weights, from one
/// uniform number and equal steps. Each index is drawn as often as its share of `count`, up to one. If no
/// weight is above zero, all weights count as equal.
pub fn systematic(log_weights: &[f64], count: usize, uniform: f64) -> Vec<i64> {
    let largest = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = match largest.is_finite() {
        true => log_weights.iter().map(|value| (value - largest).exp()).collect(),
        false => vec![1.0; log_weights.len()],
    };
    let step = weights.iter().sum::<f64>() / count as f64;
    let (mut places, mut passed, mut place) = (Vec::with_capacity(count), weights[0], 0);
    for draw in 0..count {
        let wanted = (draw as f64 + uniform) * step;
        while passed <= wanted && place + 1 < weights.len() {
            place += 1;
            passed += weights[place];
        }
        places.push(place as i64);
    }
    places
}

/// `temperature` times a log-weight, where zero times minus infinity is zero.
pub(super) fn tempered(temperature: f64, value: f64) -> f64 {
    if temperature == 0.0 {
        0.0
    } else {
        temperature * value
    }
}

const BISECTIONS: usize = 60;

/// The largest temperature in (`from`, 1] at which weights, multiplied by exp of the difference times
/// `values`, keep `share` of their present effective sample size. Particles whose value is minus infinity do
/// not count.
pub(super) fn next_temperature(log_weights: &[f64], values: &[f64], from: f64, share: f64) -> f64 {
    let size = |to: f64| {
        let moved: Vec<f64> = log_weights
            .iter()
            .zip(values)
            .map(|(weight, value)| weight + tempered(to - from, *value))
            .collect();
        effective_size(&moved)
    };
    let alive: Vec<f64> = log_weights
        .iter()
        .zip(values)
        .map(|(weight, value)| if value.is_finite() { *weight } else { f64::NEG_INFINITY })
        .collect();
    let wanted = share * effective_size(&alive);
    if size(1.0) >= wanted {
        return 1.0;
    }
    let (mut below, mut above) = (from, 1.0);
    for _ in 0..BISECTIONS {
        let middle = (below + above) / 2.0;
        match size(middle) >= wanted {
            true => below = middle,
            false => above = middle,
        }
    }
    // Always rises a little, so that rounding cannot hold a population at one temperature for ever.
    below.max(from + 1e-9 * (1.0 - from)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_zero_and_of_one_are_known() {
        let none = f64::NEG_INFINITY;
        assert_eq!(effective_size(&[none, none]), 0.0);
        assert_eq!(effective_size(&[none, 3.0]), 1.0);
        assert!((effective_size(&[700.0; 8]) - 8.0).abs() < 1e-12);
        assert_eq!(log_mean(&[none, none]), none);
        assert!((log_mean(&[none, 1000.0]) - (1000.0 - 2f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn systematic_draws_are_the_shares_up_to_one() {
        let log_weights: Vec<f64> =
            [0.5, 0.25, 0.0, 0.2, 0.05].iter().map(|share: &f64| share.ln()).collect();
        for uniform in [0.0, 0.3, 0.999_999] {
            let places = systematic(&log_weights, 100, uniform);
            let counts: Vec<i64> =
                (0..5).map(|own| places.iter().filter(|place| **place == own).count() as i64).collect();
            assert_eq!(counts.iter().sum::<i64>(), 100);
            assert_eq!(counts[2], 0);
            for (count, share) in counts.iter().zip([50, 25, 0, 20, 5]) {
                assert!((count - share).abs() <= 1, "{counts:?}");
            }
        }
    }

    #[test]
    fn a_temperature_keeps_the_share_asked_for() {
        let values: Vec<f64> = (0..1000).map(|place| -0.05 * f64::from(place)).collect();
        let weights = vec![0.0; 1000];
        let to = next_temperature(&weights, &values, 0.0, 0.5);
        let moved: Vec<f64> = values.iter().map(|value| to * value).collect();
        assert!((effective_size(&moved) - 500.0).abs() < 1e-3);
        assert_eq!(next_temperature(&weights, &[0.0; 1000], 0.3, 0.5), 1.0);
        // Half of the values are minus infinity, which alone does not stop the others.
        let mut cut = vec![0.0; 500];
        cut.extend(vec![f64::NEG_INFINITY; 500]);
        assert_eq!(next_temperature(&weights, &cut, 0.0, 0.9), 1.0);
    }
}
