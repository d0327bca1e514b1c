//! Progress of things that take over a second, on standard error.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows what is being done, or nothing where standard error is no terminal.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
}

impl Progress {
    /// Progress that is shown, or not.
    pub fn new(shown: bool) -> Self {
        Self { shown }
    }

    /// Progress that is shown unless quiet is asked for or nobody looks at standard error.
    pub fn unless_quiet(quiet: bool) -> Self {
        Self::new(!quiet && std::io::stderr().is_terminal())
    }

    /// Runs `work` under a spinner that says what it does. It appears if the work takes over a second, and disappears with it.
    pub fn during<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        if !self.shown {
            return work();
        }
        let spinner = ProgressBar::hidden().with_message(what.to_owned());
        let (working, done) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if done.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                    spinner.set_draw_target(ProgressDrawTarget::stderr());
                    spinner.enable_steady_tick(Duration::from_millis(120));
                }
                // Until the work is done: only then may the spinner be cleared.
                let _ = done.recv();
                spinner.finish_and_clear();
            });
            let result = work();
            drop(working);
            result
        })
    }

    /// A bar that counts new tokens.
    pub fn tokens(&self, total: usize) -> ProgressBar {
        let target = if self.shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tokens, {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(Some(total as u64), target).with_style(style)
    }
}
