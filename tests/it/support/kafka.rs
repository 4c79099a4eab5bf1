//! Apache Kafka from its own jars: one for all tests, and clusters of their own for tests that break them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::children::{self, tail};
use super::records::forget;
use super::{HeldPort, LIMIT, blocking, report, wait_until};

/// Where the starter's scripts are.
const LOCAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local");

/// The Apache Kafka that all tests share: one node, or the broker that `BUNDLEHOOK_TEST_KAFKA` names.
///
/// `None` if there is none to be had; the test is then listed as not run, and should return.
///
/// # Panics
///
/// If it does not start, or if there is none and `CI=true`.
pub async fn kafka() -> Option<&'static Kafka> {
    let shared = shared().await;
    if let Err(reason) = shared {
        report::not_run(reason);
    }
    shared.as_ref().ok()
}

/// The shared Apache Kafka, or why there is none.
pub(super) async fn shared() -> &'static Result<Kafka, String> {
    static SHARED: tokio::sync::OnceCell<Result<Kafka, String>> = tokio::sync::OnceCell::const_new();
    SHARED
        .get_or_init(async || match std::env::var("BUNDLEHOOK_TEST_KAFKA") {
            Ok(servers) => Ok(Kafka::given(servers)),
            Err(_) => Kafka::launch(1, false, || None, &More::default()).await,
        })
        .await
}

/// A running cluster. Dropping it kills it.
#[derive(Debug)]
pub struct Kafka {
    servers: String,
    version: String,
    nodes: Vec<Node>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// Held by the one cluster of several brokers that runs: the start of nine brokers at once takes minutes on two cores.
static TURN: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

/// What a broker has beyond the common settings.
#[derive(Default)]
struct More<'a> {
    listeners: &'a str,
    settings: &'a str,
    format: &'a [&'a str],
}

/// A broker, which is a controller too.
#[derive(Debug)]
struct Node {
    port: HeldPort,
    controller: HeldPort,
    folder: PathBuf,
    child: Mutex<Option<Child>>,
    disk: Option<SmallDisk>,
}

impl Kafka {
    /// Starts a cluster of its own for a test that kills brokers; 1 or 3 nodes.
    ///
    /// `None` if there are no jars to be had; the test is then listed as not run, and should return.
    ///
    /// # Panics
    ///
    /// If it does not start, or if there are no jars and `CI=true`.
    pub async fn start(nodes: usize) -> Option<Self> {
        Self::start_on(nodes, || None).await
    }

    /// The same with a first broker that has its log on a disk of so many MiB.
    pub async fn start_on_small_disk(nodes: usize, mib: usize) -> Option<Self> {
        let mut size = Some(mib);
        Self::start_on(nodes, || size.take()).await
    }

    /// A broker of its own with more listeners, such as `SASL://127.0.0.1:1234`, more lines of settings, and more arguments
    /// for the formatting of its folder.
    pub async fn start_with(listeners: &str, settings: &str, format: &[&str]) -> Option<Self> {
        let more = More { listeners, settings, format };
        Self::or_not_run(Self::launch(1, true, || None, &more).await)
    }

    async fn start_on(nodes: usize, disk: impl FnMut() -> Option<usize>) -> Option<Self> {
        Self::or_not_run(Self::launch(nodes, true, disk, &More::default()).await)
    }

    fn or_not_run(launched: Result<Self, String>) -> Option<Self> {
        match launched {
            Ok(kafka) => Some(kafka),
            Err(reason) => {
                report::not_run(&reason);
                None
            }
        }
    }

    /// A cluster that somebody else runs.
    fn given(servers: String) -> Self {
        let version = format!("the broker of BUNDLEHOOK_TEST_KAFKA, {servers}");
        report::broker(&version);
        Self { servers, version, nodes: Vec::new(), _turn: None }
    }

