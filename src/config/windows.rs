use std::time::Duration;

use super::value;
use crate::model::window::WindowRule;

/// Length of an hour unless told otherwise.
const HOUR: Duration = Duration::from_hours(1);

/// How messages become bundles.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Windows")]
pub struct WindowSettings {
    /// Length of an hour for windows; shorter only in demonstrations and tests.
    #[arg(long, env = "BUNDLEHOOK_HOUR", default_value = "1h", value_parser = value::hour)]
    pub hour: Duration,
    /// How long after its end a window waits for messages; a sixtieth of the hour unless set.
    #[arg(long, env = "BUNDLEHOOK_WINDOW_GRACE", value_parser = value::duration)]
    window_grace: Option<Duration>,
    /// Messages older than this at their arrival are skipped; `0` is no limit.
    #[arg(long, env = "BUNDLEHOOK_MAX_AGE", default_value = "7d", value_parser = value::duration_or_zero)]
    pub max_age: Duration,
    /// Name of the product in the last sentence of the aggregation.
    #[arg(long, env = "BUNDLEHOOK_PERMALINK_PRODUCT", default_value = "TimelinesAI")]
    pub permalink_product: String,
}

impl WindowSettings {
    /// How long after its end a window waits.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.window_grace.unwrap_or(self.hour / 60)
    }

    /// The rule that windows are made by.
    #[must_use]
    pub fn rule(&self) -> WindowRule {
        WindowRule::new(self.hour, self.grace(), self.max_age)
    }

    /// True if an hour is shorter than a real one.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.hour < HOUR
    }
}
