//! `docker network create -d maclane`, with a real Docker.

use std::{net::Ipv4Addr, time::Duration};

use tests::{
    daemon::{Daemon, Setup},
    docker::Dockerd,
    eventually,
    room::Room,
    tcp,
    topology::{Lan, PARENT},
    traffic::{assert_does_not_reach, assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(10);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

#[test]
fn containers_of_the_built_in_driver_are_adopted_and_the_host_reaches_them() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let room = Room::new(&host.ns);
    let dockerd = Dockerd::start(&room);
    let docker = dockerd.docker();
    docker.network(
        "stock",
        "-d macvlan --subnet 192.168.50.0/24 --gateway 192.168.50.1 -o parent=eth0",
    );
    let [one, two] = [("one", 101), ("two", 102)]
        .map(|(name, last)| docker.container(name, "stock", &format!("--ip {}", v4(last))));
    let reach_each_other = || {
        assert_reaches(&one.ns(), v4(102));
        assert_reaches(&two.ns(), lan.router.ip);
        assert!(one.pings(v4(102)) && two.pings(v4(1)));
    };
    reach_each_other();
    assert_does_not_reach(&host.ns, v4(101));
    assert!(!one.pings(host.ip));

    let daemon = Daemon::start_as(&host.ns, Setup { room: Some(room), ..Setup::default() });
    daemon.run(&["parent", "add", PARENT]);
    for (container, last) in [(&one, 101), (&two, 102)] {
        eventually("the host reaches it", SOON, || ping(&host.ns, v4(last), 1, OFTEN).is_clean());
        assert_reaches(&host.ns, v4(last));
        assert!(container.pings(host.ip));
        let ns = container.ns();
        tcp::echo(&ns, &host.ns, v4(last), 100_000);
        tcp::echo(&host.ns, &ns, host.ip, 100_000);
    }
    reach_each_other();
    let children = daemon.json(&["child", "ls"]);
    let macs: Vec<_> = children.as_array().expect("a list").iter().map(|c| &c["mac"]).collect();
    for container in [&one, &two] {
        let mac = container.mac("stock").to_string();
        assert!(macs.iter().any(|known| **known == mac), "{mac} is not adopted: {children}");
    }
    // One that comes later, and one that goes.
    let three = docker.container("three", "stock", &format!("--ip {}", v4(103)));
    eventually("the host reaches it", SOON, || ping(&host.ns, v4(103), 1, OFTEN).is_clean());
    assert!(three.pings(host.ip));
    one.docker(&["rm", "--force"]);
    eventually("it is forgotten", SOON, || {
        let children = daemon.json(&["child", "ls"]);
        children.as_array().is_some_and(|children| children.len() == 2)
    });
    daemon.run(&["parent", "rm", PARENT, "--force"]);
    assert_reaches(&three.ns(), v4(102));
}
