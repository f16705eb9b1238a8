//! Multicast DNS (RFC 6762): `avahi-daemon` answers.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use tests::{netns::Netns, patience};

use crate::{
    programs::Program,
    site::{KINDS, SOON, Site},
};

const PORT: u16 = 5353;
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// A question for a name below `.local`, of type A or AAAA, which wants its answer by multicast.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [name, "local"] {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// A socket in the group, and where the group is.
fn member(ipv6: bool, interface: (Ipv4Addr, u32)) -> io::Result<(UdpSocket, SocketAddr)> {
    let (socket, group) = if ipv6 {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
        socket.join_multicast_v6(&GROUP6, interface.1)?;
        socket.set_multicast_loop_v6(false)?;
        (socket, std::net::SocketAddrV6::new(GROUP6, PORT, 0, interface.1).into())
    } else {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        socket.join_multicast_v4(&GROUP, &interface.0)?;
        socket.set_multicast_loop_v4(false)?;
        (socket, (GROUP, PORT).into())
    };
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok((socket, group))
}

/// Asks until somebody answers with these bytes. What is heard has come by multicast.
fn finds(ns: &Netns, name: &str, (own, wanted): (Ipv4Addr, &[u8])) -> bool {
    let index = ns.ifindex("eth0");
    ns.enter(|| {
        let (ipv6, kind) = if wanted.len() == 4 { (false, 1) } else { (true, 28) };
        let deadline = Instant::now() + patience(SOON);
        let (socket, group) = loop {
            match member(ipv6, (own, index)) {
                Ok(member) => break member,
                // Seen on a machine that was busy with something else.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    assert!(Instant::now() < deadline, "a socket in the group: {error}");
                    std::thread::sleep(patience(Duration::from_millis(50)));
                }
                Err(error) => panic!("a socket in the group: {error}"),
            }
        };
        let mut answer = [0; 9000];
        while Instant::now() < deadline {
            // Not before the addresses can be used.
            if let Err(error) = socket.send_to(&question(name, kind), group) {
                eprintln!("{error}");
                std::thread::sleep(patience(Duration::from_millis(50)));
                continue;
            }
            while let Ok(length) = socket.recv(&mut answer) {
                let is_response = answer[2] & 0x80 != 0;
                let message = &answer[..length];
                if is_response && message.windows(wanted.len()).any(|bytes| bytes == wanted) {
                    return true;
                }
            }
        }
        false
    })
}

#[test]
fn the_name_of_a_child_is_found_by_mdns() {
    for kind in KINDS {
        eprintln!("{kind}");
        let site = Site::new(kind, true);
        let child = site.member("child", "--ip 192.168.50.101/24 --ip fd00:50::101/64");
        let sibling = site.member("sibling", "--ip 192.168.50.103/24 --ip fd00:50::103/64");
        let _responder = Program::avahi(&child.ns, "web");
        let (router, host) = (&site.lan.router, &site.lan.hosts[0]);
        let own6: Ipv6Addr = "fd00:50::101".parse().expect("an address");
        let sibling4 = Ipv4Addr::new(192, 168, 50, 103);
        for ns in [&router.ns, &host.ns, &sibling.ns] {
            ns.ip("route add 224.0.0.0/4 dev eth0");
        }
        for (ns, own) in [(&router.ns, router.ip), (&host.ns, host.ip), (&sibling.ns, sibling4)] {
            for wanted in [&[192, 168, 50, 101][..], &own6.octets()] {
                assert!(finds(ns, "web", (own, wanted)), "{kind}: {} asks", ns.name());
            }
        }
        site.assert_nothing_counted(&[&child, &sibling]);
    }
}
