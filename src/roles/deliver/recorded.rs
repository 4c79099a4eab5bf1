//! What `delivery-attempts` already says of the bundles of a partition: read at a claim, so that a restart behind one
//! hanging request repeats nothing that was recorded.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use http::StatusCode;

use crate::{
    io::kafka::replay::{Replayed, replay},
    model::delivery::is_refusal,
    roles::process::Process,
    wire::{
        attempt::{self, AttemptError, AttemptRecord},
        waiting::Owner,
    },
};

/// What was recorded of one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    /// Whose it is.
    pub owner: Owner,
    /// Number of each attempt, and whether the endpoint itself refused it.
    tries: Vec<(u32, bool)>,
    /// It was delivered or rejected.
    pub settled: bool,
}

impl Recorded {
    /// Attempts and refusals of a delivery for which so many are known from elsewhere.
    pub fn on_top_of(&self, attempts: u32, refusals: u32) -> (u32, u32) {
        let later = self.tries.iter().filter(|(number, _)| *number > attempts);
        let refused = later.clone().filter(|(_, refused)| *refused).count() as u32;
        (later.map(|(number, _)| *number).max().unwrap_or(attempts), refusals + refused)
    }
}

/// By the bundle's offset.
pub(super) type RecordedAttempts = HashMap<i64, Recorded>;

/// Reads the attempts of a partition from an offset on. Returns them with the end of the partition.
///
/// # Errors
/// If the partition can't be read.
pub(super) async fn read(
    process: &Process,
    partition: i32,
    from: i64,
) -> Result<(RecordedAttempts, i64), String> {
    let recorded = Arc::new(Mutex::new(Ok(RecordedAttempts::new())));
    let shared = recorded.clone();
    let take = move |record: &Replayed<'_>| {
        let mut recorded = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match record.value.map(attempt::decode) {
            Some(Ok(attempt)) => {
                if let Ok(recorded) = &mut *recorded {
                    note(recorded, attempt, partition);
                }
            }
            // To pass over it may be to send what it settled once more.
            Some(Err(error @ AttemptError::Version(_))) => {
                *recorded = Err(format!("the one at offset {} is of {error}", record.offset));
                return ControlFlow::Break(());
            }
            Some(Err(AttemptError::Json(_))) | None => {}
        }
        ControlFlow::Continue(())
    };
    let unreadable =
        |problem: String| format!("the attempts of partition {partition} can't be read: {problem}");
    let end = replay(&process.kafka, &process.topics.delivery_attempts, partition, from, take)
        .await
        .map_err(|error| unreadable(error.to_string()))?;
    let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
    let recorded = std::mem::replace(&mut *recorded, Ok(RecordedAttempts::new())).map_err(unreadable)?;
    Ok((recorded, end))
}

fn note(recorded: &mut RecordedAttempts, attempt: AttemptRecord, partition: i32) {
    if attempt.bundle.partition != partition {
        return;
    }
    let AttemptRecord { webhook_id, workspace_id, chat_id, .. } = attempt;
    let owner = Owner { webhook_id, workspace_id, chat_id };
    let new = || Recorded { owner, tries: Vec::new(), settled: false };
    let known = recorded.entry(attempt.bundle.offset).or_insert_with(new);
    let status = attempt.response.as_ref().and_then(|response| StatusCode::from_u16(response.status).ok());
    known.tries.push((attempt.attempt, is_refusal(status)));
    known.settled |= attempt.settled.is_some();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{ChatId, WebhookId, WorkspaceId};

    #[test]
    fn attempts_that_are_known_from_elsewhere_are_not_counted_twice() {
        let owner = Owner {
            webhook_id: WebhookId::parse("wh").unwrap(),
            workspace_id: WorkspaceId::parse("ws").unwrap(),
            chat_id: ChatId::parse("c").unwrap(),
        };
        let tries = vec![(3, true), (4, true), (5, false)];
        let recorded = Recorded { owner, tries, settled: false };
        assert_eq!(recorded.on_top_of(3, 1), (5, 2));
        assert_eq!(recorded.on_top_of(0, 0), (5, 2));
        assert_eq!(recorded.on_top_of(7, 1), (7, 1));
    }
}
