//! Redis servers of a test's own: one, a Sentinel set-up, or a Cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::Duration;

use bundlehook::config::RedisSettings;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult};

use super::authority::{Identity, text};
use super::children::{self, tail};
use super::{Authority, HeldPort, LIMIT, wait_until};

/// The name under which the sentinels know the master.
pub const MASTER: &str = "bundlehook";

/// How long the program's connections wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How Redis is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    Single,
    /// A master and a replica, watched by three sentinels.
    Sentinel,
    /// Three masters that share the slots.
    Cluster,
}

/// Starts Redis for one test, without persistence.
///
/// # Panics
///
/// If it does not start.
pub async fn redis(kind: RedisKind) -> Redis {
    redis_with(kind, &[]).await
}

/// Starts Redis for one test with more settings, e.g. `&["--appendonly", "yes", "--appendfsync", "always"]`.
///
/// # Panics
///
/// If it does not start.
pub async fn redis_with(kind: RedisKind, settings: &[&str]) -> Redis {
    start(kind, &Extra { settings, ..Extra::default() }).await
}

/// The same where each server, sentinels included, has a second port with TLS, asks for certificates of this authority
/// there, and reaches the others by TLS. `sentinels` are lines of the sentinels' own settings.
pub async fn redis_by_tls(
    kind: RedisKind,
    authority: &Authority,
    settings: &[&str],
    sentinels: &str,
) -> Redis {
    let certified = Certified { ca: authority.bundle(), identity: authority.identity("redis") };
    start(kind, &Extra { settings, sentinels, certified: Some(&certified) }).await
}

/// What servers have beyond the common settings.
#[derive(Default)]
struct Extra<'a> {
    settings: &'a [&'a str],
    sentinels: &'a str,
    certified: Option<&'a Certified>,
}

/// What a server shows by TLS, and whom it trusts.
struct Certified {
    ca: PathBuf,
    identity: Identity,
}

impl Certified {
    fn settings(&self, port: &HeldPort) -> Vec<(&'static str, String)> {
        let port = port.number().to_string();
        let files = [&self.identity.certificate, &self.identity.key, &self.ca];
        let [certificate, key, ca] = files.map(|file| text(file).to_owned());
        let yes = || "yes".to_owned();
        vec![
            ("tls-port", port),
            ("tls-auth-clients", yes()),
            ("tls-replication", yes()),
            ("tls-cert-file", certificate),
            ("tls-key-file", key),
            ("tls-ca-cert-file", ca),
        ]
    }
}

async fn start(kind: RedisKind, extra: &Extra<'_>) -> Redis {
    let data_nodes = match kind {
        RedisKind::Single => 1,
        RedisKind::Sentinel => 2,
        RedisKind::Cluster => 3,
    };
    let mut nodes: Vec<_> = (0..data_nodes).map(|_| Node::new(extra)).collect();
    if kind == RedisKind::Cluster {
        for node in &mut nodes {
            node.join_a_cluster();
        }
    }
    let mut redis = Redis { kind, nodes, sentinels: Vec::new() };
    for node in &redis.nodes {
        node.start().await;
    }
    match kind {
        RedisKind::Single => {}
        RedisKind::Sentinel => redis.watch(extra).await,
        RedisKind::Cluster => redis.share_slots(extra).await,
    }
    redis
}

/// What a server of a Cluster is known for.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
}

/// Running servers. Dropping it kills them.
#[derive(Debug)]
pub struct Redis {
    kind: RedisKind,
    nodes: Vec<Node>,
    sentinels: Vec<Node>,
}

impl Redis {
    /// How it is set up.
    pub fn kind(&self) -> RedisKind {
        self.kind
    }

