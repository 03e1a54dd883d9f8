use std::sync::LazyLock;

use super::*;
use crate::monitor::Silent;
use crate::nets::Parameters;
use crate::training::{Adam, Averages, Budget, Exchange, Ledger, Note, Optimizer, Schedule, ScheduleKind};
use crate::world::ALONE;

/// A trainer that minimises |x - 3|² and fails at chosen steps.
struct Toy<'a> {
    parameters: &'a Parameters,
    /// The failure at each step.
    wrong: fn(u64) -> Wrong,
    /// First step at which files cannot be written.
    unwritable: u64,
    saved: Vec<(u64, Stopped)>,
}

#[derive(PartialEq)]
enum Wrong {
    No,
    NotFinite,
    Divergence,
    Failure,
    Panic,
}

impl Step for Toy<'_> {
    const STAGE: &'static str = "teacher";
    const MEASURED: bool = false;

    fn gradient(&mut self, state: &mut State<'_>, _: &mut dyn Monitor) -> Result<Gradient> {
        let gap = self.parameters.flat()? - 3.0;
        let factor = match (self.wrong)(state.ledger.step) {
            Wrong::No => 1.0,
            Wrong::NotFinite => f64::NAN,
            Wrong::Divergence => return Err(Error::Divergence("too far".into())),
            Wrong::Failure => return Err(Error::NotFitted("a failure".into())),
            Wrong::Panic => panic!("a bug"),
        };
        Ok(Gradient { flat: &gap * factor, losses: vec![gap.square().sum(Kind::Double) * factor] })
    }

    fn save(&mut self, state: &State<'_>, _: &Checkpointing, stopped: Stopped) -> Result<()> {
        self.saved.push((state.ledger.step, stopped));
        match state.ledger.step >= self.unwritable {
            true => Err(Error::Internal(anyhow::anyhow!("no space"))),
            false => Ok(()),
        }
    }
}

fn parameters() -> Parameters {
    let mut parameters = Parameters::new(Kind::Double, Device::Cpu);
    let _ = parameters.add("x", Tensor::from_slice(&[0.5, -2.0, 7.0]));
    parameters.pack();
    parameters
}

static EVERY_25: LazyLock<Checkpointing> =
    LazyLock::new(|| Checkpointing { every_steps: Some(25), ..Checkpointing::default() });

fn toy<'a>(
    parameters: &'a Parameters,
    steps: u64,
    wrong: fn(u64) -> Wrong,
    plan: &'a Checkpointing,
) -> Loop<'a, Toy<'a>> {
    let toy = Toy { parameters, wrong, unwritable: u64::MAX, saved: Vec::new() };
    let optimiser = Adam::new(parameters, Optimizer::AdamW, 1e-3).unwrap();
    let multipliers = parameters.multipliers(|_| 0.5).unwrap();
    let state = State {
        parameters,
        optimiser: optimiser.with_multipliers(Some(multipliers)),
        averages: Averages::new(parameters, &[0.9]).unwrap(),
        best: parameters.flat().unwrap().copy(),
        ledger: Ledger::new(Schedule::new(ScheduleKind::Constant, 0.05, 0)),
        budget: Budget::new(steps, None),
        exchange: Exchange::new(&ALONE, parameters),
    };
    Loop::new(toy, state, &TrainingOptions::default(), Some(plan)).unwrap()
}

