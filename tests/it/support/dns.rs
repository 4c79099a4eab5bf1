//! A resolver that answers as told: over UDP and TCP, on a port of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::background;

/// A question: the name as it was asked, without its final dot, and the type of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub name: String,
    pub v6: bool,
    pub tcp: bool,
}

/// What a question gets.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These addresses, those of the family that was asked for, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// An alias with the addresses of its target.
    Alias(&'static str, Vec<IpAddr>),
    /// An alias for itself.
    AliasLoop,
    /// Addresses of another name.
    OtherName(&'static str, Vec<IpAddr>),
    /// This code and nothing else.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
    /// Bytes that are no DNS.
    Garbage,
    /// A packet without a byte.
    Empty,
    /// The first half of a packet.
    Half,
    /// The right answer to another question's number.
    WrongId(Vec<IpAddr>),
    /// Cut off by UDP, whole by TCP.
    Truncated(Vec<IpAddr>),
}

/// Addresses that are not kept.
pub fn addresses(addresses: &[&str]) -> Reply {
    Reply::Addresses(parse(addresses), 0)
}

pub fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().expect("an IP address")).collect()
}

type Decide = Arc<dyn Fn(&Question) -> Reply + Send + Sync>;

/// A running resolver.
pub struct Resolver {
    addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    decide: Mutex<Decide>,
    asked: Mutex<Vec<Question>>,
}

/// Starts a resolver. It knows the root, as any does that has been in use; everything else is decided by the argument.
pub fn resolver(decide: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Resolver {
    let state = Arc::new(State { decide: Mutex::new(Arc::new(decide)), asked: Mutex::default() });
    let _runtime = background().enter();
    // The same port for both: where TCP has one that is free for UDP, too.
    let (tcp, udp) = loop {
        let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let addr = tcp.local_addr().expect("a bound socket has an address");
        if let Ok(udp) = std::net::UdpSocket::bind(addr) {
            break (tcp, udp);
        }
    };
    tcp.set_nonblocking(true).and_then(|()| udp.set_nonblocking(true)).expect("a socket can wait");
    let addr = tcp.local_addr().expect("a bound socket has an address");
    tokio::spawn(serve_udp(UdpSocket::from_std(udp).expect("it is a socket"), state.clone()));
    tokio::spawn(serve_tcp(TcpListener::from_std(tcp).expect("it is a listener"), state.clone()));
    Resolver { addr, state }
}

impl Resolver {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on it answers as this decides.
    pub fn set(&self, decide: impl Fn(&Question) -> Reply + Send + Sync + 'static) {
        *self.state.decide.lock().expect("no holder panics") = Arc::new(decide);
    }

    /// Every question so far, but for those about the root.
    pub fn asked(&self) -> Vec<Question> {
        self.state.asked.lock().expect("no holder panics").clone()
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        if let Some(answer) = state.answer(&buffer[..length], false) {
            // Who asked may be gone.
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<State>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; usize::from(length)];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                if let Some(answer) = state.answer(&query, true) {
                    let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
                    if stream.write_all(&framed).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

impl State {
    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        let asked = query.queries.first()?.clone();
        let decide = self.decide.lock().expect("no holder panics").clone();
        let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        response.metadata.recursion_desired = true;
        response.metadata.recursion_available = true;
        response.add_query(asked.clone());
        if asked.name().is_root() {
            let server = Name::from_ascii("a.root-servers.net.").expect("it is a name");
            response.add_answer(Record::from_rdata(Name::root(), 60, RData::NS(NS(server))));
            return response.to_vec().ok();
        }
        let name = asked.name().clone();
        let v6 = asked.query_type() == RecordType::AAAA;
        let question = Question { name: name.to_ascii().trim_end_matches('.').to_lowercase(), v6, tcp };
        self.asked.lock().expect("no holder panics").push(question.clone());
        let add = |response: &mut Message, name: &Name, found: &[IpAddr], ttl| {
            for address in found.iter().filter(|address| address.is_ipv6() == v6) {
                let data = match address {
                    IpAddr::V4(v4) => RData::A(A(*v4)),
                    IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
                };
                response.add_answer(Record::from_rdata(name.clone(), ttl, data));
            }
        };
        match decide(&question) {
            Reply::Addresses(found, ttl) => add(&mut response, &name, &found, ttl),
            Reply::Alias(target, found) => {
                let target = Name::from_ascii(target).expect("it is a name");
                response.add_answer(Record::from_rdata(name, 0, RData::CNAME(CNAME(target.clone()))));
                add(&mut response, &target, &found, 0);
            }
            Reply::AliasLoop => {
                response.add_answer(Record::from_rdata(name.clone(), 0, RData::CNAME(CNAME(name))));
            }
            Reply::OtherName(other, found) => {
                add(&mut response, &Name::from_ascii(other).expect("it is a name"), &found, 0);
            }
            Reply::Code(code) => response.metadata.response_code = code,
            Reply::Silence => return None,
            Reply::Garbage => return Some(b"no DNS at all, but long enough for a header".to_vec()),
            Reply::Empty => return Some(Vec::new()),
            Reply::Half => return response.to_vec().ok().map(|bytes| bytes[..bytes.len() / 2].to_vec()),
            Reply::WrongId(found) => {
                response.metadata.id = response.metadata.id.wrapping_add(1);
                add(&mut response, &name, &found, 0);
            }
            Reply::Truncated(found) if tcp => add(&mut response, &name, &found, 0),
            Reply::Truncated(_) => response.metadata.truncation = true,
        }
        response.to_vec().ok()
    }
}
