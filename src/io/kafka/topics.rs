//! Creating and checking topics: what each one must be like, what differs in a cluster, and the remedy.

mod rules;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use super::{
    admin::{Admin, AdminError, NewTopicRequest},
    client::Topics,
};

pub use self::rules::{Demand, SettingRule, TopicRule, rules};

/// How long a topic may take to show after its creation.
const APPEARS_WITHIN: Duration = Duration::from_secs(15);
/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A topic as it is in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Existing {
    /// How many partitions it has.
    pub partitions: i32,
    /// Its settings by name, the broker's defaults included.
    pub settings: BTreeMap<String, String>,
}

/// The topics of ours that exist, by name.
pub type Existings = BTreeMap<String, Existing>;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The topic's name, with the prefix.
    pub topic: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It does not exist.
    Missing,
    /// It has too few partitions.
    Partitions {
        /// So many.
        has: i32,
        /// It should have so many, or more.
        at_least: i32,
    },
    /// A setting differs.
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value; none if the broker does not know the setting.
        has: Option<String>,
        /// What it must be.
        demand: Demand,
        /// Messages would be lost, or their windows decided wrongly.
        vital: bool,
    },
}

impl Fault {
    /// True if no role that uses the topic may begin with it.
    #[must_use]
    pub fn is_vital(&self) -> bool {
        match self {
            // It may still be created.
            Self::Missing => false,
            // A bundle stands in the partition that has its source partition's number.
            Self::Partitions { .. } => true,
            Self::Setting { vital, .. } => *vital,
        }
    }

    /// What differs, what it is, and what it should be, as three columns.
    #[must_use]
    pub fn columns(&self) -> [String; 3] {
        match self {
            Self::Missing => ["topic", "nothing", "exists"].map(str::to_owned),
            Self::Partitions { has, at_least } => {
                ["partitions".to_owned(), has.to_string(), format!("at least {at_least}")]
            }
            Self::Setting { name, has, demand, .. } => {
                let has = has
                    .as_ref()
                    .map_or_else(|| "unknown to the broker".to_owned(), |has| rules::readable(name, has));
                [(*name).to_owned(), has, demand.readable(name)]
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = &self.topic;
        if self.fault == Fault::Missing {
            return write!(f, "topic `{topic}` does not exist");
        }
        let [what, has, expected] = self.fault.columns();
        write!(f, "topic `{topic}` has {what} {has}, expected {expected}")
    }
}

/// The commands that put things right, at most one a topic and program.
#[must_use]
pub fn remedies(findings: &[Finding], brokers: &str) -> Vec<String> {
    let mut remedies = Vec::new();
    let mut settings = BTreeMap::<&str, Vec<String>>::new();
    for Finding { topic, fault } in findings {
        match fault {
            Fault::Missing => remedies.push("bundlehook topics".to_owned()),
            Fault::Partitions { at_least, .. } => remedies.push(format!(
                "kafka-topics.sh --bootstrap-server {brokers} --alter --topic {topic} --partitions {at_least}"
            )),
            Fault::Setting { name, demand, .. } => {
                settings.entry(topic).or_default().push(format!("{name}={}", demand.value()));
            }
        }
    }
    remedies.dedup();
    remedies.extend(settings.into_iter().map(|(topic, settings)| {
        format!(
            "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} \
             --add-config {}",
            settings.join(",")
        )
    }));
    remedies
}

/// What a check found, topic by topic in the order of the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Every topic.
    pub topics: Vec<TopicReport>,
}

/// What a check found about one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// Its name, with the prefix.
    pub name: String,
    /// How many partitions it has; none if it does not exist.
    pub partitions: Option<i32>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Everything that is wrong.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.topics.iter().flat_map(|topic| topic.findings.clone()).collect()
    }

    /// What is wrong with one topic.
    #[must_use]
    pub fn of(&self, topic: &str) -> &[Finding] {
        self.topics.iter().find(|report| report.name == topic).map_or(&[], |report| &report.findings)
    }
}

/// Compares topics as they are with what they must be.
#[must_use]
pub fn compare(rules: &[TopicRule], existing: &Existings) -> Report {
    let report = |rule: &TopicRule| {
        let found = existing.get(&rule.name);
        let faults = found.map_or_else(|| vec![Fault::Missing], |found| rule.faults(found));
        let finding = |fault| Finding { topic: rule.name.clone(), fault };
        TopicReport {
            name: rule.name.clone(),
            partitions: found.map(|found| found.partitions),
            findings: faults.into_iter().map(finding).collect(),
        }
    };
    Report { topics: rules.iter().map(report).collect() }
}

/// Looks at the topics and says what is wrong.
///
/// # Errors
/// [`AdminError`] if the cluster can't be asked.
pub async fn check(admin: &Admin, topics: &Topics) -> Result<Report, AdminError> {
    let existing = existing(admin, topics).await?;
    Ok(compare(&rules(topics, &existing, 1), &existing))
}

/// Creates the topics that are missing, waits until they show, and returns their names.
///
/// # Errors
/// [`AdminError`] if the cluster can't be asked or refuses.
pub async fn create_missing(
    admin: &Admin,
    topics: &Topics,
    partitions: i32,
    replication_factor: i32,
) -> Result<Vec<String>, AdminError> {
    let existing = existing(admin, topics).await?;
    let rules = rules(topics, &existing, partitions);
    let missing = rules.iter().filter(|rule| !existing.contains_key(&rule.name));
    let requests: Vec<NewTopicRequest> = missing.map(|rule| rule.request(replication_factor)).collect();
    admin.create(&requests).await?;
    let names: Vec<String> = requests.into_iter().map(|request| request.name).collect();
    wait_for(admin, &names).await?;
    Ok(names)
}

/// The topics of ours that exist, with their settings.
async fn existing(admin: &Admin, topics: &Topics) -> Result<Existings, AdminError> {
    let partitions = admin.partitions().await?;
    let names: Vec<&str> =
        rules::names(topics).into_iter().filter(|name| partitions.contains_key(*name)).collect();
    let settings = admin.settings(&names).await?;
    let existing = |(name, settings): (String, _)| {
        let partitions = partitions.get(&name).copied().unwrap_or_default();
        (name, Existing { partitions, settings })
    };
    Ok(settings.into_iter().map(existing).collect())
}

/// Waits until every broker that is asked knows new topics.
async fn wait_for(admin: &Admin, names: &[String]) -> Result<(), AdminError> {
    let deadline = Instant::now() + APPEARS_WITHIN;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    loop {
        let known = admin.partitions().await?;
        let settings = admin.settings(&names).await;
        if names.iter().all(|name| known.contains_key(*name))
            && (settings.is_ok() || Instant::now() >= deadline)
        {
            return settings.map(drop);
        }
        if let Some(unseen) =
            names.iter().find(|name| !known.contains_key(**name) && Instant::now() >= deadline)
        {
            return Err(AdminError::Unreadable((*unseen).to_owned()));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests;
