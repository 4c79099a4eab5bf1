//! What resolvers may answer, and why it is judged so. The port is that of a receiver at 127.0.0.1, which is opened
//! explicitly and stands for the public internet; 127.0.0.2 and `::1` are inside.

use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::ResponseCode;

use crate::support::dns::{Question, Reply, addresses, parse};

pub struct Row {
    /// The first label of the name; the rest is `cases.dev`.
    pub name: &'static str,
    /// What becomes of the first attempt.
    pub outcome: &'static str,
    /// The endpoint and its owner have no part in the failure.
    pub ours: bool,
    pub why: &'static str,
}

const fn row(name: &'static str, outcome: &'static str, why: &'static str) -> Row {
    Row { name, outcome, ours: false, why }
}

const fn ours(name: &'static str, why: &'static str) -> Row {
    Row { name, outcome: "dns", ours: true, why }
}

pub const NAMES: &[Row] = &[
    row("good", "delivered", "its only address may be dialled"),
    row("kept", "delivered", "a long life of the answer changes nothing"),
    row("cut", "delivered", "what does not fit into UDP is asked for by TCP"),
    row("half", "delivered", "one family that fails does not stop the other"),
    row("private", "forbidden_address", "10.0.0.0/8 is private"),
    row("loopback", "forbidden_address", "127.0.0.2 is this host"),
    row("loopback6", "forbidden_address", "::1 is this host"),
    row("any", "forbidden_address", "0.0.0.0 is this host"),
    row("metadata", "forbidden_address", "169.254.169.254 gives out credentials"),
    row("metadata6", "forbidden_address", "fd00:ec2::254 gives out credentials"),
    row("mixed", "forbidden_address", "one address that may not be dialled spoils all"),
    row("last", "forbidden_address", "so it does as the last of many"),
    row("families", "forbidden_address", "so it does in the other family"),
    row("mapped", "forbidden_address", "::ffff:127.0.0.2 is 127.0.0.2"),
    row("nat64", "forbidden_address", "64:ff9b::7f00:2 is 127.0.0.2 behind a translator"),
    row("sixtofour", "forbidden_address", "2002:7f00:2:: is tunnelled to 127.0.0.2"),
    row("teredo", "forbidden_address", "2001::/32 is tunnelled to an address inside"),
    row("isatap", "forbidden_address", "::5efe:7f00:2 is tunnelled to 127.0.0.2"),
    row("alias", "forbidden_address", "an alias for a name inside leads inside"),
    row("aliaslocal", "forbidden_address", "an alias for localhost is this host"),
    row("flip", "forbidden_address", "the first answer is inside; what is vetted is what is dialled"),
    row(
        "rebind",
        "status",
        "only the first answer is outside: that is dialled, and nobody asks a second time to dial",
    ),
    row("rebind6", "status", "so it is where the later answers are inside by the other family"),
    row("absent", "dns", "there is no such name"),
    row("empty", "dns", "the name has no address"),
    row("loop", "dns", "an alias for itself has no address"),
    row("other", "dns", "addresses of another name are no answer"),
    row(
        "broken",
        "dns",
        "the zone's servers fail or its signatures are wrong: the resolver answers for its neighbours",
    ),
    row("silent", "dns", "the resolver waits for the zone's servers, and answers for its neighbours"),
    row("garbage", "dns", "what is no DNS is no answer"),
    row("forged", "dns", "an answer to another question is none"),
    ours("refused", "to refuse is a resolver's own decision; a zone can't make it"),
    ours("unsupported", "so it is to know no such question"),
    ours("misread", "so it is to find the question malformed"),
];

/// Ways in which a resolver fails whatever it is asked. It still knows the root, as one that has been in use does.
pub const FAILURES: &[(&str, Reply)] = &[
    ("silence", Reply::Silence),
    ("failure", Reply::Code(ResponseCode::ServFail)),
    ("refusal", Reply::Code(ResponseCode::Refused)),
    ("unreadable", Reply::Garbage),
    ("numberless", Reply::WrongId(Vec::new())),
    ("emptiness", Reply::Empty),
    ("halves", Reply::Half),
];

/// Names whose answer changes, and the row that they answer like this time.
fn this_time(name: &str, v6: bool) -> &str {
    static ASKED: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];
    let asked_before = |n: usize| ASKED[n].fetch_add(1, Ordering::Relaxed);
    match name {
        "flip" | "rebind" if v6 => "empty",
        // Inside at the first asking, outside at the second, and so on: whoever asks again to dial is caught.
        "flip" if asked_before(0).is_multiple_of(2) => "loopback",
        "flip" => "good",
        // Outside at the first asking, inside ever after.
        "rebind" if asked_before(1) == 0 => "good",
        "rebind" => "loopback",
        "rebind6" if v6 && asked_before(2) == 0 => "empty",
        "rebind6" => "families",
        constant => constant,
    }
}

/// What the resolver says.
pub fn decide(question: &Question) -> Reply {
    let name = question.name.split('.').next().unwrap_or_default();
    match this_time(name, question.v6) {
        "kept" => Reply::Addresses(parse(&["127.0.0.1"]), 86_400),
        "cut" => Reply::Truncated(parse(&["127.0.0.1"])),
        "half" if question.v6 => Reply::Code(ResponseCode::ServFail),
        "private" => addresses(&["10.1.2.3"]),
        "loopback" => addresses(&["127.0.0.2"]),
        "loopback6" => addresses(&["::1"]),
        "any" => addresses(&["0.0.0.0"]),
        "metadata" => addresses(&["169.254.169.254"]),
        "metadata6" => addresses(&["fd00:ec2::254"]),
        "mixed" => addresses(&["127.0.0.1", "127.0.0.2"]),
        "last" => {
            let mut many = parse(&["127.0.0.1"; 1]);
            many.extend((1..20).map(|n| std::net::IpAddr::from([8, 8, 4, n])));
            many.extend(parse(&["127.0.0.2"]));
            Reply::Addresses(many, 0)
        }
        "families" => addresses(&["127.0.0.1", "::1"]),
        "mapped" => addresses(&["::ffff:127.0.0.2"]),
        "nat64" => addresses(&["64:ff9b::7f00:2"]),
        "sixtofour" => addresses(&["2002:7f00:2::1"]),
        "teredo" => addresses(&["2001:0:7f00:2::1"]),
        "isatap" => addresses(&["2a00:1450::5efe:7f00:2"]),
        "alias" => Reply::Alias("db.internal.", parse(&["127.0.0.2"])),
        "aliaslocal" => Reply::Alias("localhost.", parse(&["127.0.0.2", "::1"])),
        "good" | "half" => addresses(&["127.0.0.1"]),
        "empty" => addresses(&[]),
        "loop" => Reply::AliasLoop,
        "other" => Reply::OtherName("good.cases.dev.", parse(&["127.0.0.1"])),
        "broken" => Reply::Code(ResponseCode::ServFail),
        "refused" => Reply::Code(ResponseCode::Refused),
        "unsupported" => Reply::Code(ResponseCode::NotImp),
        "misread" => Reply::Code(ResponseCode::FormErr),
        "silent" => Reply::Silence,
        "garbage" => Reply::Garbage,
        "forged" => Reply::WrongId(parse(&["127.0.0.1"])),
        _ => Reply::Code(ResponseCode::NXDomain),
    }
}
