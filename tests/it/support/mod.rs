//! The rig: what the tests start around the product, all on free ports of loopback and gone when the tests end.
//!
//! | what | how |
//! |---|---|
//! | Apache Kafka | [`kafka`] for the shared one, [`Kafka::start`] for one to break, [`broker`] if the embedded one will do too |
//! | certificates | [`Authority::new`] |
//! | records | [`produce`], [`read_topic`], [`end_offsets`], [`committed`], [`members`] |
//! | Redis | [`redis`], [`redis_with`], [`redis_by_tls`] |
//! | a customer's endpoint | [`receiver`] |
//! | an endpoint that misbehaves | [`hostile`] |
//! | a browser | [`Browser::open`] |
//! | the console | [`System::console`] with [`token`]s |
//! | a mail server | [`mail_server`], [`secure_mail_server`] |
//! | resolvers of names | [`dns::resolver`] |
//! | an egress proxy | [`egress`] |
//! | the product | [`process`], and all of it: [`tenant`], [`system`] |
//! | Prometheus | [`prometheus`] |
//! | a network that breaks | [`proxy`] |
//! | time | [`wait_until`]: a condition, never a fixed sleep; [`wait_while_moving`] for many |

#![allow(dead_code, reason = "one rig for many tests: not each part is in use at all times")]
#![allow(unused_imports, reason = "the re-exports are what tests may use")]

pub mod authority;
mod broker;
mod browser;
pub mod children;
pub mod console;
pub mod dns;
mod egress;
mod hostile;
mod kafka;
mod load;
mod mail;
mod ports;
mod process;
mod prometheus;
mod proxy;
mod receiver;
mod records;
mod redis;
mod report;
mod system;

use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

pub use self::authority::Authority;
pub use self::broker::{Broker, broker};
pub use self::browser::Browser;
pub use self::console::{ADMIN, Answered, Console, claims, signed, token};
pub use self::egress::{Egress, egress};
pub use self::hostile::{Hostile, Step, hostile};
pub use self::kafka::{Kafka, kafka};
pub use self::load::Load;
pub use self::mail::{MailServer, mail_server, secure_mail_server};
pub use self::ports::HeldPort;
pub use self::process::{Finished, Launch, Process, get, process};
pub use self::prometheus::{Prometheus, prometheus};
pub use self::proxy::{Fault, Proxy, proxy};
pub use self::receiver::{
    Answer, Behaviour, Receiver, Request, answer, fail_first, hang, ok, receiver, refuse, status,
};
pub use self::records::{
    Committed, Outgoing, Record, commit, committed, end_offsets, members, produce, produce_afresh, read_topic,
};
pub use self::redis::{Redis, RedisKind, redis, redis_by_tls, redis_with};
pub use self::system::{
    PATIENT, Role, SESSION, Setup, System, Tenant, event, message_ids, system, tenant, webhook,
};

/// All topics, without prefix.
pub const TOPICS: [&str; 12] = [
    "message-events",
    "webhook-settings",
    "webhook-states",
    "webhook-health",
    "message-skips",
    "bundles",
    "waiting-deliveries",
    "delivery-attempts",
    "webhook-changes",
    "webhook-events",
    "notifications",
    "dead-letters",
];

/// The longest that anything in a test may take before it counts as failed.
pub const LIMIT: Duration = Duration::from_mins(1);

/// The longest that something may take that goes on all the time, such as the sending of thousands.
const LONGEST: Duration = Duration::from_mins(5);

/// How long to wait before a condition is asked for again: at first, and at most. Many tests wait at once, and to ask costs
/// the machine more than what is waited for.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// Asks until `condition` holds.
///
/// # Panics
///
/// With `what`, which reads after "waited for", if it does not hold within `limit`.
pub async fn wait_until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    let (mut pause, longest) = ASK_AGAIN;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for {what} for {limit:?}, in vain");
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 3 / 2);
    }
}

/// Asks until nothing is left, as long as what is left changes: how long many take is the machine's matter.
///
/// # Panics
///
/// With `what`, which reads after "waited for", if the same is left for [`LIMIT`], or something after [`LONGEST`].
pub async fn wait_while_moving<T: PartialEq + Debug>(what: &str, mut left: impl AsyncFnMut() -> Option<T>) {
    let began = Instant::now();
    let (mut last, mut moved) = (None, began);
    let (mut pause, longest) = ASK_AGAIN;
    while let Some(now) = left().await.map(Some) {
        if now != last {
            (last, moved) = (now, Instant::now());
        }
        assert!(moved.elapsed() < LIMIT, "waited for {what} for {LIMIT:?}, in vain; left: {last:?}");
        assert!(began.elapsed() < LONGEST, "waited for {what} for {LONGEST:?}, in vain; left: {last:?}");
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 3 / 2);
    }
}

/// Runs the parts of the rig that play somebody else, so that a busy test does not slow them down.
fn background() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("rig")
            .enable_all()
            .build()
            .expect("a runtime needs only threads")
    })
}

/// Runs what blocks without holding up the caller's runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
