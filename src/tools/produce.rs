//! Publishes message events or webhook settings from a JSONL file, once every line of it is right.

mod input;
mod publish;
mod record;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{bail, ensure};

use self::{
    input::Input,
    publish::{Job, Summary, publish},
    record::{Kind, Secrets},
};
use super::{on_thread, say};
use crate::{
    config::{KafkaSettings, ProduceSettings},
    io::{
        kafka::{Topics, admin::Admin},
        sealing_keys,
    },
    model::history::COUNTS_AFTER,
};

/// Publishes a file, and for settings waits until they count. Ends early when `shutdown` resolves.
///
/// # Errors
/// If a line is wrong (then nothing is published), if the topic or the brokers are not there, if a record is not
/// acknowledged, or if it was ended early.
pub async fn run(
    kafka: KafkaSettings,
    settings: ProduceSettings,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (kind, path) = source(&settings)?;
    let secrets = secrets(&settings)?;
    let names = Topics::new(&kafka.topics);
    let topic = match kind {
        Kind::Events => names.message_events,
        Kind::Settings => names.webhook_settings,
    };
    tokio::pin!(shutdown);
    let kept = secrets.clone();
    let prepared = async {
        let (input, count) = on_thread("validate", move || validated(kind, &path, &kept)).await?;
        require(&kafka, &topic).await?;
        Ok::<_, anyhow::Error>((input, count))
    };
    let (input, count) = tokio::select! {
        prepared = prepared => prepared?,
        () = &mut shutdown => bail!("stopped; nothing was published"),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let job = Job { kind, topic: topic.clone(), count, rate: settings.rate, stop: stop.clone(), secrets };
    let publishing = on_thread("publish", move || publish(&kafka, &job, input));
    tokio::pin!(publishing);
    let summary = tokio::select! {
        summary = &mut publishing => summary?,
        () = &mut shutdown => {
            stop.store(true, Ordering::Relaxed);
            publishing.await?
        }
    };
    report(kind, &topic, count, &summary)?;
    if kind == Kind::Settings && count > 0 {
        wait_until_they_count(shutdown).await?;
    }
    Ok(())
}

fn source(settings: &ProduceSettings) -> anyhow::Result<(Kind, PathBuf)> {
    match (&settings.file, &settings.settings) {
        (Some(file), None) => Ok((Kind::Events, file.clone())),
        (None, Some(file)) => Ok((Kind::Settings, file.clone())),
        _ => bail!("expected one of `--file` and `--settings`"),
    }
}

fn secrets(settings: &ProduceSettings) -> anyhow::Result<Secrets> {
    Ok(match &settings.sealing_keys {
        Some(file) => Secrets::Sealed(Arc::new(sealing_keys::read(file)?)),
        None if settings.plain => Secrets::Plain,
        None => Secrets::Refused,
    })
}

/// The input and the number of its records, if all are right.
fn validated(kind: Kind, path: &Path, secrets: &Secrets) -> anyhow::Result<(Input, u64)> {
    let mut input = Input::open(path)?;
    let count = input.validate(kind, secrets)?;
    Ok((input, count))
}

/// Fails if the topic is not there, rather than let the brokers create it with settings of their own.
async fn require(kafka: &KafkaSettings, topic: &str) -> anyhow::Result<()> {
    let partitions = Admin::new(kafka)?.partitions().await?;
    ensure!(
        partitions.contains_key(topic),
        "topic `{topic}` does not exist on `{}`, or may not be seen; `bundlehook topics` creates it",
        kafka.brokers
    );
    Ok(())
}

fn report(kind: Kind, topic: &str, count: u64, summary: &Summary) -> anyhow::Result<()> {
    let Summary { acknowledged, took, .. } = summary;
    if *acknowledged < count {
        bail!("stopped; published {acknowledged} of {count} {} to {topic}", kind.name(count));
    }
    let what = kind.name(count);
    say(&format!("published {count} {what} to {topic} in {:.1} s", took.as_secs_f64()))
}

/// The last record has its timestamp by now, so what is left of the span is at most all of it, whatever the clocks.
async fn wait_until_they_count(shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::select! {
        () = tokio::time::sleep(COUNTS_AFTER + Duration::from_millis(1)) => {
            say("they count for messages that arrive from now on")
        }
        () = shutdown => bail!("stopped; the settings are published but count only {COUNTS_AFTER:?} after it"),
    }
}
