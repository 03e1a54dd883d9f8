//! Moves that leave a known posterior as it is, particles that reach it, and Gaussians about modes.

use koopflow::sampling::tilt::{gauss_newton_step, log_mean, Evaluated, Laplace, Move, Population};
use koopflow::tensor::RandomSource;
use tch::{Device, Kind, Tensor};

fn normal(seed: u64, shape: &[i64]) -> Tensor {
    RandomSource::new(seed).normal(shape, Kind::Double, Device::Cpu).unwrap()
}

/// l(z) = -|G z - y|^2 / 2 under N(0, I): the posterior is a Gaussian that is known.
struct Linear {
    rows: Tensor,
    seen: Tensor,
}

impl Linear {
    fn new(k: i64, d: i64) -> Self {
        Linear { rows: normal(1, &[k, d]) * 1.5, seen: normal(2, &[k]) * 2.0 }
    }

    fn at(&self, z: &Tensor) -> Evaluated {
        let residual = z.matmul(&self.rows.tr()) - &self.seen;
        let values = residual.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * -0.5;
        Evaluated {
            samples: z.copy(),
            values: Vec::<f64>::try_from(values).unwrap(),
            slopes: Some(-residual.matmul(&self.rows)),
        }
    }

    /// Mean, covariance, and log evidence.
    fn posterior(&self) -> (Tensor, Tensor, f64) {
        let (k, d) = self.rows.size2().unwrap();
        let eye = |n| Tensor::eye(n, (Kind::Double, Device::Cpu));
        let covariance = (self.rows.tr().matmul(&self.rows) + eye(d)).inverse();
        let mean = covariance.matmul(&self.rows.tr().matmul(&self.seen));
        let marginal = self.rows.matmul(&self.rows.tr()) + eye(k);
        let quadratic = self.seen.dot(&marginal.inverse().mv(&self.seen)).double_value(&[]);
        let log_determinant = marginal.logdet().double_value(&[]);
        (mean, covariance, -0.5 * (quadratic + log_determinant))
    }
}

