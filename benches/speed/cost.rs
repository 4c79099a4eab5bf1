//! What work costs: CPU time, time on the clock, memory.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};

/// Ticks a second in which Linux tells the times of a process, on every machine (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Bytes of a mebibyte.
pub const MIB: f64 = 1_048_576.0;

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

    /// Of other processes that run, together, each to a hundredth of a second.
    pub fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        Self { cpu: pids.into_iter().map(cpu_of).sum(), at: Instant::now() }
    }

    /// What was spent since an earlier reading on so many things.
    pub fn since(self, earlier: Self, count: usize) -> Cost {
        Cost { cpu: self.cpu.saturating_sub(earlier.cpu), time: self.at - earlier.at, count }
    }
}

fn cpu_of(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name before it stands in parentheses, and may hold anything.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("times are numbers");
    Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS)
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

/// Bytes of memory of a process that runs, now.
pub fn memory(pid: u32) -> f64 {
    status(pid, "VmRSS:")
}

/// The most bytes of memory of a process since [`forget_peak`].
pub fn peak_memory(pid: u32) -> f64 {
    status(pid, "VmHWM:")
}

/// Begins to look for the peak anew.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process is ours");
}

fn status(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("it is a number") * 1024.0
}