    async fn launch(
        count: usize,
        breakable: bool,
        mut disk: impl FnMut() -> Option<usize>,
        more: &More<'_>,
    ) -> Result<Self, String> {
        let jars = jars().await.as_ref().map_err(Clone::clone)?;
        let turn = async || TURN.clone().acquire_owned().await.expect("nobody closes it");
        let turn = if count > 1 { Some(turn().await) } else { None };
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node::new(disk()).await);
        }
        let voters: Vec<_> =
            (1..).zip(&nodes).map(|(id, node)| format!("{id}@{}", node.controller.addr())).collect();
        for (id, node) in (1..).zip(&nodes) {
            node.write_settings(id, &voters.join(","), count, breakable, more);
        }
        let servers: Vec<_> = nodes.iter().map(|node| node.port.addr().to_string()).collect();
        let (servers, version) = (servers.join(","), version_of(jars));
        let kafka = Self { servers, version, nodes, _turn: turn };
        kafka.format(more.format).await;
        for node in &kafka.nodes {
            node.start();
        }
        for node in &kafka.nodes {
            node.wait_ready(count).await;
        }
        report::broker(&kafka.version);
        Ok(kafka)
    }

    /// Gives the cluster its id.
    async fn format(&self, more: &[&str]) {
        let cluster = format!("{}A", &uuid::Uuid::new_v4().simple().to_string()[..21]);
        let mut running: Vec<_> =
            self.nodes.iter().map(|node| (node.format(&cluster, more), node.log())).collect();
        blocking(move || {
            for (child, log) in &mut running {
                let status = child.wait().expect("a child can be waited for");
                assert!(status.success(), "Apache Kafka's folder could not be formatted:\n{}", tail(log, 20));
            }
        })
        .await;
    }

    /// What clients connect to: `127.0.0.1:…`, several separated by commas.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// Name and version, for people.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A prefix for the topics of one test that no other test has.
    #[expect(clippy::unused_self, reason = "a prefix is for a broker\'s topics, and reads so")]
    pub fn prefix(&self) -> String {
        unique_prefix()
    }

    /// Makes a topic, on all nodes, and waits until each partition can be written.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub async fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let replicas =
            TopicReplication::Fixed(i32::try_from(self.nodes.len().clamp(1, 3)).expect("at most 3"));
        let mut topic = NewTopic::new(name, partitions, replicas);
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let admin: AdminClient<DefaultClientContext> =
            client(&self.servers).create().expect("an admin client needs no network");
        let options = AdminOptions::new().operation_timeout(Some(LIMIT)).request_timeout(Some(LIMIT));
        let answers = admin.create_topics([&topic], &options).await;
        let answer = answers.expect("the broker answers").pop().expect("there is an answer for each topic");
        answer.unwrap_or_else(|(_, error)| panic!("failed to create topic `{name}`: {error}"));
        wait_for_leaders(&self.servers, name, partitions).await;
    }

    /// Gives a topic more partitions, so many in all, and waits until each can be written.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub async fn grow_topic(&self, name: &str, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> =
            client(&self.servers).create().expect("an admin client needs no network");
        let options = AdminOptions::new().operation_timeout(Some(LIMIT)).request_timeout(Some(LIMIT));
        let answers = admin.create_partitions([&NewPartitions::new(name, partitions)], &options).await;
        let answer = answers.expect("the broker answers").pop().expect("there is an answer for each topic");
        answer.unwrap_or_else(|(_, error)| panic!("failed to grow topic `{name}`: {error}"));
        wait_for_leaders(&self.servers, name, partitions as i32).await;
    }

    /// Gives a topic these settings, and for all others the broker's.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub async fn configure_topic(&self, name: &str, config: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            client(&self.servers).create().expect("an admin client needs no network");
        let options = AdminOptions::new().request_timeout(Some(LIMIT));
        let mut wanted = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in config {
            wanted = wanted.set(key, value);
        }
        let answers = admin.alter_configs([&wanted], &options).await;
        let answer = answers.expect("the broker answers").pop().expect("there is an answer for each topic");
        answer.unwrap_or_else(|(_, error)| panic!("failed to configure topic `{name}`: {error}"));
    }

    /// Deletes a topic.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub async fn delete_topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> =
            client(&self.servers).create().expect("an admin client needs no network");
        let options = AdminOptions::new().operation_timeout(Some(LIMIT)).request_timeout(Some(LIMIT));
        let answers = admin.delete_topics(&[name], &options).await;
        let answer = answers.expect("the broker answers").pop().expect("there is an answer for each topic");
        answer.unwrap_or_else(|(_, error)| panic!("failed to delete topic `{name}`: {error}"));
    }

    /// Deletes the records of a partition below an offset.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let admin: AdminClient<DefaultClientContext> =
            client(&self.servers).create().expect("an admin client needs no network");
        let options = AdminOptions::new().operation_timeout(Some(LIMIT)).request_timeout(Some(LIMIT));
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before)).expect("the offset is valid");
        let answer = admin.delete_records(&offsets, &options).await.expect("the broker answers");
        let deleted = answer.find_partition(topic, partition).expect("there is an answer for the partition");
        deleted.error().unwrap_or_else(|error| panic!("failed to delete records of `{topic}`: {error}"));
    }

    /// Waits until each partition of a topic can be written.
    pub async fn wait_for_leaders(&self, topic: &str, partitions: i32) {
        wait_for_leaders(&self.servers, topic, partitions).await;
    }

    /// The broker that leads the first partition of a topic, counted from 0.
    pub async fn leader(&self, topic: &str) -> usize {
        let (servers, topic) = (self.servers.clone(), topic.to_owned());
        let leader = blocking(move || {
            let consumer: BaseConsumer = client(&servers).create().expect("a consumer needs no network");
            let cluster = consumer.fetch_metadata(Some(&topic), LIMIT).expect("the brokers answer");
            cluster.topics()[0].partitions()[0].leader()
        });
        usize::try_from(leader.await - 1).expect("it has a leader, and ids begin at 1")
    }

    /// Runs a class of Apache Kafka's own tools to its end, and returns what it says.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let mut command = self.nodes[0].java();
        // Some measure how fast they are.
        command.arg("-XX:TieredStopAtLevel=4").arg(class);
        command.args(["--bootstrap-server", &self.servers]).args(arguments);
        let log = children::folder("tool").join("log");
        let mut child = children::spawn(command, &log);
        let status = blocking(move || child.wait().expect("a child can be waited for")).await;
        assert!(status.success(), "{class} {arguments:?} failed:\n{}", tail(&log, 20));
        fs::read_to_string(&log).expect("the log is text")
    }

    /// What the first broker has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.nodes[0].log()).expect("the broker was started")
    }

    /// Kills a broker without warning, counted from 0; clients are refused until [`Kafka::restart`].
    pub fn kill9(&self, node: usize) {
        let child = self.nodes[node].child.lock().expect("no holder panics").take();
        children::end(&mut child.expect("the broker runs"));
    }

    /// Takes all room that the small disk of the first broker has left, and waits until the broker has died of it.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn fill_disk(&self) {
        let node = &self.nodes[0];
        node.disk.as_ref().expect("it has a small disk").fill();
        wait_until("the broker to die of its full disk", LIMIT, async || {
            let mut child = node.child.lock().expect("no holder panics");
            let ended = child.as_mut().expect("the broker was started").try_wait();
            ended.expect("a child can be asked").is_some().then(|| child.take()).is_some()
        })
        .await;
    }

    /// Gives back what [`Kafka::fill_disk`] has taken.
    pub fn free_disk(&self) {
        self.nodes[0].disk.as_ref().expect("it has a small disk").free();
    }

    /// Waits until each partition of all topics has so many replicas in sync.
    pub async fn wait_in_sync(&self, replicas: usize) {
        let consumer: BaseConsumer = client(&self.servers).create().expect("a consumer needs no network");
        let consumer = std::sync::Arc::new(consumer);
        wait_until(&format!("{replicas} replicas to be in sync"), LIMIT, async || {
            let consumer = std::sync::Arc::clone(&consumer);
            let answer = blocking(move || consumer.fetch_metadata(None, Duration::from_secs(5))).await;
            answer.is_ok_and(|cluster| {
                let mut partitions = cluster.topics().iter().flat_map(MetadataTopic::partitions);
                partitions.all(|partition| partition.isr().len() == replicas)
            })
        })
        .await;
    }

    /// Starts a broker that was killed, on its data and port, and waits until it serves.
    pub async fn restart(&self, node: usize) {
        self.nodes[node].start();
        self.nodes[node].wait_ready(1).await;
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        forget(&self.servers);
        for node in &self.nodes {
            if let Some(mut child) = node.child.lock().expect("no holder panics").take() {
                children::end(&mut child);
            }
            // A later run removes what is left.
            let _ = fs::remove_dir_all(&node.folder);
        }
    }
}

