//! Attempts at one thing, with doubling waits between them.

use super::super::{FetchOptions, Progress, SourceError};
use super::http::Failure;
use std::time::{Duration, Instant};

/// Attempts at one thing, with the waits between them.
#[derive(Debug)]
pub(in crate::source) struct Attempts<'a> {
    options: &'a FetchOptions,
    what: String,
    n_failed: u32,
    began: Instant,
}

impl<'a> Attempts<'a> {
    pub(in crate::source) fn new(options: &'a FetchOptions, what: impl Into<String>) -> Self {
        Self {
            options,
            what: what.into(),
            n_failed: 0,
            began: Instant::now(),
        }
    }

    /// Something arrived: the next failure is a first one.
    pub(in crate::source) fn progressed(&mut self) {
        self.n_failed = 0;
    }

    /// Waits before the next attempt, or gives up.
    pub(in crate::source) async fn after(
        &mut self,
        failure: Failure,
        progress: &dyn Progress,
    ) -> Result<(), SourceError> {
        self.n_failed += 1;
        let doubled = self
            .options
            .first_wait
            .saturating_mul(1 << (self.n_failed - 1).min(16));
        let (asked, reason) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Slow(asked) => (asked, None),
            Failure::Passing(reason) => (None, Some(reason)),
        };
        if self.n_failed >= self.options.n_attempts {
            return Err(match reason {
                None => SourceError::RateLimited {
                    url: self.what.clone(),
                    attempts: self.n_failed,
                    waited: self.began.elapsed(),
                },
                Some(last) => SourceError::Unreachable {
                    url: self.what.clone(),
                    attempts: self.n_failed,
                    last,
                },
            });
        }
        let wait = asked.unwrap_or(doubled).min(self.options.longest_wait);
        let why = reason.unwrap_or_else(|| "the server limits the rate".to_owned());
        if wait >= Duration::from_secs(1) {
            progress.notice(&format!(
                "{}: {why}; trying again in {:.0} s",
                self.what,
                wait.as_secs_f64()
            ));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
