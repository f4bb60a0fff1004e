//! Progress bars on standard error, for anything that takes longer than a second.

use crate::audit::{BytesSeen, Watch};
use crate::evidence::context::Observer;
use crate::source::Progress;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Bars for fetching, hashing and testing. Nothing is drawn where standard error is no terminal.
pub(super) struct Bars {
    all: MultiProgress,
    hashing: Mutex<Option<ProgressBar>>,
    test: Mutex<Option<ProgressBar>>,
    reading: Mutex<Option<ProgressBar>>,
    fetching: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    /// No bars yet.
    pub(super) fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            hashing: Mutex::new(None),
            test: Mutex::new(None),
            reading: Mutex::new(None),
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

    fn reading_started(&self, budget_bytes: u64, n_seen: BytesSeen) {
        let bar = self.all.add(ProgressBar::new_spinner());
        if let Ok(style) = against_budget(budget_bytes, n_seen) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        *lock(&self.reading) = Some(bar);
    }

    fn reading_ended(&self) {
        if let Some(bar) = lock(&self.reading).take() {
            bar.finish_and_clear();
        }
    }
}

/// Bytes read of a budget, asked for anew each time the bar is drawn.
fn against_budget(
    budget_bytes: u64,
    n_seen: BytesSeen,
) -> Result<ProgressStyle, indicatif::style::TemplateError> {
    let write = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
        let words = budget_words(n_seen(), budget_bytes);
        // A bar that cannot be drawn is no reason to fail.
        let _ = out.write_str(&words);
    };
    let style = ProgressStyle::with_template("{spinner} read {against_budget}")?;
    Ok(style.with_key("against_budget", write))
}

fn budget_words(n_bytes: u64, budget_bytes: u64) -> String {
    let percent = n_bytes.saturating_mul(100) / budget_bytes.max(1);
    let (read, budget) = (HumanBytes(n_bytes), HumanBytes(budget_bytes));
    format!("{read} of a budget of {budget} ({percent} %)")
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

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Keeps what is written, and moves nowhere.
    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<String>>);

    impl TermLike for Written {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            lock(&self.0).push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_are_shown_against_the_budget_as_they_are_when_the_bar_is_drawn() {
        let (written, seen) = (Written::default(), Arc::new(AtomicU64::new(0)));
        let target = ProgressDrawTarget::term_like(Box::new(written.clone()));
        let bar = ProgressBar::with_draw_target(None, target);
        let n_seen = seen.clone();
        let n_seen: BytesSeen = Arc::new(move || n_seen.load(Ordering::Relaxed));
        bar.set_style(against_budget(100 << 20, n_seen).unwrap());
        bar.tick();
        let shown = lock(&written.0).clone();
        assert!(
            shown.contains("read 0 B of a budget of 100.00 MiB (0 %)"),
            "{shown}"
        );
        seen.store(25 << 20, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        bar.tick();
        let shown = lock(&written.0).clone();
        assert!(
            shown.contains("read 25.00 MiB of a budget of 100.00 MiB (25 %)"),
            "{shown}"
        );
    }
}