/// A disk of its own for one broker: in memory, and seen by the broker alone.
#[derive(Debug)]
struct SmallDisk {
    folder: PathBuf,
    /// Keeps the view of the file system in which there is this disk.
    keeper: Child,
}

impl SmallDisk {
    async fn new(folder: PathBuf, mib: usize) -> Self {
        fs::create_dir_all(&folder).expect("the rig's folder can be written");
        let mut command = children::command("unshare");
        let script = "mount -t tmpfs -o size=$1 tmpfs $0 && touch $0/mounted && exec sleep infinity";
        command
            .args(["--map-root-user", "--mount", "setpriv", "--pdeathsig", "KILL", "sh", "-c", script])
            .arg(&folder)
            .arg(format!("{mib}m"));
        let log = folder.with_extension("disk");
        let disk = Self { keeper: children::spawn(command, &log), folder };
        wait_until("a disk", LIMIT, async || disk.run("test -e $0/mounted")).await;
        disk
    }

    /// A command that sees the disk.
    fn command(&self, program: &str) -> Command {
        let mut command = children::command("nsenter");
        let keeper = self.keeper.id().to_string();
        command.args(["--preserve-credentials", "--user", "--mount", "--target", &keeper]).args([
            "setpriv",
            "--pdeathsig",
            "KILL",
            program,
        ]);
        command
    }

