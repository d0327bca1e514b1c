//! Progress of things that take over a second, on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows what is being done, or nothing where standard error is no terminal.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
}

impl Progress {
    pub fn new(shown: bool) -> Self {
        Self { shown }
    }

    /// Runs `work` under a spinner that says what it does. It appears only if the work takes long, and disappears with it.
    pub fn during<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let spinner = if self.shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        spinner.set_message(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(120));
        let result = work();
        spinner.finish_and_clear();
        result
    }

    /// A bar that counts new tokens.
    pub fn tokens(&self, total: usize) -> ProgressBar {
        let target = if self.shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tokens, {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(Some(total as u64), target).with_style(style)
    }
}