/// Weights, average and both moments.
fn tensors(state: &State<'_>) -> Tensor {
    let (first, second, _) = state.optimiser.state();
    let average = state.current().unwrap();
    Tensor::cat(&[&state.parameters.flat().unwrap(), &average, first, second], 0)
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_whether_it_is_read_or_masked() {
    let own = parameters();
    let mut whole = toy(&own, 59, |_| Wrong::No, &EVERY_25);
    assert_eq!(whole.train(&mut Silent).unwrap(), Stopped::Completed);
    for wrong in
        [(|step| if step == 20 { Wrong::NotFinite } else { Wrong::No }) as fn(u64) -> Wrong, |step| {
            if step == 20 {
                Wrong::Divergence
            } else {
                Wrong::No
            }
        }]
    {
        for masked in [false, true] {
            let own = parameters();
            let mut run = toy(&own, 60, wrong, &EVERY_25);
            run.masked = masked;
            assert_eq!(run.train(&mut Silent).unwrap(), Stopped::Completed);
            let ledger = run.state.closed_ledger();
            assert_eq!((ledger.step, ledger.skipped_steps, ledger.restarts), (60, 1, 0));
            assert_eq!((ledger.optimiser_steps, ledger.average_updates), (59, 59));
            // With masks, the step count in the bias corrections is too large by one until the flags are
            // read.
            let limit = if masked { 1e-2 } else { 0.0 };
            assert!(gap(&tensors(&run.state), &tensors(&whole.state)) <= limit, "masked: {masked}");
            assert_eq!(run.step.saved, [0, 25, 50, 60].map(|step| (step, ending(step))));
        }
    }
    // Without such a step, masking makes no difference.
    let own = parameters();
    let mut masked = toy(&own, 59, |_| Wrong::No, &EVERY_25);
    masked.masked = true;
    masked.train(&mut Silent).unwrap();
    assert!(gap(&tensors(&masked.state), &tensors(&whole.state)) < 1e-12);
}

fn ending(step: u64) -> Stopped {
    if step == 60 {
        Stopped::Completed
    } else {
        Stopped::Interrupted
    }
}

#[test]
fn ten_steps_in_a_row_go_back_to_the_last_good_state_at_half_the_rate() {
    let own = parameters();
    let mut before = toy(&own, 50, |_| Wrong::No, &EVERY_25);
    before.train(&mut Silent).unwrap();
    let good = before.state.current().unwrap().copy();
    let own = parameters();
    let mut run =
        toy(&own, 72, |step| if (62..72).contains(&step) { Wrong::Divergence } else { Wrong::No }, &EVERY_25);
    assert_eq!(run.train(&mut Silent).unwrap(), Stopped::Completed);
    let ledger = &run.state.ledger;
    assert_eq!((ledger.skipped_steps, ledger.restarts, ledger.best_step), (10, 1, 50));
    assert_eq!(ledger.schedule.factor, 0.5);
    let Note { step, text } = &ledger.notes[0];
    assert_eq!(*step, 72);
    assert!(text.contains("too far") && text.contains("back to step 50"), "{text}");
    assert!(run.state.parameters.flat().unwrap().equal(&good));
    assert!(run.state.current().unwrap().equal(&good));
}

#[test]
fn a_training_that_stays_wrong_diverges_with_the_weights_it_had() {
    for masked in [false, true] {
        let own = parameters();
        let mut run = toy(&own, 1000, |_| Wrong::NotFinite, &EVERY_25);
        run.masked = masked;
        assert_eq!(run.train(&mut Silent).unwrap(), Stopped::Diverged);
        assert_eq!((run.state.ledger.restarts, run.state.ledger.notes.len()), (3, 4));
        assert!(own.flat().unwrap().equal(&parameters().flat().unwrap()));
        assert_eq!(run.step.saved.last().unwrap().1, Stopped::Diverged);
    }
}

#[test]
fn whatever_ends_training_is_saved_first() {
    for unwritable in [u64::MAX, 1] {
        let own = parameters();
        let mut run = toy(&own, 30, |step| if step == 7 { Wrong::Failure } else { Wrong::No }, &EVERY_25);
        run.step.unwritable = unwritable;
        let error = run.train(&mut Silent).err().unwrap();
        assert!(matches!(error, Error::NotFitted(_)), "{error}");
        assert_eq!(run.step.saved, [0, 7].map(|step| (step, Stopped::Interrupted)));
    }
    let own = parameters();
    let mut run = toy(&own, 30, |step| if step == 7 { Wrong::Panic } else { Wrong::No }, &EVERY_25);
    panic::set_hook(Box::new(|_| {}));
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| run.train(&mut Silent)));
    let _ = panic::take_hook();
    assert!(panicked.is_err());
    assert_eq!(run.step.saved, [0, 7].map(|step| (step, Stopped::Interrupted)));
}

#[test]
fn files_that_cannot_be_written_later_end_nothing() {
    let own = parameters();
    let mut run = toy(&own, 60, |_| Wrong::No, &EVERY_25);
    run.step.unwritable = 1;
    assert_eq!(run.train(&mut Silent).unwrap(), Stopped::Completed);
    // One note during training and one at the end.
    let steps: Vec<u64> = run.state.ledger.notes.iter().map(|note| note.step).collect();
    assert_eq!(steps, [25, 60]);
    assert!(run.state.ledger.notes.iter().all(|note| note.text.contains("no space")));
}

#[test]
fn a_first_file_that_cannot_be_written_is_told_before_the_first_step() {
    let own = parameters();
    let mut run = toy(&own, 60, |_| Wrong::No, &EVERY_25);
    run.step.unwritable = 0;
    let error = run.train(&mut Silent).err().unwrap();
    assert!(error.to_string().contains("no space"), "{error}");
    assert_eq!(run.state.ledger.step, 0);
    assert!(own.flat().unwrap().equal(&parameters().flat().unwrap()));
}
