//! Progress bars on standard error, for anything that takes longer than a second.

use crate::audit::Watch;
use crate::evidence::context::Observer;
use crate::source::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Bars for fetching, hashing and testing. Nothing is drawn where standard error is no terminal.
pub(super) struct Bars {
    all: MultiProgress,
    hashing: Mutex<Option<ProgressBar>>,
    test: Mutex<Option<ProgressBar>>,
    fetching: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    /// No bars yet.
    pub(super) fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            hashing: Mutex::new(None),
            test: Mutex::new(None),
            fetching: Mutex::new(HashMap::new()),
        }
    }

    /// Removes what is still drawn.
    pub(super) fn clear(&self) {
        // A terminal that went away is no reason to fail.
        let _ = self.all.clear();
    }

    fn bytes(&self, label: &str, n_bytes: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "{msg:30!} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.all.add(ProgressBar::new(n_bytes).with_style(style));
        bar.set_message(crate::report::visible(label).into_owned());
        bar
    }
}

/// A poisoned lock means that another thread panicked; a progress bar has no say in that.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Progress for Bars {
    fn fetch_started(&self, file: &str, n_bytes: u64, n_present: u64) {
        let bar = self.bytes(file, n_bytes);
        bar.set_position(n_present);
        lock(&self.fetching).insert(file.to_owned(), bar);
    }

    fn fetched(&self, file: &str, n_bytes: u64) {
        if let Some(bar) = lock(&self.fetching).get(file) {
            bar.inc(n_bytes);
        }
    }

    fn fetch_ended(&self, file: &str) {
        if let Some(bar) = lock(&self.fetching).remove(file) {
            bar.finish_and_clear();
        }
    }

    fn notice(&self, message: &str) {
        // Printing above the bars fails only where there is no terminal to print to.
        let _ = self.all.println(crate::report::visible(message));
    }
}

impl Observer for Bars {
    fn test_started(&self, test: &'static str, component: &str) {
        let bar = self.all.add(ProgressBar::new_spinner());
        bar.set_message(format!("{test} · {}", crate::report::visible(component)));
        bar.enable_steady_tick(Duration::from_millis(200));
        *lock(&self.test) = Some(bar);
    }

    fn test_ended(&self, _: &'static str, _: &str) {
        if let Some(bar) = lock(&self.test).take() {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Bars {
    fn hashing_started(&self, label: &str, n_bytes: u64) {
        *lock(&self.hashing) = Some(self.bytes(&format!("hashing {label}"), n_bytes));
    }

    fn hashed(&self, n_bytes: u64) {
        if let Some(bar) = lock(&self.hashing).as_ref() {
            bar.inc(n_bytes);
        }
    }

    fn hashing_ended(&self) {
        if let Some(bar) = lock(&self.hashing).take() {
            bar.finish_and_clear();
        }
    }
}

/// Columns of the terminal, if there is one.
pub(super) fn terminal_width() -> Option<u16> {
    comfy_table::Table::new().width()
}

/// A bar that counts things; drawn only on a terminal.
pub(super) fn counter(what: &str, n: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:20} {bar:30} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(n).with_style(style);
    bar.set_message(what.to_owned());
    bar
}
