//! How many webhooks are healthy, tripped or disabled, as metrics.

use std::time::Duration;

use crate::{
    io::kafka::health_log::HealthLog,
    model::health::{Circuit, Health},
    ops::metrics::CircuitState,
    roles::process::Process,
};

/// How often they are counted.
const INTERVAL: Duration = Duration::from_secs(15);

/// Counts them again and again. Each process that delivers counts all webhooks.
pub(super) async fn count(process: Process, health_log: HealthLog) {
    let circuits = &process.metrics.circuits;
    loop {
        let (mut tripped, mut disabled) = (0, 0);
        for (webhook, health) in health_log.failing() {
            // One that was deleted has no circuit.
            let Some(current) = process.tail.directory().current(&webhook) else { continue };
            let disabled_at = current.disabled.map(|disabled| disabled.at);
            match Health::restored(Some(health), current.activation, disabled_at).circuit {
                Circuit::Healthy => {}
                Circuit::Tripped { .. } => tripped += 1,
                Circuit::Disabled { .. } => disabled += 1,
            }
        }
        let all = process.tail.directory().len() as i64;
        circuits.of(CircuitState::Tripped).set(tripped);
        circuits.of(CircuitState::Disabled).set(disabled);
        circuits.of(CircuitState::Healthy).set((all - tripped - disabled).max(0));
        tokio::time::sleep(INTERVAL).await;
    }
}