    /// The URL of the first (or only) server, as in `BUNDLEHOOK_REDIS_URL`.
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }

    /// What `BUNDLEHOOK_REDIS_URL` is for this set-up.
    pub fn setting(&self) -> String {
        let list = |nodes: &[Node]| {
            nodes.iter().map(|node| node.port.addr().to_string()).collect::<Vec<_>>().join(",")
        };
        match self.kind {
            RedisKind::Single => self.url(),
            RedisKind::Sentinel => format!("redis+sentinel://{}/{MASTER}", list(&self.sentinels)),
            // Any of them tells where the others are.
            RedisKind::Cluster => format!("redis+cluster://{}", list(&self.nodes[..2])),
        }
    }

    /// What `BUNDLEHOOK_REDIS_URL` is for a way with TLS, or for the same ports without, as `redis` or `rediss` says.
    /// `login` is `user:password`, the same at the sentinels.
    pub fn setting_by_tls(&self, scheme: &str, login: &str) -> String {
        let list = |nodes: &[Node]| nodes.iter().map(Node::peers_addr).collect::<Vec<_>>().join(",");
        let (user, password) = login.split_once(':').expect("a login has a name and a password");
        match self.kind {
            RedisKind::Single => format!("{scheme}://{login}@{}/", list(&self.nodes)),
            RedisKind::Sentinel => format!(
                "{scheme}+sentinel://{login}@{}/{MASTER}?sentinel_username={user}&sentinel_password={password}",
                list(&self.sentinels)
            ),
            RedisKind::Cluster => format!("{scheme}+cluster://{login}@{}", list(&self.nodes[..2])),
        }
    }

    /// The answers of all servers, and then of all sentinels, to a command.
    pub async fn ask_all<T: FromRedisValue>(&self, words: &[&str]) -> Vec<RedisResult<T>> {
        let mut answers = Vec::new();
        for node in self.nodes.iter().chain(&self.sentinels) {
            answers.push(node.command(words).await);
        }
        answers
    }

    /// The URLs of all data servers.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// The URLs of the sentinels, which know the master as [`MASTER`].
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Node::url).collect()
    }

    /// Host and port of the first (or only) server, e.g. as the upstream of a proxy.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.nodes[0].port.addr()
    }

    /// A new connection to the first (or only) server.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.nodes[0].connection().await.expect("Redis answers")
    }

    /// A connection to the first (or only) server as the program makes it.
    ///
    /// # Panics
    ///
    /// If it can't be reached.
    pub async fn client(&self) -> bundlehook::io::Redis {
        let servers = self.url().parse().expect("the rig makes URLs");
        let settings = RedisSettings::new(servers, PATIENCE);
        bundlehook::io::Redis::connect(&settings).await.expect("the URL can be used")
    }

    /// The answer of the first (or only) server to a command.
    ///
    /// # Panics
    ///
    /// If it is an error, or not of the wanted type.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.nodes[0].command(words).await.unwrap_or_else(|error| panic!("Redis refused {words:?}: {error}"))
    }

    /// The answer of one server, counted from 0, to a command.
    pub async fn ask<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> RedisResult<T> {
        self.nodes[node].command(words).await
    }

    /// Moves the slot of a key to the server that is next after the one that has it, key by key.
    ///
    /// # Panics
    ///
    /// If a server refuses.
    pub async fn move_slot_of(&self, key: &str) {
        let slot: u16 = self.command(&["CLUSTER", "KEYSLOT", key]).await;
        let from = self.owner_of(slot).await;
        let slot = slot.to_string();
        let to = (from + 1) % self.nodes.len();
        let (from_id, to_id) = (self.id(from).await, self.id(to).await);
        self.must(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        self.must(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        let port = self.nodes[to].port.number().to_string();
        loop {
            let asked = self.ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await;
            let keys: Vec<String> = asked.expect("the server knows its keys");
            let Some(key) = keys.first() else { break };
            // Gone by then, it is moved too.
            let moved: RedisResult<String> =
                self.ask(from, &["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
            moved.expect("a key can be moved");
        }
        for node in [to, from, (to + 1) % self.nodes.len()] {
            self.must(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
        self.wait_agreement().await;
    }

    async fn must(&self, node: usize, words: &[&str]) {
        let done: RedisResult<String> = self.ask(node, words).await;
        assert!(done.is_ok(), "Redis refused {words:?}: {done:?}");
    }

    /// The Cluster's name for a server.
    async fn id(&self, node: usize) -> String {
        self.ask(node, &["CLUSTER", "MYID"]).await.expect("a server knows its name")
    }

    /// The server that has a slot.
    async fn owner_of(&self, slot: u16) -> usize {
        for node in 0..self.nodes.len() {
            let id = self.id(node).await;
            let known = self.cluster_as_seen_by(node).await;
            if known[&id].slots.iter().any(|range| range.contains(&slot)) {
                return node;
            }
        }
        panic!("nobody has slot {slot}");
    }

    /// Waits until all servers say the same of who has which slots. Before that, a move may be forgotten: two servers that
    /// each have not heard of the other's last move take the same epoch for theirs.
    async fn wait_agreement(&self) {
        wait_until("the servers to agree about the slots", LIMIT, async || {
            let first = self.cluster_as_seen_by(0).await;
            let mut same = true;
            for node in 1..self.nodes.len() {
                same &= self.cluster_as_seen_by(node).await == first;
            }
            let epochs: BTreeSet<u64> = first.values().map(|known| known.epoch).collect();
            same && epochs.len() == self.nodes.len()
        })
        .await;
    }

    /// What a server says of all.
    async fn cluster_as_seen_by(&self, node: usize) -> BTreeMap<String, Known> {
        let said: String = self.ask(node, &["CLUSTER", "NODES"]).await.expect("a server knows the cluster");
        let known = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let range = |range: &&str| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                Some(first.parse().ok()?..=last.parse().ok()?)
            };
            let slots = words[8..].iter().filter_map(range).collect();
            (words[0].to_owned(), Known { epoch: words[6].parse().expect("it is a number"), slots })
        };
        said.lines().map(known).collect()
    }

    /// Forgets everything, as if the data had been lost.
    pub async fn flushall(&self) {
        for node in &self.nodes {
            let done: RedisResult<()> = node.command(&["FLUSHALL", "SYNC"]).await;
            // A replica follows its master.
            assert!(done.is_ok() || self.kind == RedisKind::Sentinel, "Redis refused to forget: {done:?}");
        }
    }

    /// Kills the first (or only) server without warning; clients are refused until [`Redis::restart`].
    pub fn kill9(&self) {
        self.kill9_node(0);
    }

    /// Starts the first (or only) server again, on its port and what it had persisted, and waits until it serves.
    pub async fn restart(&self) {
        self.restart_node(0).await;
    }

    /// Kills one server, counted from 0.
    pub fn kill9_node(&self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a killed server again.
    pub async fn restart_node(&self, node: usize) {
        self.nodes[node].start().await;
    }

    /// Stops the first (or only) server for a while without closing its connections.
    pub fn sigstop(&self) {
        self.nodes[0].signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Lets the stopped server go on.
    pub fn sigcont(&self) {
        self.nodes[0].signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// Lets the replica hear nothing of its master's writes from now on.
    pub async fn cut_replication(&self) {
        self.must(0, &["ACL", "SETUSER", "default", "-psync", "-sync"]).await;
        let killed: RedisResult<u64> = self.ask(0, &["CLIENT", "KILL", "TYPE", "replica"]).await;
        assert_eq!(killed.expect("the master has a replica"), 1);
    }

    /// The master's address, as the first sentinel sees it now.
    pub async fn sentinel_master(&self) -> std::net::SocketAddr {
        let asked: RedisResult<(String, u16)> =
            self.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await;
        let (host, port) = asked.expect("the sentinel knows the master");
        format!("{host}:{port}").parse().expect("the master is known by its address")
    }

    /// Makes the second server a replica of the first, and starts three sentinels that agree on it.
    async fn watch(&mut self, extra: &Extra<'_>) {
        let port = self.nodes[0].peers_port().number().to_string();
        let followed: RedisResult<()> = self.nodes[1].command(&["REPLICAOF", "127.0.0.1", &port]).await;
        followed.expect("a fresh server can become a replica");
        self.wait_for("the replica to follow", &["INFO", "replication"], "state=online").await;
        self.sentinels = (0..3).map(|_| Node::sentinel(&port, extra)).collect();
        for sentinel in &self.sentinels {
            sentinel.start().await;
        }
        wait_until("the sentinels to know each other and the replica", LIMIT, async || {
            for sentinel in &self.sentinels {
                let known: RedisResult<String> = sentinel.command(&["INFO", "sentinel"]).await;
                if !known
                    .is_ok_and(|text| text.contains("status=ok") && text.contains("slaves=1,sentinels=3"))
                {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Gives each server a third of the slots, and waits until all agree.
    async fn share_slots(&self, extra: &Extra<'_>) {
        let mut command = children::command("redis-cli");
        if let Some(Certified { ca, identity }) = extra.certified {
            command.args(["--tls", "--cacert", text(ca), "--cert", text(&identity.certificate)]);
            command.args(["--key", text(&identity.key)]);
        }
        command.args(["--cluster", "create"]).args(self.nodes.iter().map(Node::peers_addr));
        command.args(["--cluster-replicas", "0", "--cluster-yes"]);
        let log = self.nodes[0].folder.join("create.log");
        let mut created = children::spawn(command, &log);
        let status = super::blocking(move || created.wait().expect("a child can be waited for")).await;
        assert!(status.success(), "the Redis Cluster could not be made:\n{}", tail(&log, 20));
        self.wait_for("the cluster to agree", &["CLUSTER", "INFO"], "cluster_state:ok").await;
    }

    /// Waits until the answer to a command of the first server (in a Cluster: of each) has a text in it.
    async fn wait_for(&self, what: &str, words: &[&str], text: &str) {
        let asked = if self.kind == RedisKind::Cluster { &self.nodes[..] } else { &self.nodes[..1] };
        wait_until(what, LIMIT, async || {
            for node in asked {
                let answer: RedisResult<String> = node.command(words).await;
                if !answer.is_ok_and(|answer| answer.contains(text)) {
                    return false;
                }
            }
            true
        })
        .await;
    }
}

/// A server or a sentinel.
#[derive(Debug)]
struct Node {
    port: HeldPort,
    /// Where it is reached by TLS.
    tls: Option<HeldPort>,
    /// Of a Cluster's node: where its peers reach it.
    bus: Option<HeldPort>,
    folder: PathBuf,
    arguments: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl Node {
    fn new(extra: &Extra<'_>) -> Self {
        let folder = children::folder("redis");
        let port = HeldPort::new();
        let common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"];
        let mut arguments: Vec<String> =
            common.iter().chain(extra.settings).map(ToString::to_string).collect();
        arguments.insert(common.len(), port.number().to_string());
        let tls = extra.certified.map(|certified| (HeldPort::new(), certified));
        for (name, value) in tls.iter().flat_map(|(port, certified)| certified.settings(port)) {
            arguments.extend([format!("--{name}"), value]);
        }
        let tls = tls.map(|(port, _)| port);
        Self { port, tls, bus: None, folder, arguments, child: Mutex::new(None) }
    }

    fn join_a_cluster(&mut self) {
        let bus = HeldPort::new();
        let bus_port = bus.number().to_string();
        let settings =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus_port];
        self.arguments.extend(settings.map(str::to_owned));
        if self.tls.is_some() {
            self.arguments.extend(["--tls-cluster", "yes"].map(str::to_owned));
        }
        self.bus = Some(bus);
    }

    /// A sentinel that watches the master on a port.
    fn sentinel(master_port: &str, extra: &Extra<'_>) -> Self {
        let mut node = Self::new(&Extra { certified: extra.certified, ..Extra::default() });
        let file = node.folder.join("sentinel.conf");
        let mut lines = extra.sentinels.to_owned();
        for (name, value) in
            node.tls.iter().zip(extra.certified).flat_map(|(port, certified)| certified.settings(port))
        {
            // Writing to a string can't fail.
            let _ = writeln!(lines, "{name} {value}");
        }
        let text = format!(
            "bind 127.0.0.1\nport {}\nsentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n\
             sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 3000\n{lines}",
            node.port.number(),
        );
        fs::write(&file, text).expect("the rig's folder can be written");
        node.arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        node
    }

    fn url(&self) -> String {
        format!("redis://{}/", self.port.addr())
    }

    /// Where other servers, and clients by TLS, reach it.
    fn peers_port(&self) -> &HeldPort {
        self.tls.as_ref().unwrap_or(&self.port)
    }

    fn peers_addr(&self) -> String {
        self.peers_port().addr().to_string()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("redis.log")
    }

    async fn start(&self) {
        let mut command: Command = children::command("redis-server");
        command.args(&self.arguments).current_dir(&self.folder);
        let child = children::spawn(command, &self.log());
        let former = self.child.lock().expect("no holder panics").replace(child);
        assert!(former.is_none(), "Redis already runs");
        wait_until("Redis to serve", LIMIT, async || {
            self.assert_runs();
            self.command(&["PING"]).await.is_ok_and(|answer: String| answer == "PONG")
        })
        .await;
    }

    fn assert_runs(&self) {
        let mut child = self.child.lock().expect("no holder panics");
        let ended = child.as_mut().expect("Redis was started").try_wait().expect("a child can be asked");
        assert!(
            ended.is_none(),
            "Redis ended with {ended:?} (is `redis-server` installed?):\n{}",
            tail(&self.log(), 20)
        );
    }

    fn kill(&self) {
        let child = self.child.lock().expect("no holder panics").take();
        children::end(&mut child.expect("Redis runs"));
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let child = self.child.lock().expect("no holder panics");
        let pid = child.as_ref().expect("Redis runs").id();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal)
            .expect("a child can be signalled");
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(5)))
            .set_response_timeout(Some(Duration::from_secs(10)));
        client.get_multiplexed_async_connection_with_config(&limits).await
    }

    async fn command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut connection = self.connection().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query_async(&mut connection).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().expect("no holder panics").take() {
            children::end(&mut child);
        }
        // A later run removes what is left.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
