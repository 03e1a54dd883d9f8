//! The training loop, which teachers, students and baselines share.

use std::panic::{self, AssertUnwindSafe};

use tch::{Device, Kind, Tensor};

use super::{clip_norm, Checkpointing, LossLog, State, Stopped, TrainingOptions};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Progress};

/// Number of consecutive steps without a finite gradient that counts as a divergence.
const SKIPPED_LIMIT: u64 = 10;

/// Training has diverged when the metric exceeds this many times its best value.
const BLOW_UP: f64 = 100.0;

/// Number of steps between two states to which a training without a metric may return. Also the largest
/// number of finiteness flags that stay on the device before they are read.
const KEEP_EVERY: u64 = 50;

/// The gradient of one step.
pub struct Gradient {
    /// The flat gradient, as [`Parameters::gradient`] returns it.
    pub flat: Tensor,
    /// The loss or its terms, as scalars. The step is taken only if all are finite.
    pub losses: Vec<Tensor>,
}

/// Held-out evaluation of the model in training.
#[derive(Default)]
pub struct Look {
    /// The held-out metric, smaller for a better model; `None` for trainers without a metric.
    pub metric: Option<f64>,
    /// The metric's name, for messages.
    pub name: String,
    /// Named values to report.
    pub values: Vec<(String, f64)>,
    /// Index of the average of the weights for which the metric was measured.
    pub chosen: usize,
    /// Whether the state is kept even if its metric is not the best.
    pub latest: bool,
}

/// One trainer, as the loop sees it.
pub trait Step {
    /// Name in reports: `"teacher"` or `"student"`.
    const STAGE: &'static str;

    /// Whether [`Step::look`] measures a metric. Training then keeps the state with the best metric.
    const MEASURED: bool;

    /// The gradient of the next step. [`Error::Divergence`] and [`Error::NotFiniteAnswer`] skip the step.
    ///
    /// # Errors
    /// Any error that should end training.
    fn gradient(&mut self, state: &mut State<'_>, monitor: &mut dyn Monitor) -> Result<Gradient>;

    /// Called after every step with the losses that [`Step::gradient`] returned, before they are known to be
    /// finite. The losses are empty if it failed.
    ///
    /// # Errors
    /// Any error that should end training.
    fn stepped(&mut self, losses: &[Tensor]) -> Result<()> {
        self.losses().map_or(Ok(()), |log| log.push(losses.first()))
    }

    /// The loss log, for trainers that measure nothing else.
    fn losses(&mut self) -> Option<&mut LossLog> {
        None
    }

    /// Whether to evaluate the model now. `last` is true if training is about to end.
    fn due(&mut self, state: &State<'_>, last: bool) -> bool {
        let _ = state;
        self.losses().is_some_and(|log| log.due(last))
    }

    /// Evaluates the model. `rate` is the learning rate of the last step. A long evaluation may call the
    /// monitor.
    ///
    /// # Errors
    /// Any error that should end training.
    fn look(&mut self, state: &State<'_>, rate: f64, monitor: &mut dyn Monitor) -> Result<Look> {
        let _ = (state, monitor);
        self.losses().map_or_else(|| Ok(Look::default()), |log| log.look(rate))
    }

    /// Records a report, for trainers with a log of evaluations. Called before the monitor gets it.
    fn log(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// The total number of steps that progress reports show.
    fn total(&self, state: &State<'_>) -> u64 {
        state.budget.steps
    }

    /// Number of evaluations without improvement after which training ends; `None` for no such limit.
    fn patience(&self) -> Option<u64> {
        None
    }

    /// Writes the model and everything needed to resume training.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    fn save(&mut self, state: &State<'_>, plan: &Checkpointing, stopped: Stopped) -> Result<()>;
}

/// The state to which a training without a metric returns. A state counts as good once a step from it was
/// finite.
struct LastGood {
    candidate: Tensor,
    step: u64,
    /// Whether the first step from the candidate was finite; `None` while that is unknown.
    proven: Option<bool>,
}

/// A trainer and its run.
pub struct Loop<'a, S: Step> {
    pub step: S,
    pub state: State<'a>,
    clip_norm: f64,
    max_restarts: u64,
    checkpoint: Option<&'a Checkpointing>,
    good: Option<LastGood>,
    /// Whether non-finite steps are masked on the device, and the flags of finiteness are read once for many
    /// steps. Reading a flag makes the host wait for the device. On a CPU there is nothing to wait for.
    masked: bool,
    /// One 0-dimensional tensor for each step whose finiteness has not been read yet. It is finite if the
    /// step was.
    pending: Vec<Tensor>,
    /// The reason of the last step that failed before it had a gradient.
    reason: Option<String>,
}

impl<'a, S: Step> Loop<'a, S> {
    pub fn new(
        step: S,
        state: State<'a>,
        options: &TrainingOptions,
        checkpoint: Option<&'a Checkpointing>,
    ) -> Result<Self> {
        let good = match S::MEASURED {
            true => None,
            false => {
                Some(LastGood { candidate: state.current()?.copy(), step: state.ledger.step, proven: None })
            }
        };
        // Metrics and loss scales are read on the host anyway, and ranks read the outcome of each step
        // anyway.
        let alone = state.exchange.world().is_alone();
        let masked = alone && !S::MEASURED && state.parameters.device() != Device::Cpu;
        Ok(Loop {
            step,
            state,
            clip_norm: options.clip_norm,
            max_restarts: options.max_restarts,
            checkpoint,
            good,
            masked,
            pending: Vec::new(),
            reason: None,
        })
    }

