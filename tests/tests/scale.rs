//! Many children on one parent.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tests::{
    daemon::Daemon,
    frames::{Frame, token},
    length::CHILDREN,
    mac::Mac,
    netns::Netns,
    tap::Tap,
    topology::{Lan, PARENT},
    traffic::ping,
};

/// Children in how many namespaces: a namespace of its own for each of a thousand would test the
/// kernel's namespaces, and each can hold many links.
const NAMESPACES: usize = 10;

fn address(number: usize) -> Ipv4Addr {
    let number = u16::try_from(number).expect("a small number").to_be_bytes();
    [10, 77, number[0], number[1]].into()
}

/// Gives each child of a namespace a way back to whoever asks through its own link: what left through a
/// sibling's would have the address of another.
fn answer_from_their_own_links(ns: &Netns, children: impl Iterator<Item = usize>) {
    let mut batch = tempfile::NamedTempFile::new().expect("a file");
    for number in children {
        let (ip, table) = (address(number), 1000 + number);
        writeln!(batch, "route add 10.77.255.1/32 dev e{number} table {table}")
            .expect("it has room");
        writeln!(batch, "rule add from {ip} lookup {table}").expect("it has room");
    }
    ns.run(&["ip", "-batch", batch.path().to_str().expect("a path in UTF-8")]);
}

/// A thousand children in a soak come up, answer, and do not become slower to add.
#[test]
fn many_macvlan_children_come_up_and_answer() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    host.ns.address(PARENT, "10.77.255.1/16");
    let daemon = Daemon::start(&host.ns);
    daemon.network("lan", 0, "macvlan");
    let namespaces: Vec<_> = (0..NAMESPACES).map(|_| lan.namespace()).collect();
    for ns in &namespaces {
        // All links of a namespace are in one subnet: each answers for its own addresses only.
        ns.sysctl("net/ipv4/conf/all/arp_ignore", "1");
        ns.sysctl("net/ipv4/conf/all/arp_announce", "2");
    }
    let children = CHILDREN.get() as usize;
    let mut halves = [Duration::ZERO; 2];
    for number in 0..children {
        let ns = &namespaces[number % NAMESPACES];
        let (name, ifname) = (format!("c{number}"), format!("e{number}"));
        let ip = format!("{}/32", address(number));
        let began = Instant::now();
        daemon.child_with(&name, "lan", ns, &["--ifname", &ifname, "--ip", &ip]);
        halves[number * 2 / children] += began.elapsed();
    }
    for (place, ns) in namespaces.iter().enumerate() {
        answer_from_their_own_links(ns, (place..children).step_by(NAMESPACES));
    }
    assert_eq!(daemon.json(&["child", "ls"]).as_array().map(Vec::len), Some(children));
    let silent: Vec<Ipv4Addr> = (0..children)
        .step_by(7)
        .map(address)
        .filter(|ip| !ping(&host.ns, *ip, 1, Duration::from_millis(10)).is_clean())
        .collect();
    assert!(silent.is_empty(), "{} do not answer: {silent:?}", silent.len());
    assert_eq!(daemon.drops("source_ip"), 0, "each answers as itself");
    eprintln!("first half {:?}, second half {:?}", halves[0], halves[1]);
    assert!(halves[1] < halves[0] * 3, "children become slower to add: {halves:?}");
}

/// A broadcast reaches each of a thousand children of its VLAN once in a soak, over several turns.
#[test]
fn a_flood_reaches_many_children_of_a_vlan_once_each() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("v10", 10, "macvlan");
    daemon.network("w10", 10, "veth");
    daemon.network("v20", 20, "macvlan");
    let ns = lan.namespace();
    let total = CHILDREN.get() as usize;
    for number in 0..total {
        let network = if number % 50 == 0 { "w10" } else { "v10" };
        let (name, ifname) = (format!("c{number}"), format!("e{number}"));
        daemon.child_with(&name, network, &ns, &["--ifname", &ifname]);
    }
    daemon.child_with("other", "v20", &ns, &["--ifname", "other"]);
    // One socket hears every link of the namespace.
    let all = Tap::open_all(&ns);
    let router = Tap::open(&lan.router.ns, PARENT);
    let token = token();
    router.send(&Frame::new(lan.router.mac, Mac::BROADCAST, &token).vlan(10));
    let heard = all.heard(&token, Duration::from_secs(3));
    assert_eq!(heard.len(), total, "each member once");
    let mut unique = heard.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), total, "no member twice");
    assert!(!heard.contains(&ns.ifindex("other")));
    assert_eq!(daemon.drops("refused"), 0);
}
