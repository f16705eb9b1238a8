//! Docker in a child: a `dockerd` whose host is the child's namespace.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use tests::{docker::Dockerd, eventually, patience, room::Room};

use crate::site::{KINDS, SOON, Site};

/// The address of the child.
const CHILD: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 101);

/// What the published port of the child says to who connects.
fn greeting() -> io::Result<String> {
    let time = patience(Duration::from_secs(1));
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((CHILD, 8080)), time)?;
    stream.set_read_timeout(Some(time))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A container of a `dockerd` in an enforced child reaches the wire, the host and siblings through
/// the child's address, and its published port is reached there.
#[test]
fn docker_in_a_child_works_without_trust() {
    for kind in &KINDS[1..] {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let child = site.member("child", &format!("--ip {CHILD}/24"));
        let sibling = site.member("sibling", "--ip 192.168.50.102/24");
        let room = Room::new(&child.ns);
        let options = ["--iptables=true", "--bridge=", "--bip=10.88.0.1/24"];
        let dockerd = Dockerd::start_with(&room, &options);
        let container = dockerd.docker().container("inner", "bridge", "--publish 8080:80");
        let (router, host) = (&site.lan.router, &site.lan.hosts[0]);
        for to in [IpAddr::from(router.ip), host.ip.into(), IpAddr::from([192, 168, 50, 102])] {
            assert!(container.pings(to), "the container reaches {to}");
        }
        let serve = "while :; do echo from inside | nc -l -p 80; done";
        let _server = dockerd.docker().begin(&["exec", container.name(), "sh", "-c", serve]);
        for from in [&router.ns, &host.ns, &sibling.ns] {
            eventually(&format!("{} reaches the container", from.name()), SOON, || {
                from.enter(greeting).is_ok_and(|text| text == "from inside\n")
            });
        }
        site.assert_nothing_counted(&[&child, &sibling]);
    }
}
