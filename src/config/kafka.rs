use std::{collections::BTreeMap, path::Path};

use super::{InFile, ReadOnce, value};

/// How to reach Kafka.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaSettings {
    /// Brokers to begin with, `host:port`, several separated by commas.
    #[arg(long = "kafka-brokers", env = "BUNDLEHOOK_KAFKA_BROKERS", value_parser = value::brokers)]
    pub brokers: String,
    /// Any librdkafka properties, `name=value` separated by commas; they win over Bundlehook's own.
    #[arg(
        long = "kafka-properties",
        env = "BUNDLEHOOK_KAFKA_PROPERTIES",
        default_value = "",
        hide_env_values = true
    )]
    properties: PropertyList,
    /// A file with such properties, separated by commas or line ends, to keep passwords out of variables. Where it
    /// changes, or a file that a property names, a role begins anew.
    #[arg(
        long = "kafka-properties-file",
        env = "BUNDLEHOOK_KAFKA_PROPERTIES_FILE",
        value_name = "FILE",
        conflicts_with = "properties"
    )]
    properties_file: Option<InFile<PropertyList>>,
    #[command(flatten)]
    pub topics: TopicSettings,
}

impl KafkaSettings {
    /// Settings for an embedded broker.
    #[must_use]
    pub fn embedded(brokers: String, properties: BTreeMap<String, String>) -> Self {
        let topics = TopicSettings { prefix: String::new() };
        Self { brokers, properties: PropertyList(properties), properties_file: None, topics }
    }

    /// Adds the file with properties, and those that properties name: librdkafka reads them as a client is made.
    pub fn add_read_once(&self, files: &mut ReadOnce) {
        if let Some(file) = &self.properties_file {
            files.add_read(file);
        }
        let names_a_file =
            |name: &str| [".location", ".keytab", ".file"].iter().any(|end| name.ends_with(end));
        let named = self.properties().iter().filter(|(name, _)| names_a_file(name));
        // One may have a value that is no path, such as `probe`.
        named
            .map(|(_, value)| Path::new(value))
            .filter(|path| path.exists())
            .for_each(|path| files.add(path));
    }

    /// Names and values of librdkafka properties.
    #[must_use]
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.properties_file.as_ref().map_or(&self.properties, InFile::first).0
    }
}

/// Names of topics.
#[derive(Debug, Clone, clap::Args)]
pub struct TopicSettings {
    /// Text before the name of each topic and consumer group.
    #[arg(long = "topic-prefix", env = "BUNDLEHOOK_TOPIC_PREFIX", default_value = "", value_parser = value::topic_prefix)]
    pub prefix: String,
}

/// clap reads a map only as one value of a type of its own.
#[derive(Debug, Clone)]
struct PropertyList(BTreeMap<String, String>);

impl std::str::FromStr for PropertyList {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        value::properties(text).map(Self)
    }
}
