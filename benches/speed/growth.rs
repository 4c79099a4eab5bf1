//! Whether a message costs more where there is more of everything. The floor is the program itself: one process with the
//! usual numbers of chats, windows, webhooks and of messages that wait for it.

use super::{
    Options,
    cost::Reading,
    figure::{Goal, Measure},
    input::Input,
    receiver::Nginx,
    rig::{ACCEPTED, DELIVERED, NOWHERE, PARTITIONS, PUBLISHED, WINDOWS},
    rig::{publish, reach, start, stop, sum, unhurried, webhooks},
    rounds::Rounds,
    support::{LIMIT, Role, System, wait_until},
};

/// So many times as much.
const MORE: usize = 10;
/// Workspaces of the usual system; each has four webhooks with windows, or one that gets messages at once.
const WORKSPACES: usize = 10;
/// A message may cost so many times as much.
const GOAL: Goal = Goal::UpTo(1.1);
/// So many processes beside one.
const PROCESSES: [usize; 2] = [2, 4];

/// Growth of `aggregate`, or of `deliver`.
pub struct Growth {
    usual: Scene,
    /// What there is more of, and where.
    grown: Vec<(&'static str, Scene)>,
    /// Messages of a turn.
    messages: usize,
}

/// Which of the two is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    Aggregate,
    Deliver,
}

impl Growth {
    pub async fn aggregate(options: &Options) -> Self {
        let messages = options.messages / 4;
        let many = MORE * options.chats;
        let scene = |chats, workspaces| Scene::start(Measured::Aggregate, chats, workspaces, None);
        let (usual, chats, windows, webhooks) = tokio::join!(
            scene(options.chats, WORKSPACES),
            scene(many, WORKSPACES),
            async {
                let scene = scene(options.chats, WORKSPACES).await;
                scene.open_windows(many).await;
                scene
            },
            scene(options.chats, MORE * WORKSPACES),
        );
        let grown = vec![("chats", chats), ("windows", windows), ("webhooks", webhooks)];
        Self { usual, grown, messages }.warm().await
    }

    pub async fn deliver(options: &Options) -> Self {
        let messages = options.deliveries / 8;
        let nginx = Nginx::start().await;
        let url = nginx.url();
        let scene =
            |chats, workspaces| Scene::start(Measured::Deliver, chats, workspaces, Some(url.as_str()));
        let (mut usual, chats, webhooks) = tokio::join!(
            scene(options.chats, WORKSPACES),
            scene(MORE * options.chats, WORKSPACES),
            scene(options.chats, MORE * WORKSPACES),
        );
        usual.nginx = Some(nginx);
        Self { usual, grown: vec![("chats", chats), ("webhooks", webhooks)], messages }.warm().await
    }

    /// Has each process done something before it is measured.
    async fn warm(mut self) -> Self {
        for scene in std::iter::once(&mut self.usual).chain(self.grown.iter_mut().map(|(_, scene)| scene)) {
            scene.turn(self.messages / 2).await;
        }
        self
    }
}

/// A system, and the processes of it that are measured.
struct Scene {
    system: System,
    measured: Measured,
    /// Processes beside the system's own.
    others: Vec<Role>,
    input: Input,
    /// Bundles that `aggregate` was to publish so far.
    published: usize,
    nginx: Option<Nginx>,
}

impl Scene {
    /// One process waits for messages of so many chats, of which a few have most.
    async fn start(measured: Measured, chats: usize, workspaces: usize, url: Option<&str>) -> Self {
        let granularities = if measured == Measured::Aggregate { &WINDOWS[..] } else { &["none"] };
        let settings = webhooks(workspaces, granularities, url.unwrap_or(NOWHERE));
        let setup = unhurried().env("BUNDLEHOOK_REQUEST_TIMEOUT", "10s");
        let system = start(setup, &settings).await;
        if measured == Measured::Aggregate {
            stop(&system.deliver).await;
        }
        let input = Input::popular(chats, 1).workspaces(workspaces);
        Self { system, measured, others: Vec::new(), input, published: 0, nginx: None }
    }

    /// Opens the windows of so many other chats.
    async fn open_windows(&self, chats: usize) {
        let mut others = Input::in_turn(chats, 2).named("other-").workspaces(WORKSPACES);
        publish(&self.system, &mut others, chats).await;
        reach([&self.system.aggregate], ACCEPTED, chats as f64).await;
    }

    fn role(&self) -> &'static str {
        if self.measured == Measured::Aggregate { "aggregate" } else { "deliver" }
    }

    fn processes(&self) -> Vec<&Role> {
        let own = match self.measured {
            Measured::Aggregate => &self.system.aggregate,
            Measured::Deliver => &self.system.deliver,
        };
        std::iter::once(own).chain(&self.others).collect()
    }

    /// Lets so many processes share the partitions.
    async fn share(&mut self, processes: usize) {
        while self.others.len() + 1 > processes {
            let ended = self.others.pop().expect("there are more than one");
            stop(&ended).await;
        }
        while self.others.len() + 1 < processes {
            let another = self.system.another(self.role()).await;
            self.others.push(another);
        }
        let each = PARTITIONS as usize / processes;
        wait_until("the processes to share the partitions", LIMIT, async || {
            let mut even = true;
            for process in self.processes() {
                even &= process.sum("bundlehook_partitions_owned{").await as usize == each;
            }
            even
        })
        .await;
    }

    /// CPU time that all processes spend on a message, in microseconds. They stand still until all messages wait for them.
    async fn turn(&mut self, messages: usize) -> f64 {
        let counter = if self.measured == Measured::Aggregate { ACCEPTED } else { DELIVERED };
        let done = sum(self.processes(), counter).await;
        self.processes().iter().for_each(|role| role.process.sigstop());
        publish(&self.system, &mut self.input, messages).await;
        if self.measured == Measured::Deliver {
            self.published += messages;
            reach([&self.system.aggregate], PUBLISHED, self.published as f64).await;
            self.system.wait_committed("aggregate", "message-events").await;
        }
        let pids = || self.processes().into_iter().map(|role| role.process.pid());
        let began = Reading::of(pids());
        self.processes().iter().for_each(|role| role.process.sigcont());
        reach(self.processes(), counter, done + messages as f64).await;
        Reading::of(pids()).since(began, messages).micros_each()
    }
}

impl Rounds for Growth {
    const NAME: &'static str = "growth";

    fn measures(&self) -> Vec<Measure> {
        let of = |what: String| {
            Measure::new(format!("{}, CPU µs a message: {what}", self.usual.role()), 1).goal(GOAL)
        };
        let grown = self.grown.iter().map(|(what, _)| of(format!("{MORE} times the {what}")));
        let backlog = std::iter::once(of(format!("{MORE} times the backlog")));
        let processes = PROCESSES.iter().map(|count| of(format!("{count} processes")));
        grown.chain(backlog).chain(processes).collect()
    }

    async fn floor(&mut self) -> Vec<f64> {
        self.usual.share(1).await;
        let usual = self.usual.turn(self.messages).await;
        vec![usual; self.grown.len() + 1 + PROCESSES.len()]
    }

    async fn program(&mut self) -> Vec<f64> {
        let mut values = Vec::new();
        for (_, scene) in &mut self.grown {
            values.push(scene.turn(self.messages).await);
        }
        values.push(self.usual.turn(MORE * self.messages).await);
        for processes in PROCESSES {
            self.usual.share(processes).await;
            values.push(self.usual.turn(self.messages).await);
        }
        values
    }
}
