//! Redis: it must never throw anything away by itself.

use super::{Check, Level};
use crate::io::redis::facts::ServerFacts;

/// Oldest release that is tested.
const OLDEST: u32 = 7;
/// Share of the memory, in per cent, above which there is little room.
const FULL: u64 = 80;
const MIB: u64 = 1_048_576;

pub fn unreachable(problem: &str) -> Check {
    Check::ok("redis", problem, "a server that answers").found(
        Level::Fail,
        "start Redis, or mend BUNDLEHOOK_REDIS_URL; Kafka keeps what comes meanwhile, and the roles go on by themselves",
    )
}

/// What a server must be like.
pub fn checks(facts: &ServerFacts) -> Vec<Check> {
    vec![server(facts), eviction(facts), memory(facts), persistence(facts)]
}

fn server(facts: &ServerFacts) -> Check {
    let major: Option<u32> = facts.version.split('.').next().and_then(|major| major.parse().ok());
    let is_replica = facts.role != "master";
    Check::ok("redis", format!("{}, {}", facts.version, facts.role), format!("{OLDEST}.0 or later, master"))
        .found_if(
            major.is_none_or(|major| major < OLDEST),
            Level::Warn,
            "use a later release; this one is not tested",
        )
        .found_if(
            is_replica,
            Level::Fail,
            "a replica takes no writes: name the master in BUNDLEHOOK_REDIS_URL",
        )
}

fn eviction(facts: &ServerFacts) -> Check {
    Check::ok("redis maxmemory-policy", &*facts.eviction, "noeviction").found_if(
        facts.eviction != "noeviction",
        Level::Fail,
        "open windows would be thrown away when the memory is full: redis-cli CONFIG SET maxmemory-policy noeviction, \
         and `maxmemory-policy noeviction` in its configuration",
    )
}

fn memory(facts: &ServerFacts) -> Check {
    let ServerFacts { used_memory: used, max_memory: most, .. } = *facts;
    let name = "redis memory";
    let used_mib = format!("{:.1} MiB used", used as f64 / MIB as f64);
    if most == 0 {
        // The machine's own limit ends it harder than Redis' own would.
        let remedy =
            "without a limit the system may kill Redis: set maxmemory somewhat below what the machine has";
        return Check::ok(name, format!("{used_mib}, maxmemory not set"), "a limit")
            .found(Level::Warn, remedy);
    }
    let seen = format!("{used_mib} of {:.1} MiB", most as f64 / MIB as f64);
    let check = Check::ok(name, seen, format!("at most {FULL} %"));
    let remedy = "when it is full the roles pause: raise maxmemory, and look with `bundlehook inspect` what takes the room";
    check.found_if(used.saturating_mul(100) > most.saturating_mul(FULL), Level::Warn, remedy).found_if(
        used >= most,
        Level::Fail,
        remedy,
    )
}

fn persistence(facts: &ServerFacts) -> Check {
    let snapshots = facts.snapshots.as_deref();
    let seen = match (facts.appends, snapshots) {
        (true, _) => "append-only file".to_owned(),
        (false, Some("")) => "none".to_owned(),
        (false, Some(times)) => format!("snapshots, save \"{times}\""),
        (false, None) => "no append-only file; it does not tell whether it writes snapshots".to_owned(),
    };
    Check::ok("redis persistence", seen, "an append-only file").found_if(
        !facts.appends,
        Level::Warn,
        "nothing is lost, as all is rebuilt from Kafka, but a restart of Redis takes a rebuild: set appendonly yes",
    ).found_if(
        facts.write_failed,
        Level::Fail,
        "its last write to the disk failed, and Redis may refuse to write: look at its log and its disk",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ServerFacts {
        ServerFacts {
            version: "7.0.15".to_owned(),
            role: "master".to_owned(),
            eviction: "noeviction".to_owned(),
            used_memory: MIB,
            max_memory: 100 * MIB,
            appends: true,
            snapshots: Some(String::new()),
            ..ServerFacts::default()
        }
    }

    fn levels(facts: &ServerFacts) -> [Level; 4] {
        let levels: Vec<Level> = checks(facts).into_iter().map(|check| check.level).collect();
        levels.try_into().unwrap()
    }

    #[test]
    fn a_server_that_loses_nothing_is_well() {
        assert_eq!(levels(&facts()), [Level::Ok; 4]);
    }

    #[test]
    fn what_may_lose_something_is_found() {
        use Level::{Fail, Ok, Warn};
        let differing = [
            (ServerFacts { version: "6.2.1".to_owned(), ..facts() }, [Warn, Ok, Ok, Ok]),
            (ServerFacts { role: "slave".to_owned(), ..facts() }, [Fail, Ok, Ok, Ok]),
            (ServerFacts { eviction: "allkeys-lru".to_owned(), ..facts() }, [Ok, Fail, Ok, Ok]),
            (ServerFacts { max_memory: 0, ..facts() }, [Ok, Ok, Warn, Ok]),
            (ServerFacts { used_memory: 81 * MIB, ..facts() }, [Ok, Ok, Warn, Ok]),
            (ServerFacts { used_memory: 100 * MIB, ..facts() }, [Ok, Ok, Fail, Ok]),
            (ServerFacts { appends: false, ..facts() }, [Ok, Ok, Ok, Warn]),
            (ServerFacts { appends: false, snapshots: None, ..facts() }, [Ok, Ok, Ok, Warn]),
            (ServerFacts { write_failed: true, ..facts() }, [Ok, Ok, Ok, Fail]),
        ];
        for (facts, expected) in differing {
            assert_eq!(levels(&facts), expected, "{facts:?}");
        }
    }
}