    /// Trains until the budget is spent, or until something else ends training. An interrupt is an ordinary
    /// end.
    ///
    /// If there are checkpoints, a last one is written at any end, panics included. If it cannot be written,
    /// an error that ended training is still the one returned. A training that ended well keeps its model and
    /// gets a note.
    ///
    /// # Errors
    /// Any error of the trainer or the monitor except an interrupt; [`Error::Io`] if the first checkpoint,
    /// before the first step, cannot be written.
    pub fn train(&mut self, monitor: &mut dyn Monitor) -> Result<Stopped> {
        let outcome =
            panic::catch_unwind(AssertUnwindSafe(|| self.begin().and_then(|()| self.steps(monitor))));
        let outcome = match outcome {
            Ok(outcome) => Ok(match self.state.exchange.close(outcome, self.state.budget.own_seconds()) {
                Err(Error::OutOfTime) => Ok(Stopped::Budget),
                outcome => outcome,
            }),
            Err(payload) => {
                let panicked = Error::Internal(anyhow::anyhow!("a panic"));
                let _ = self.state.exchange.close::<()>(Err(panicked), self.state.budget.own_seconds());
                Err(payload)
            }
        };
        self.state.budget.tell_no_more();
        let stopped = match &outcome {
            Ok(Ok(stopped)) => *stopped,
            // An interrupt or a failure: the checkpoint says that training had not ended.
            _ => Stopped::Interrupted,
        };
        let saved = self.settle().and_then(|()| self.save(stopped));
        let outcome = outcome.unwrap_or_else(|payload| panic::resume_unwind(payload));
        match outcome {
            Ok(_) | Err(Error::Interrupted(_)) => {}
            Err(error) => return Err(error),
        }
        if let Err(failure) = saved {
            match self.state.note(S::STAGE, unwritten(&failure), monitor) {
                Ok(()) | Err(Error::Interrupted(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stopped)
    }

    /// Checks the connection of the ranks, and sets the clock to that of the leading rank.
    fn begin(&mut self) -> Result<()> {
        let State { exchange, parameters, budget, ledger, .. } = &mut self.state;
        let seconds = exchange.begin(parameters, budget.own_seconds())?;
        if !exchange.world().is_alone() {
            budget.tell(seconds);
            if ledger.step == 0 && ledger.began > 0.0 {
                ledger.began = seconds;
            }
        }
        Ok(())
    }

    fn steps(&mut self, monitor: &mut dyn Monitor) -> Result<Stopped> {
        if self.state.ledger.step == 0 {
            // A checkpoint that cannot be written fails here, before there is work to lose.
            self.save(Stopped::Interrupted)?;
        }
        let mut written = self.state.budget.seconds();
        while self.state.ledger.step < self.state.budget.steps {
            let began = self.state.budget.seconds();
            let rate = self.one(monitor)?;
            let took = self.state.budget.seconds() - began;
            let step = self.state.ledger.step;
            if self.state.ledger.consecutive >= SKIPPED_LIMIT {
                let reason = self.reason.take().map_or(String::new(), |reason| format!(" ({reason})"));
                let why = format!("{SKIPPED_LIMIT} steps in a row had no finite gradient{reason}");
                if let Some(stopped) = self.restart(&why, monitor)? {
                    return Ok(stopped);
                }
            }
            // A long step is not begun shortly before the time limit.
            let exhausted = self.state.budget.exhausted() || !self.state.budget.allows(took);
            let last = step == self.state.budget.steps || exhausted;
            if self.step.due(&self.state, last) {
                if let Some(stopped) = self.look(rate, monitor)? {
                    return Ok(stopped);
                }
            }
            monitor.tick()?;
            if step == self.state.budget.steps {
                break;
            }
            if exhausted {
                return Ok(Stopped::Budget);
            }
            let since = self.state.budget.seconds() - written;
            if self.checkpoint.is_some_and(|plan| plan.due(step, since)) {
                self.settle()?;
                // `Interrupted` in a checkpoint means that training had not ended.
                if let Err(failure) = self.save(Stopped::Interrupted) {
                    // A failed checkpoint does not end training. It is noted once, and again at the end.
                    if !self.state.ledger.notes.iter().any(|note| note.text.starts_with(UNWRITTEN)) {
                        self.state.note(S::STAGE, unwritten(&failure), monitor)?;
                    }
                }
                written = self.state.budget.seconds();
            }
        }
        Ok(Stopped::Completed)
    }

    /// Takes one step and returns its learning rate.
    fn one(&mut self, monitor: &mut dyn Monitor) -> Result<f64> {
        let rate = self.state.rate();
        let own = self.step.gradient(&mut self.state, monitor);
        let State { exchange, budget, .. } = &mut self.state;
        let (attempt, seconds) = exchange.gradient(own, budget.own_seconds())?;
        if !exchange.world().is_alone() {
            budget.tell(seconds);
        }
        let attempt = match attempt {
            Ok(gradient) => Some(gradient),
            // The trainer found a loss that is not finite before it had a gradient.
            Err(Error::Divergence(reason) | Error::NotFiniteAnswer(reason)) => {
                self.reason = Some(reason);
                None
            }
            Err(error) => return Err(error),
        };
        self.state.ledger.step += 1;
        self.step.stepped(attempt.as_ref().map_or(&[], |gradient| &gradient.losses))?;
        match attempt {
            None => {
                self.settle()?;
                self.count(false);
            }
            Some(Gradient { mut flat, losses }) => {
                let mut probe = clip_norm(&mut flat, self.clip_norm)?;
                for loss in &losses {
                    probe += loss * 0.0;
                }
                match self.masked {
                    true => self.apply_masked(&flat, probe, rate)?,
                    false => {
                        let finite = probe.double_value(&[]).is_finite();
                        if finite {
                            self.apply(&flat, rate, None)?;
                        }
                        self.count(finite);
                    }
                }
            }
        }
        if self.state.ledger.step % KEEP_EVERY == 0 {
            self.settle()?;
            self.keep()?;
        }
        Ok(rate)
    }

    fn apply(&mut self, gradient: &Tensor, rate: f64, mask: Option<&Tensor>) -> Result<()> {
        let parameters = self.state.parameters;
        self.state.optimiser.step_masked(parameters, gradient, rate, mask)?;
        self.state.averages.update_masked(parameters, mask)
    }

    /// Applies a step that changes nothing if it is not finite. The host does not wait for the result.
    fn apply_masked(&mut self, gradient: &Tensor, probe: Tensor, rate: f64) -> Result<()> {
        let mask = probe.f_isfinite()?.f_to_kind(self.state.parameters.kind())?;
        self.apply(gradient, rate, Some(&mask))?;
        self.pending.push(probe);
        Ok(())
    }

    /// Reads the pending flags, so that all counts are correct.
    fn settle(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let probes = Tensor::f_stack(&pending, 0)?.to_device(Device::Cpu).to_kind(Kind::Double);
        for probe in Vec::<f64>::try_from(&probes)? {
            let finite = probe.is_finite();
            if !finite {
                // Both had counted the step when it was applied.
                self.state.optimiser.uncount();
                self.state.averages.uncount();
            }
            self.count(finite);
        }
        Ok(())
    }

    /// Counts one step that was taken, or skipped because it was not finite.
    fn count(&mut self, finite: bool) {
        let ledger = &mut self.state.ledger;
        if finite {
            ledger.scale.succeeded();
            ledger.consecutive = 0;
        } else {
            ledger.skipped_steps += 1;
            // If the loss scale can still shrink, that may help, and the step does not count towards a
            // divergence.
            if !ledger.scale.overflowed() {
                ledger.consecutive += 1;
            }
        }
        if let Some(good) = &mut self.good {
            good.proven.get_or_insert(finite);
        }
    }

    /// Makes the current state the candidate to which a training without a metric may return.
    fn keep(&mut self) -> Result<()> {
        self.promote()?;
        let current = self.state.current()?;
        let Some(good) = &mut self.good else { return Ok(()) };
        good.candidate.f_copy_(&current)?;
        (good.step, good.proven) = (self.state.ledger.step, None);
        Ok(())
    }

    /// Makes the candidate the best state if it has proven to be good.
    fn promote(&mut self) -> Result<()> {
        let Some(good) = self.good.as_ref().filter(|good| good.proven == Some(true)) else { return Ok(()) };
        self.state.best.f_copy_(&good.candidate)?;
        self.state.ledger.best_step = good.step;
        Ok(())
    }

    /// Evaluates the model, keeps the best state and reports. Returns a reason if training should stop.
    fn look(&mut self, rate: f64, monitor: &mut dyn Monitor) -> Result<Option<Stopped>> {
        let Look { metric, name, values, chosen, latest } = self.step.look(&self.state, rate, monitor)?;
        self.state.averages.choose(chosen);
        let total = self.step.total(&self.state);
        let progress = Progress { values, ..self.state.progress(S::STAGE, total) };
        self.step.log(&progress);
        let stopped = match metric {
            Some(metric) => self.judge(metric, latest, &name, monitor)?,
            None => None,
        };
        monitor.report(&progress)?;
        Ok(stopped)
    }

    /// Keeps the state if its metric is the best so far or if it has to be the `latest`, and restarts from the best
    /// state after a divergence.
    fn judge(
        &mut self,
        metric: f64,
        latest: bool,
        name: &str,
        monitor: &mut dyn Monitor,
    ) -> Result<Option<Stopped>> {
        let best = self.state.ledger.best;
        let diverged = !metric.is_finite() || best.is_some_and(|best| metric > BLOW_UP * best.max(1e-9));
        let improved = metric.is_finite() && best.is_none_or(|best| metric < best) || latest && !diverged;
        if improved {
            self.state.best = self.state.current()?.copy();
            let ledger = &mut self.state.ledger;
            (ledger.best, ledger.best_step, ledger.stale) = (Some(metric), ledger.step, 0);
        } else {
            self.state.ledger.stale += 1;
        }
        self.state.ledger.schedule.evaluated(improved);
        if diverged {
            return self.restart(&format!("the held-out {name} was {metric:.3e}"), monitor);
        }
        let patience = self.step.patience().is_some_and(|limit| self.state.ledger.stale >= limit);
        Ok(patience.then_some(Stopped::Patience))
    }

    /// Returns to the best state and halves the learning rate. After `max_restarts` restarts it ends
    /// training.
    fn restart(&mut self, why: &str, monitor: &mut dyn Monitor) -> Result<Option<Stopped>> {
        self.settle()?;
        self.promote()?;
        let (best, allowed) = (self.state.ledger.best_step, self.max_restarts);
        let exhausted = self.state.ledger.restarts >= allowed;
        let text = match exhausted {
            true => format!("{why}: stopped after {allowed} restarts; the weights of step {best} are kept"),
            false => format!("{why}: back to step {best}, with half the learning rate"),
        };
        let mut flat = self.state.parameters.flat()?;
        tch::no_grad(|| flat.f_copy_(&self.state.best))?;
        self.state.averages.restart(&self.state.best)?;
        if let Some(good) = &mut self.good {
            good.candidate.f_copy_(&self.state.best)?;
            (good.step, good.proven) = (best, None);
        }
        self.state.optimiser.reset();
        let ledger = &mut self.state.ledger;
        ledger.consecutive = 0;
        if !exhausted {
            ledger.restarts += 1;
            ledger.schedule.halve();
        }
        self.state.note(S::STAGE, text, monitor)?;
        Ok(exhausted.then_some(Stopped::Diverged))
    }

    fn save(&mut self, stopped: Stopped) -> Result<()> {
        match self.checkpoint {
            Some(plan) => self.step.save(&self.state, plan, stopped),
            None => Ok(()),
        }
    }
}

const UNWRITTEN: &str = "the checkpoint could not be written";

fn unwritten(failure: &Error) -> String {
    format!("{UNWRITTEN}: {failure}")
}

#[cfg(test)]
mod tests;
