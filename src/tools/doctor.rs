//! Looks at everything that a deployment stands on, and says what is wrong and how to mend it. Changes nothing.

mod check;
mod clocks;
mod groups;
mod kafka;
mod settings;
mod sign_in;
mod storage;

use std::process::ExitCode;

use super::say;
use crate::{
    config::{DoctorCommand, KafkaSettings, RedisSettings, SealedSettings},
    io::{
        Redis, clock,
        kafka::{
            Topics,
            admin::{Admin, AdminError, Cluster},
            topics,
        },
        redis::facts::facts,
    },
};

pub use self::check::{Check, Level};

/// Makes all checks and prints them. The exit code tells the worst: 0, 1 for a warning, 2 for a failure.
///
/// # Errors
/// If nothing can be printed.
pub async fn run(command: DoctorCommand) -> anyhow::Result<ExitCode> {
    let DoctorCommand { kafka, redis, sealed, sign_in, output } = command;
    let mut checks = Vec::new();
    of_kafka(&kafka, sealed, &mut checks).await;
    of_redis(&redis, &mut checks).await;
    checks.extend(sign_in::check(&sign_in));
    say(&check::show(&checks, output.json)?)?;
    Ok(ExitCode::from(check::worst(&checks) as u8))
}

async fn of_redis(settings: &RedisSettings, checks: &mut Vec<Check>) {
    let asked = async {
        let redis = Redis::reach(settings, settings.timeout).await?;
        facts(&redis).await.map_err(|error| error.to_string())
    };
    match asked.await {
        Ok(facts) => {
            checks.push(clocks::redis(&facts, clock::now()));
            checks.extend(storage::checks(&facts));
        }
        Err(problem) => checks.push(storage::unreachable(&problem)),
    }
}

/// All that is asked of Kafka. Where it is away, that is the only finding.
async fn of_kafka(kafka: &KafkaSettings, sealed: SealedSettings, checks: &mut Vec<Check>) {
    let names = Topics::new(&kafka.topics);
    let asked: Result<(Admin, Cluster), AdminError> = async {
        let admin = Admin::new(kafka)?;
        let cluster = admin.cluster().await?;
        Ok((admin, cluster))
    }
    .await;
    let (admin, cluster) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            checks.push(kafka::unreachable(&error));
            return;
        }
    };
    checks.push(kafka::brokers(&cluster));
    match topics::check(&admin, &names).await {
        Ok(report) => {
            checks.extend(kafka::topics(&report, &kafka.brokers));
            match admin.settings(&kafka::existing(&report)).await {
                Ok(settings) => checks.extend(kafka::replicas(&cluster, &report, &settings)),
                Err(error) => checks.push(kafka::unreadable(&error)),
            }
        }
        Err(error) => checks.push(kafka::unreadable(&error)),
    }
    checks.extend(groups::checks(kafka, &admin, &cluster).await);
    checks.extend(settings::checks(kafka, sealed, &names, &cluster).await);
    checks.extend(clocks::brokers(kafka, &names, &cluster).await);
}