    fn run(&self, script: &str) -> bool {
        let mut command = self.command("sh");
        command.args(["-c", script]).arg(&self.folder).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn fill(&self) {
        // It ends when nothing more fits.
        self.run("cat /dev/zero > $0/ballast");
    }

    fn free(&self) {
        assert!(self.run("rm $0/ballast"), "the disk can be written");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        children::end(&mut self.keeper);
    }
}

impl Node {
    async fn new(mib: Option<usize>) -> Self {
        let folder = children::folder("kafka");
        let disk = match mib {
            Some(mib) => Some(SmallDisk::new(folder.join("log"), mib).await),
            None => None,
        };
        Self { port: HeldPort::new(), controller: HeldPort::new(), folder, child: Mutex::new(None), disk }
    }

    /// A Java command with Kafka's classes and a fast start.
    fn java(&self) -> Command {
        let jars = JARS.get().and_then(|jars| jars.as_ref().ok()).expect("the jars were looked up before");
        let mut command = match &self.disk {
            Some(disk) => disk.command("java"),
            None => children::command("java"),
        };
        command
            .arg("-cp")
            .arg(jars.join("*"))
            .arg(format!("-Dlog4j2.configurationFile={LOCAL}/log4j2.properties"))
            .args(["-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]);
        command
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("kafka.properties")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("kafka.log")
    }

    /// Writes the common settings and this node's; a later line wins.
    fn write_settings(&self, id: usize, voters: &str, nodes: usize, breakable: bool, more: &More<'_>) {
        let common = fs::read_to_string(Path::new(LOCAL).join("kafka.properties"));
        let mut text = common.expect("deploy/local/kafka.properties is there");
        let (port, controller, log) = (self.port.addr(), self.controller.addr(), self.folder.join("log"));
        let listeners = format!("PLAINTEXT://{port},CONTROLLER://{controller}");
        let comma = if more.listeners.is_empty() { "" } else { "," };
        let listeners = format!("{listeners}{comma}{}", more.listeners);
        let own = format!(
            "\nnode.id={id}\nlisteners={listeners}\nadvertised.listeners={listeners}\n\
             controller.quorum.voters={voters}\nlog.dirs={}\n",
            log.display(),
        );
        text.push_str(&own);
        if breakable {
            // A broker that was killed is given up, and may come back, after its session.
            text.push_str("broker.heartbeat.interval.ms=200\nbroker.session.timeout.ms=1500\n");
        }
        if nodes > 1 {
            let replicas = "default.replication.factor=3\nmin.insync.replicas=2\n\
                offsets.topic.replication.factor=3\n\
                transaction.state.log.replication.factor=3\ntransaction.state.log.min.isr=2\n";
            text.push_str(replicas);
        }
        text.push_str(more.settings);
        fs::write(self.settings(), text).expect("the rig's folder can be written");
    }

    fn format(&self, cluster: &str, more: &[&str]) -> Child {
        let mut command = self.java();
        command.args(["kafka.tools.StorageTool", "format", "-t", cluster, "-c"]).arg(self.settings());
        command.args(more);
        children::spawn(command, &self.log())
    }

    fn start(&self) {
        let mut command = self.java();
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "kafka.Kafka"]).arg(self.settings());
        let child = children::spawn(command, &self.log());
        let former = self.child.lock().expect("no holder panics").replace(child);
        assert!(former.is_none(), "the broker already runs");
    }

