//! A daemon that is killed at random moments, again and again.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use tests::{
    daemon::Daemon,
    eventually,
    footprint::footprint,
    length::KILLS,
    tcp::Stream,
    topology::Lan,
    traffic::{Ping, assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(2);

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// A daemon that is killed at random moments, 200 times in a soak, loses no frame and leaves nothing.
#[test]
fn killed_again_and_again_it_loses_no_frame() {
    let kills = KILLS.get();
    let lan = Lan::new(1);
    let host = &lan.hosts[0].ns;
    let mut daemon = Daemon::start(host);
    let [macvlan, veth, coming] = [lan.namespace(), lan.namespace(), lan.namespace()];
    daemon.network("lan", 0, "macvlan");
    daemon.network("lanv", 0, "veth");
    daemon.child("m", "lan", &macvlan, "192.168.50.101/24");
    daemon.child("v", "lanv", &veth, "192.168.50.102/24");
    for last in [101, 102] {
        assert_reaches(host, v4(last));
    }
    let before = footprint(&daemon, host, &[&macvlan, &veth, &coming]);
    let pings = [
        Ping::start(host, v4(101), OFTEN),
        Ping::start(host, v4(102), OFTEN),
        Ping::start(&macvlan, v4(102), OFTEN),
        Ping::start(&veth, lan.router.ip, OFTEN),
    ];
    let stream = Stream::start(&macvlan, host, v4(101));
    let began = Instant::now();
    // Up to 150 ms after it was started: in the middle of its start, of an operation, or of nothing.
    let mut random = 0x2545_f491_u32;
    for number in 0..kills {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        daemon.kill9();
        daemon.begin();
        // A child that comes or goes at the same time.
        let network = if number % 8 == 0 { "lan" } else { "lanv" };
        let add = ["child", "add", "c", "--network", network, "--netns", coming.name()];
        let change = if number % 3 == 0 { &["child", "rm", "c"][..] } else { &add };
        let _change = (number % 4 == 0).then(|| {
            daemon.wait_until_ready();
            daemon.begin_cli(change)
        });
        thread::sleep(Duration::from_micros(u64::from(random % 150_000)));
    }
    eprintln!("{kills} kills in {:?}", began.elapsed());
    daemon.kill9();
    daemon.launch();
    let results = pings.map(Ping::stop);
    assert!(results.iter().all(|result| result.sent > 200 && result.is_clean()), "{results:?}");
    let result = stream.stop();
    assert!(result.error.is_none() && result.bytes > 0, "{result:?}");
    // Whether the child is there depends on the last kill; then it is whole, and can be removed.
    if daemon.cli(&["child", "inspect", "c"]).status.success() {
        eventually("the child is up", SOON, || daemon.inspect("c")["state"] == "up");
        daemon.run(&["child", "rm", "c"]);
    }
    eventually("all is as it was", SOON, || {
        footprint(&daemon, host, &[&macvlan, &veth, &coming]) == before
    });
    assert!(ping(host, v4(101), 1, OFTEN).is_clean());
}
