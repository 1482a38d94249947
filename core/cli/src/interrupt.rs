//! Ctrl-C, and the signal by which job queues end a job: the run saves and stops.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mie_core::Result;
use mie_core::engine::{Observer, StepProgress};
use mie_core::error::Error;
use mie_record::{Event, RunDir};

/// Breaks a run off after the current step, once the user or the system asks for it.
pub(crate) struct Interruptible<'a> {
    inner: &'a mut dyn Observer,
    asked: Arc<AtomicBool>,
}

impl<'a> Interruptible<'a> {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(crate) fn new(inner: &'a mut dyn Observer) -> Result<Self> {
        Ok(Self { inner, asked: listen()? })
    }
}

/// Listens for Ctrl-C, and the signal that ends jobs, from now on: says whether there was one. A
/// second one ends the process at once.
///
/// # Errors
/// When the system refuses a handler.
pub(crate) fn listen() -> Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            // 128 + SIGINT, as shells have it; the last checkpoint stays.
            std::process::exit(130);
        }
    })
    .map_err(|e| Error::refused(format!("signals cannot be handled: {e}"), "start it again"))?;
    Ok(asked)
}

impl Observer for Interruptible<'_> {
    fn event(&mut self, event: &Event) {
        self.inner.event(event);
    }

    fn step(&mut self, progress: &StepProgress) -> ControlFlow<()> {
        let flow = self.inner.step(progress);
        if self.asked.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { flow }
    }

    fn started(&mut self, run: &RunDir, finished: bool) {
        self.inner.started(run, finished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl Observer for Silent {}

    #[test]
    fn a_run_goes_on_until_it_is_asked_to_stop() {
        let asked = Arc::new(AtomicBool::new(false));
        let mut silent = Silent;
        let mut observer = Interruptible { inner: &mut silent, asked: Arc::clone(&asked) };
        let progress =
            StepProgress { done: 1, total: 2, global_step: 1, ..StepProgress::default() };
        assert!(observer.step(&progress).is_continue());
        asked.store(true, Ordering::SeqCst);
        assert!(observer.step(&progress).is_break());
    }
}