    /// Waits until the broker serves clients and knows of at least so many brokers, itself among them.
    async fn wait_ready(&self, brokers: usize) {
        let addr = self.port.addr();
        wait_until("Apache Kafka to listen", LIMIT, async || {
            self.assert_runs();
            tokio::net::TcpStream::connect(addr).await.is_ok()
        })
        .await;
        let consumer: BaseConsumer = client(&addr.to_string()).create().expect("a consumer needs no network");
        let consumer = std::sync::Arc::new(consumer);
        wait_until("Apache Kafka to serve", LIMIT, async || {
            self.assert_runs();
            let consumer = std::sync::Arc::clone(&consumer);
            let answer = blocking(move || consumer.fetch_metadata(Some(""), Duration::from_secs(1))).await;
            answer.is_ok_and(|cluster| {
                let known = cluster.brokers();
                known.len() >= brokers && known.iter().any(|broker| broker.port() == i32::from(addr.port()))
            })
        })
        .await;
    }

    fn assert_runs(&self) {
        let mut child = self.child.lock().expect("no holder panics");
        let ended = child.as_mut().expect("the broker was started").try_wait().expect("a child can be asked");
        assert!(ended.is_none(), "Apache Kafka ended with {ended:?}:\n{}", tail(&self.log(), 40));
    }
}

/// Waits until each partition of a topic has a leader.
async fn wait_for_leaders(servers: &str, topic: &str, partitions: i32) {
    let consumer: BaseConsumer = client(servers).create().expect("a consumer needs no network");
    let consumer = std::sync::Arc::new(consumer);
    wait_until(&format!("leaders of topic `{topic}`"), LIMIT, async || {
        let (consumer, topic) = (std::sync::Arc::clone(&consumer), topic.to_owned());
        let answer = blocking(move || consumer.fetch_metadata(Some(&topic), Duration::from_secs(5))).await;
        answer.is_ok_and(|cluster| {
            let known = cluster.topics()[0].partitions();
            known.len() == partitions as usize && known.iter().all(|p| p.leader() >= 0 && p.error().is_none())
        })
    })
    .await;
}

/// The settings every client of the rig has.
pub(super) fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "200")
        .set("message.max.bytes", "33554432")
        .set("receive.message.max.bytes", "134217728");
    config
}

/// A prefix that no other test has, in this program or another one on the same broker.
pub(super) fn unique_prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let random = uuid::Uuid::new_v4().simple().to_string();
    let mut prefix = String::new();
    write!(prefix, "t{}-{}.", COUNT.fetch_add(1, Ordering::Relaxed), &random[..4])
        .expect("text can be written");
    prefix
}

static JARS: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The folder of Kafka's jars, fetched through Maven if need be; or why there are none.
async fn jars() -> &'static Result<PathBuf, String> {
    blocking(|| {
        JARS.get_or_init(|| {
            let script = Path::new(LOCAL).join("kafka-jars");
            let asked = Command::new(&script)
                .output()
                .map_err(|error| format!("{} failed: {error}", script.display()))?;
            if asked.status.success() {
                Ok(PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim()))
            } else {
                let said = String::from_utf8_lossy(&asked.stderr);
                Err(said.lines().last().unwrap_or("Apache Kafka is not available").to_owned())
            }
        })
    })
    .await
}

/// The version, which the broker's jar has in its name.
fn version_of(jars: &Path) -> String {
    let mut names = fs::read_dir(jars).into_iter().flatten().flatten().map(|jar| jar.file_name());
    let version = names
        .find_map(|name| name.to_str()?.strip_prefix("kafka_2.13-")?.strip_suffix(".jar").map(str::to_owned));
    format!("Apache Kafka {}", version.as_deref().unwrap_or("of unknown version"))
}