fn covariance(x: &Tensor) -> (Tensor, Tensor) {
    let mean = x.mean_dim([0i64].as_slice(), false, Kind::Double);
    let away = x - &mean;
    (mean, away.tr().matmul(&away) / x.size()[0] as f64)
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

/// Draws of the posterior, moved often, are draws of the posterior: with a step that is far from exact, a wrong rule of
/// acceptance would show.
#[test]
fn moves_leave_the_posterior_invariant() {
    let target = Linear::new(2, 3);
    let (mean, exact, _) = target.posterior();
    let root = exact.linalg_cholesky(false);
    let draws = normal(3, &[20_000, 3]).matmul(&root.tr()) + &mean;
    for kind in [Move::CrankNicolson, Move::Langevin] {
        for referred in [false, true] {
            let mut own = Population::new(&draws, target.at(&draws), 1, 1.0, kind, 5).unwrap();
            if referred {
                // A reference that is not the posterior.
                own.refer(&(normal(7, &[400, 3]) * 0.8 + 0.3)).unwrap();
            }
            let mut shares = 0.0;
            for _ in 0..30 {
                let proposed = own.propose().unwrap();
                shares += own.decide(target.at(&proposed), false).unwrap() / 30.0;
            }
            assert!(shares > 0.05 && shares < 0.999, "{kind:?} {referred}: {shares}");
            let (found, spread) = covariance(own.noise());
            assert!(worst(&found, &mean) < 0.03, "{kind:?} {referred}");
            assert!(worst(&spread, &exact) < 0.03, "{kind:?} {referred}");
            // They have moved, and know where they are.
            assert!(worst(own.noise(), &draws) > 0.1);
            assert_eq!(own.values(), target.at(own.noise()).values);
        }
    }
}

#[test]
fn particles_reach_the_posterior_and_its_evidence() {
    let target = Linear::new(3, 4);
    let (mean, exact, evidence) = target.posterior();
    for kind in [Move::CrankNicolson, Move::Langevin] {
        let noise = normal(11, &[8_000, 4]);
        let mut own = Population::new(&noise, target.at(&noise), 8, 0.0, kind, 1).unwrap();
        let mut temperatures = 0;
        while own.temperature() < 1.0 {
            own.warm(0.5);
            own.resample().unwrap();
            for _ in 0..10 {
                let proposed = own.propose().unwrap();
                own.decide(target.at(&proposed), true).unwrap();
            }
            temperatures += 1;
        }
        assert!((2..20).contains(&temperatures), "{temperatures}");
        let (found, spread) = covariance(own.noise());
        assert!(worst(&found, &mean) < 0.06, "{kind:?}");
        assert!(worst(&spread, &exact) < 0.06, "{kind:?}");
        let log_z = log_mean(&own.log_weights());
        assert!((log_z - evidence).abs() < 0.15, "{kind:?}: {log_z} and {evidence}");
    }
}

#[test]
fn a_step_is_the_same_from_both_spaces_and_ends_at_the_mode() {
    for (k, d) in [(2, 5), (5, 2), (3, 3)] {
        let target = Linear::new(k, d);
        let (mean, _, _) = target.posterior();
        let z = normal(4, &[3, d]);
        let residual = z.matmul(&target.rows.tr()) - &target.seen;
        let rows = target.rows.unsqueeze(0).repeat([3, 1, 1]);
        let none = Tensor::zeros([3], (Kind::Double, Device::Cpu));
        let ended = gauss_newton_step(&z, &residual, &rows, &none).unwrap();
        assert!(worst(&ended, &mean.unsqueeze(0).repeat([3, 1])) < 1e-10, "{k} {d}");
        // Damped, it is the solution of the damped system.
        let damping = Tensor::from_slice(&[0.5, 1.0, 7.0]);
        let damped = gauss_newton_step(&z, &residual, &rows, &damping).unwrap();
        for row in 0..3 {
            let eye = Tensor::eye(d, (Kind::Double, Device::Cpu)) * (1.0 + damping.double_value(&[row]));
            let slope = z.get(row) + target.rows.tr().mv(&residual.get(row));
            let step = (target.rows.tr().matmul(&target.rows) + eye).inverse().mv(&slope);
            assert!(worst(&damped.get(row), &(z.get(row) - step)) < 1e-10, "{k} {d}");
        }
    }
}

#[test]
fn gaussians_about_modes_are_normalised_and_count_modes_once() {
    let target = Linear::new(2, 3);
    let (mean, exact, evidence) = target.posterior();
    let objective = |z: &Tensor| {
        let prior = z.square().sum(Kind::Double).double_value(&[]) / 2.0;
        prior - target.at(&z.unsqueeze(0)).values[0]
    };
    let twice = Tensor::stack(&[&mean, &(&mean + 1e-6)], 0);
    let rows = target.rows.unsqueeze(0).repeat([2, 1, 1]);
    let own = Laplace::new(&twice, &rows, &[objective(&mean), objective(&(&mean + 1e-6))]).unwrap();
    assert_eq!(own.count(), 1);
    let z = own.draw(50_000, 3).unwrap();
    let log_density = Vec::<f64>::try_from(own.log_density(&z).unwrap()).unwrap();
    let at = target.at(&z);
    let log_noise = z.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * -0.5
        - 1.5 * (2.0 * std::f64::consts::PI).ln();
    let log_noise = Vec::<f64>::try_from(log_noise).unwrap();
    let logs: Vec<f64> =
        at.values.iter().zip(&log_noise).zip(&log_density).map(|((l, n), q)| l + n - q).collect();
    assert!((log_mean(&logs) - evidence).abs() < 0.01, "{} and {evidence}", log_mean(&logs));
    // The posterior is a Gaussian: but for the share of other draws, weights are all alike.
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert!(largest - evidence < 0.2, "{}", largest - evidence);
    let (found, spread) = covariance(&z);
    assert!(worst(&found, &(&mean * 0.95)) < 0.03);
    assert!(worst(&spread, &exact) < 0.5);
}

#[test]
fn what_does_not_fit_is_refused() {
    let noise = normal(1, &[6, 2]);
    let at = |values: Vec<f64>, slopes: Option<Tensor>| Evaluated { samples: noise.copy(), values, slopes };
    let make = |at: Evaluated, islands, kind| Population::new(&noise, at, islands, 0.0, kind, 0).map(|_| ());
    let said = |outcome: koopflow::Result<()>| outcome.unwrap_err().to_string();
    assert!(said(make(at(vec![0.0; 5], None), 1, Move::CrankNicolson)).starts_with("values: "));
    assert!(said(make(at(vec![0.0; 6], None), 4, Move::CrankNicolson)).starts_with("islands: "));
    assert!(said(make(at(vec![f64::NAN; 6], None), 1, Move::CrankNicolson)).starts_with("values: "));
    assert!(said(make(at(vec![0.0; 6], None), 1, Move::Langevin)).starts_with("slopes: "));
    let wrong = Some(normal(1, &[6, 3]));
    assert!(said(make(at(vec![0.0; 6], wrong), 1, Move::Langevin)).starts_with("slopes: "));
    let none = at(vec![f64::NEG_INFINITY; 6], None);
    let mut own = Population::new(&noise, none, 2, 0.0, Move::CrankNicolson, 0).unwrap();
    own.warm(0.5);
    assert!(own.resample().unwrap_err().to_string().contains("no sample of the model"));
    assert!(own.decide(at(vec![0.0; 6], None), true).unwrap_err().to_string().starts_with("propose: "));
    assert!(own.refer(&normal(1, &[9, 3])).unwrap_err().to_string().starts_with("noise: "));
    assert!("gibbs".parse::<Move>().is_err());
}
