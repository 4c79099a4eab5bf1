//! A look at the state of a partition without claiming it: reads only, and fences nobody.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use uuid::Uuid;

use super::{Millis, Redis, StoreError};

/// Windows that are asked for in one call.
const PAGE: isize = 500;

/// The state of aggregate for one partition, as Redis holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowsLook {
    /// Version of the state.
    pub version: Option<u32>,
    /// The last claimant, accepted or not.
    pub token: Option<Uuid>,
    /// The accepted claim that wrote it last.
    pub writer: Option<Uuid>,
    /// Id of the source topic it belongs to.
    pub topic: Option<String>,
    /// Part of its keys' names.
    pub incarnation: Option<String>,
    /// Everything below this offset is applied.
    pub applied: Option<i64>,
    /// The last boundary closed below that.
    pub closed: Option<Millis>,
    /// Boundaries at which windows are open, from the earliest.
    pub open: Vec<OpenBoundary>,
    /// Sealed parts that are not acknowledged yet.
    pub sealed_parts: u64,
}

/// The open windows that end at a boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenBoundary {
    /// When they end.
    pub boundary: Millis,
    /// Offset of the first message of the oldest.
    pub first_offset: i64,
    /// How many there are.
    pub windows: u64,
    /// Messages in them, without those in sealed parts.
    pub messages: u64,
    /// Bytes of these messages' objects.
    pub bytes: u64,
}

/// Looks at the state of a partition; none if there is none.
///
/// # Errors
/// [`StoreError`]
pub async fn look(redis: &Redis, prefix: &str, partition: i32) -> Result<Option<WindowsLook>, StoreError> {
    let tag = super::tag(prefix, partition);
    let owner: HashMap<String, String> =
        redis.command("windows.look", redis::cmd("HGETALL").arg(format!("{tag}:owner"))).await?;
    if owner.is_empty() {
        return Ok(None);
    }
    let text = |name| owner.get(name).filter(|text| !text.is_empty());
    let number = |name| text(name).and_then(|text| text.parse().ok());
    let token = |name| text(name).and_then(|text| text.parse().ok());
    let mut look = WindowsLook {
        version: number("v").and_then(|version: i64| version.try_into().ok()),
        token: token("token"),
        writer: token("writer"),
        topic: text("topic").cloned(),
        incarnation: text("incarnation").cloned(),
        applied: number("applied"),
        closed: number("closed").map(Millis),
        open: Vec::new(),
        sealed_parts: 0,
    };
    if let Some(incarnation) = &look.incarnation {
        let at = format!("{tag}:{incarnation}");
        look.sealed_parts =
            redis.command("windows.look", redis::cmd("HLEN").arg(format!("{at}:parts"))).await?;
        let open: BTreeMap<i64, i64> =
            redis.command("windows.look", redis::cmd("HGETALL").arg(format!("{at}:open"))).await?;
        for (boundary, first_offset) in open {
            look.open.push(boundary_at(redis, &at, Millis(boundary), first_offset).await?);
        }
    }
    Ok(Some(look))
}

/// Adds up the windows of a boundary.
async fn boundary_at(
    redis: &Redis,
    at: &str,
    boundary: Millis,
    first_offset: i64,
) -> Result<OpenBoundary, StoreError> {
    let mut open = OpenBoundary { boundary, first_offset, windows: 0, messages: 0, bytes: 0 };
    let due = format!("{at}:due:{}", boundary.0);
    loop {
        let rank = open.windows as isize;
        let mut page = redis::cmd("ZRANGE");
        page.arg(&due).arg(rank).arg(rank + PAGE - 1);
        let names: Vec<String> = redis.command("windows.look", &page).await?;
        if names.is_empty() {
            return Ok(open);
        }
        let mut sizes = redis::pipe();
        for name in &names {
            sizes.cmd("HMGET").arg(format!("{at}:i:{name}")).arg("#n").arg("#b");
        }
        let sizes: Vec<(Option<u64>, Option<u64>)> = redis.pipeline("windows.look", &sizes).await?;
        open.windows += names.len() as u64;
        open.messages += sizes.iter().filter_map(|(messages, _)| *messages).sum::<u64>();
        open.bytes += sizes.iter().filter_map(|(_, bytes)| *bytes).sum::<u64>();
    }
}
