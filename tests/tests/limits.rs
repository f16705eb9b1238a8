//! Tables that are full: what is new is refused by name, what is there goes on.

use std::{net::Ipv4Addr, time::Duration};

use tests::{
    daemon::Daemon,
    eventually,
    netns::Netns,
    topology::{Lan, PARENT},
    traffic::{Ping, assert_reaches},
};

const SOON: Duration = Duration::from_secs(20);
const OFTEN: Duration = Duration::from_millis(10);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

#[test]
fn a_full_forwarding_table_refuses_the_next_child_and_keeps_the_others() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let daemon = Daemon::start(host);
    daemon.network("lan", 0, "macvlan");
    daemon.network("trunks", 0, "veth");
    let (child, late) = (lan.namespace(), lan.namespace());
    daemon.child("m", "lan", &child, "192.168.50.101/24");
    // Each has an entry for every VLAN, and one for all of them: 16 fill the 65,536.
    let ns = lan.namespace();
    let add = |number: usize| {
        let (name, ifname) = (format!("t{number}"), format!("e{number}"));
        let child = ["child", "add", &name, "--network", "trunks", "--netns", ns.name()];
        let more = ["--ifname", &ifname, "--trunk", "1-4094"];
        daemon.cli(&[&child[..], &more[..]].concat())
    };
    let ping = Ping::start(host, v4(101), OFTEN);
    let mut refused = None;
    for number in 0..20 {
        let output = add(number);
        if !output.status.success() {
            refused = Some((number, String::from_utf8_lossy(&output.stderr).into_owned()));
            break;
        }
    }
    let (number, message) = refused.expect("the table is never full");
    assert!(number >= 15, "{number} trunks: {message}");
    for word in [&format!("cannot create child \"t{number}\""), "65536", "maclane_", "trunks"] {
        assert!(message.contains(word), "\"{word}\" is not in: {message}");
    }
    assert!(!ns.has(&format!("e{number}")), "its link is left");
    assert!(!daemon.cli(&["child", "inspect", &format!("t{number}")]).status.success());
    assert_eq!(daemon.problems(), "[]");
    // One that fits is made all the same, and reaches others.
    daemon.child("late", "lan", &late, "192.168.50.102/24");
    assert_reaches(host, v4(102));
    daemon.run(&["child", "rm", "t3"]);
    assert!(add(number).status.success(), "removal makes room");
    eventually("nothing is wrong", SOON, || daemon.problems() == "[]");
    let result = ping.stop();
    assert!(result.is_clean(), "{result:?}");
}

#[test]
fn a_full_port_table_refuses_the_next_child_and_keeps_the_others() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let daemon = Daemon::start(host);
    daemon.network("lan", 0, "macvlan");
    let first = lan.namespace();
    daemon.child("first", "lan", &first, "192.168.50.101/24");
    // The links of a namespace are listed for each child in it: a thousand in one would list a million.
    let spaces: Vec<Netns> = (0..32).map(|_| lan.namespace()).collect();
    let space = |number: usize| &spaces[number % spaces.len()];
    let add = |number: usize| {
        let (name, ifname) = (format!("c{number}"), format!("e{number}"));
        let netns = space(number).name();
        let child = ["child", "add", &name, "--network", "lan", "--netns", netns];
        daemon.cli(&[&child[..], &["--ifname", &ifname]].concat())
    };
    for number in 1..1024 {
        let output = add(number);
        assert!(output.status.success(), "{number}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = add(1024);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for word in ["cannot create child \"c1024\"", "eth0", "1024 children", "remove some"] {
        assert!(message.contains(word), "\"{word}\" is not in: {message}");
    }
    assert!(!space(1024).has("e1024"));
    assert_reaches(host, v4(101));
    daemon.run(&["child", "rm", "c512"]);
    assert!(add(1024).status.success(), "removal makes room");
    assert_reaches(host, v4(101));
    assert_eq!(daemon.json(&["parent", "show", PARENT])["children"], 1024);
}
