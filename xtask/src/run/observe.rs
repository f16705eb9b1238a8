//! Who receives a frame: ears everywhere on the LAN, and what they are expected to hear.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use tests::{
    frames::{Frame, token},
    mac::Mac,
    tap::Tap,
    topology::PARENT,
};

use super::site::{Site, Station};

/// Where a broadcast goes to, so that the host's stack can be asked for it.
const PORT: u16 = 5000;

/// How long a frame that is expected may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for a frame that is not expected.
const SETTLED: Duration = Duration::from_millis(150);

/// A frame that is sent once, and who has to receive it, once each.
pub(super) struct Shot<'a> {
    from: Station<'a>,
    frame: Frame,
    token: String,
    expected: Vec<(&'static str, u16)>,
}

impl<'a> Shot<'a> {
    /// From one station to a MAC.
    pub(super) fn unicast(from: Station<'a>, to: Mac) -> Self {
        let token = token();
        Self { from, frame: Frame::new(from.mac, to, &token), token, expected: Vec::new() }
    }

    /// From one station to all.
    pub(super) fn broadcast(from: Station<'a>) -> Self {
        let token = token();
        let [a, b, c, _] = from.ip.octets();
        let all = SocketAddrV4::new(Ipv4Addr::new(a, b, c, 255), PORT);
        let from_socket = SocketAddrV4::new(from.ip, PORT);
        let frame = Frame::udp((from.mac, from_socket), (Mac::BROADCAST, all), &token);
        Self { from, frame, token, expected: Vec::new() }
    }

    /// The same with a tag, unless the VLAN is 0.
    pub(super) fn tagged(mut self, vlan: u16) -> Self {
        if vlan != 0 {
            self.frame = self.frame.vlan(vlan);
        }
        self
    }

    /// Expects it at an ear, in a VLAN as its tag there says.
    pub(super) fn expect(mut self, ear: &'static str, vlan: u16) -> Self {
        self.expected.push((ear, vlan));
        self
    }
}

/// A frame that was heard: by whom, of which shot, in which VLAN.
type Heard = (&'static str, usize, u16);

enum Ear {
    Tap(Tap),
    /// On the host's parent, a tap hears more than the host receives.
    Socket(UdpSocket),
}

/// The other end of the host's cable: what the host sends, and its children through it.
pub(super) const WIRE: &str = "wire";

/// An ear at every child, the router, the host, and on the wire.
struct Ears(Vec<(&'static str, Ear)>);

impl Ears {
    fn open(site: &Site) -> Self {
        let host = site.station("host");
        let router = site.station("router");
        let tap = |station: Station<'_>| (station.name, Ear::Tap(Tap::open(station.ns, PARENT)));
        let mut ears: Vec<_> = site.children().chain([router]).map(tap).collect();
        ears.push((WIRE, Ear::Tap(Tap::open(&site.lan.wire, &site.lan.hosts[0].port))));
        let socket = host.ns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)));
        let socket = socket.expect("the port is free in the host's namespace");
        socket.set_nonblocking(true).expect("a socket can be set not to block");
        ears.push((host.name, Ear::Socket(socket)));
        Self(ears)
    }

    /// What was heard of the shots since it was last asked.
    fn drain(&self, shots: &[Shot<'_>]) -> Vec<Heard> {
        let mut heard = Vec::new();
        for (name, ear) in &self.0 {
            for frame in ear.drain() {
                let shot = shots.iter().position(|shot| frame.carries(&shot.token));
                heard.extend(shot.map(|shot| (*name, shot, frame.vlan_id())));
            }
        }
        heard
    }
}

impl Ear {
    fn drain(&self) -> Vec<Frame> {
        let socket = match self {
            Self::Tap(tap) => return tap.collect(Duration::ZERO),
            Self::Socket(socket) => socket,
        };
        let mut buffer = [0; 2048];
        let datagrams = std::iter::from_fn(|| match socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot read the host's socket: {error}"),
        });
        datagrams.map(|text| Frame::new(Mac::BROADCAST, Mac::BROADCAST, &text)).collect()
    }
}

/// Sends each shot. Each has to be heard where it is expected, once, and nowhere else; the ear
/// `deaf` does not count.
pub(super) fn observe(site: &Site, deaf: Option<&str>, shots: &[Shot<'_>]) -> Result<(), String> {
    let mut expected: Vec<Heard> = Vec::new();
    for (number, shot) in shots.iter().enumerate() {
        expected.extend(shot.expected.iter().map(|&(ear, vlan)| (ear, number, vlan)));
    }
    let ears = Ears::open(site);
    for shot in shots {
        Tap::open(shot.from.ns, PARENT).send(&shot.frame);
    }

    let mut heard = Vec::new();
    let mut settled = false;
    let mut until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
        heard.extend(ears.drain(shots).into_iter().filter(|(ear, ..)| deaf != Some(*ear)));
        if !settled && expected.iter().all(|wanted| heard.contains(wanted)) {
            settled = true;
            until = Instant::now() + SETTLED;
        }
    }
    let differences = differences(expected, heard, shots);
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}

/// In words, how what was heard is not what was expected.
fn differences(mut expected: Vec<Heard>, heard: Vec<Heard>, shots: &[Shot<'_>]) -> Vec<String> {
    let mut surplus = Vec::new();
    for one in heard {
        match expected.iter().position(|wanted| *wanted == one) {
            Some(at) => drop(expected.swap_remove(at)),
            None => surplus.push(one),
        }
    }
    let describe = |(ear, shot, vlan): &Heard| {
        let from = shots[*shot].from.name;
        let tag = if *vlan == 0 { "untagged".to_owned() } else { format!("tagged {vlan}") };
        format!("{tag} by {ear} from {from}")
    };
    let missing = expected.iter().map(|one| format!("not heard {}", describe(one)));
    let surplus = surplus.iter().map(|one| format!("heard {}", describe(one)));
    missing.chain(surplus).collect()
}
