//! Moments at which a test may end the process, as `kill -9` does. Nothing of it is in a build without the feature
//! `failpoints`.

/// The process dies here, without another step, if the variable `BUNDLEHOOK_FAILPOINT` names this point: `NAME`, or
/// `NAME:N` for the N-th time that it gets here.
#[cfg(feature = "failpoints")]
pub fn reach(point: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    };

    use nix::{sys::signal, unistd::Pid};

    static CHOSEN: LazyLock<Option<(String, usize)>> = LazyLock::new(|| {
        let chosen = std::env::var("BUNDLEHOOK_FAILPOINT").ok()?;
        let (name, count) = chosen.split_once(':').unwrap_or((&chosen, "1"));
        Some((name.to_owned(), count.parse().expect("only tests set it, and name a number")))
    });
    static REACHED: AtomicUsize = AtomicUsize::new(0);

    if let Some((name, count)) = CHOSEN.as_ref()
        && name == point
        && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        let _ = signal::kill(Pid::this(), signal::SIGKILL);
    }
}

/// Nothing in this build.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_point: &str) {}
