//! What work costs: CPU time and time on the clock.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};

/// Ticks a second in which Linux tells the times of a process, on every machine (`USER_HZ`).
const TICKS: f64 = 100.0;

/// CPU time spent so far, and when that was read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    cpu: Duration,
    at: Instant,
}

/// What was spent on so many things.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// By all threads, in user and kernel mode.
    cpu: Duration,
    /// By the clock.
    time: Duration,
    count: usize,
}

impl Reading {
    /// Of this process.
    pub fn own() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own");
        let spent = |time: nix::sys::time::TimeVal| {
            Duration::new(time.tv_sec() as u64, 1_000 * time.tv_usec() as u32)
        };
        Self { cpu: spent(usage.user_time()) + spent(usage.system_time()), at: Instant::now() }
    }

    /// Of another process that runs, to a hundredth of a second.
    pub fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
        // The name before it stands in parentheses, and may hold anything.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |field: usize| fields[field].parse::<f64>().expect("times are numbers");
        Self { cpu: Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS), at: Instant::now() }
    }

    /// What was spent since an earlier reading on so many things.
    pub fn since(self, earlier: Self, count: usize) -> Cost {
        Cost { cpu: self.cpu.saturating_sub(earlier.cpu), time: self.at - earlier.at, count }
    }
}

impl Cost {
    /// Microseconds of CPU for each.
    pub fn micros_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.count as f64
    }

    /// How many a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}
