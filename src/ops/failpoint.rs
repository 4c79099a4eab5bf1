//! Moments at which a test may end the process, as `kill -9` does, or let it stand still. Nothing of it is in a build
//! without the feature `failpoints`.

/// The process dies here, without another step, if the variable `BUNDLEHOOK_FAILPOINT` names this point: `NAME`, or
/// `NAME:N` for the N-th time that it gets here. With `NAME:N:stop` it stands still until somebody lets it go on.
#[cfg(feature = "failpoints")]
pub fn reach(point: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    };

    use nix::sys::signal;

    struct Chosen {
        name: String,
        count: usize,
        signal: signal::Signal,
    }

    static CHOSEN: LazyLock<Option<Chosen>> = LazyLock::new(|| {
        let chosen = std::env::var("BUNDLEHOOK_FAILPOINT").ok()?;
        let mut parts = chosen.split(':');
        let name = parts.next()?.to_owned();
        let count = parts.next().unwrap_or("1").parse().expect("only tests set it, and name a number");
        let signal = if parts.next() == Some("stop") { signal::SIGSTOP } else { signal::SIGKILL };
        Some(Chosen { name, count, signal })
    });
    static REACHED: AtomicUsize = AtomicUsize::new(0);

    if let Some(Chosen { name, count, signal }) = CHOSEN.as_ref()
        && name == point
        && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        // To this thread: sent to the process, it may reach another one first, and this one goes on for a moment.
        let _ = signal::raise(*signal);
    }
}

/// Nothing in this build.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_point: &str) {}
