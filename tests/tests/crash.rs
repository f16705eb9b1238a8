//! A daemon that is killed between any two of its steps, started again, finishes or forgets.
//!
//! The steps are failpoints (`control/src/failpoint.rs`): each operation is done once to see which
//! it reaches, and then once for each of them with a daemon that dies there.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    daemon::{Daemon, Setup},
    eventually,
    failpoints::{self, Failpoints, Reached},
    footprint::{Footprint, footprint},
    kernel,
    netns::Netns,
    program::layout,
    topology::{Lan, Options, PARENT},
    traffic::{assert_reaches, ping},
};

const SOON: Duration = Duration::from_secs(10);

/// What a daemon is doing when it dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    /// `child add` to this network.
    ChildAdd(&'static str),
    /// `child rm`, of a child of this network.
    ChildRm(&'static str),
    /// The end of the lease of a child of this network, whose namespace is gone.
    Release(&'static str),
    /// `parent add`.
    ParentAdd,
    /// `parent rm --force`, with children of every kind.
    ParentRm,
    /// `network create`.
    NetworkCreate,
    /// `import` of a network and a child of it.
    Import,
    /// `reload` with another network on another parent than before.
    Reload,
    /// A start with parents and children, one of which has lost its link.
    Start,
    /// A start with an empty state directory.
    FirstStart,
    /// A start with the pins of another layout.
    Upgrade,
    /// Writing the store anew, whose file was removed.
    StoreLost,
    /// The same, where an older copy has taken its place.
    StoreReplaced,
    /// A start with an older copy of the store, which does not know a child of this network.
    Forgotten(&'static str),
}

use Operation::{
    ChildAdd, ChildRm, FirstStart, Forgotten, Import, NetworkCreate, ParentAdd, ParentRm, Release,
    Reload, Start, StoreLost, StoreReplaced, Upgrade,
};

/// The networks: macvlan and veth, untagged, and macvlan in a VLAN.
const NETWORKS: [(&str, u16, &str); 3] =
    [("lan", 0, "macvlan"), ("lanv", 0, "veth"), ("lan10", 10, "macvlan")];

fn v4(last: u8) -> Ipv4Addr {
    [192, 168, 50, last].into()
}

/// A host whose daemon has failpoints, and namespaces for a macvlan child (.101) and a veth child
/// (.102) that stay, for a child that comes and goes (.103), and for one that somebody else made.
struct Site {
    points: Failpoints,
    stays: [Netns; 2],
    child: Netns,
    adopted: Netns,
    daemon: Daemon,
    lan: Lan,
    /// The store before the child that comes and goes, and with it.
    stores: [Vec<u8>; 2],
}

impl Site {
    fn new(operation: Operation, tc: &str) -> Self {
        // With offload, XDP would leave untagged frames to TC, and say so.
        let lan = Lan::with(Options { vlan_offload: false, ..Options::default() });
        let points = Failpoints::new();
        let setup = Setup {
            arguments: &["--tc", tc, "--lease-grace", "1"],
            environment: Some(points.variable()),
            ..Setup::default()
        };
        let daemon = Daemon::start_as(&lan.hosts[0].ns, setup);
        let stays = [lan.namespace(), lan.namespace()];
        let (child, adopted) = (lan.namespace(), lan.namespace());
        lan.hosts[0].ns.macvlan(PARENT, "bridge", &adopted, "eth0");
        if operation == Reload {
            lan.hosts[0].ns.veth("old0", &lan.wire, "old1");
            lan.hosts[0].ns.veth("new0", &lan.wire, "new1");
        }
        let stores = [Vec::new(), Vec::new()];
        let site = Self { points, stays, child, adopted, daemon, lan, stores };
        if !matches!(operation, ParentAdd | ParentRm | FirstStart) {
            site.furnish();
        }
        site
    }

    /// Makes parent, networks, and the children that stay.
    fn furnish(&self) {
        self.daemon.run(&["parent", "add", PARENT, "--xdp", "native"]);
        for (name, vlan, kind) in NETWORKS {
            let (vlan, base) = (vlan.to_string(), ["network", "create", name, "--parent", PARENT]);
            // The one in a VLAN has addresses to give back.
            let subnet = ["--subnet", "192.168.50.0/24", "--gateway", "none"];
            // The kernel switches between the children of the first, until there is one in a VLAN.
            let more = match name {
                "lan" => &["--security", "log"][..],
                "lan10" => &subnet,
                _ => &[],
            };
            self.daemon.run(&[&base[..], &["--vlan", &vlan, "--kind", kind], more].concat());
        }
        self.daemon.child("m", "lan", &self.stays[0], "192.168.50.101/24");
        self.daemon.child("v", "lanv", &self.stays[1], "192.168.50.102/24");
    }

    fn host(&self) -> &Netns {
        &self.lan.hosts[0].ns
    }

    fn store(&self) -> PathBuf {
        self.daemon.state_dir().join("maclane.redb")
    }

    /// Removes the file of the store, or puts an older copy in its place, and waits until it is written anew
    /// or the daemon has died.
    fn lose_store(&self, operation: Operation) {
        if operation == StoreLost {
            fs::remove_file(self.store()).expect("there is a store");
        } else {
            let aside = self.daemon.state_dir().join("older");
            fs::write(&aside, &self.stores[0]).expect("a file");
            fs::rename(aside, self.store()).expect("it can be renamed");
        }
        eventually("the store is written anew, or the daemon has died", SOON, || {
            self.points.reached().iter().any(|(name, _)| name == "store.renamed")
                || !self.daemon.cli(&["child", "ls"]).status.success()
        });
    }

    fn knows(&self, what: &str, name: &str) -> bool {
        let all = self.daemon.json(&[what, "ls"]);
        let mut all = all.as_array().into_iter().flatten();
        all.any(|it| it["name"] == name || it["iface"] == name)
    }

    fn add(&self, network: &str) {
        let add = ["child", "add", "c", "--network", network, "--netns", self.child.name()];
        let more = ["--ip", "192.168.50.103/24", "--route", "10.9.0.0/16=192.168.50.1"];
        let allowed = ["--allow-ip", "192.168.50.240"];
        self.daemon.cli(&[&add[..], &more, &allowed].concat());
    }

    /// What has to be there before the operation.
    fn prepare(&mut self, operation: Operation) {
        match operation {
            ChildRm(network) | Release(network) => self.add(network),
            StoreReplaced | Forgotten(_) => {
                let network = if let Forgotten(network) = operation { network } else { "lan" };
                self.stores[0] = fs::read(self.store()).expect("there is a store");
                self.add(network);
                self.stores[1] = fs::read(self.store()).expect("there is a store");
            }
            ParentRm => self.furnish(),
            Reload => {
                self.daemon.configure("[network.old]\nparent = \"old0\"\n");
                self.daemon.run(&["reload"]);
                self.daemon.configure("[network.new]\nparent = \"new0\"\n");
            }
            _ => {}
        }
    }

    /// Does `import` of what there is, and of a network `new` with the child `c`.
    fn import(&self) {
        let backup = self.daemon.run(&["export"]);
        let mut backup: Value = serde_json::from_str(&backup).expect("a backup is JSON");
        let children = backup["children"].as_array_mut().expect("a list");
        let mut child = children[0].clone();
        let route = json!({ "destination": "10.9.0.0/16", "gateway": "192.168.50.1" });
        for (place, value) in [
            ("/spec/name", json!("c")),
            ("/spec/network", json!("new")),
            ("/spec/route", json!([route])),
            ("/mac", json!("02:00:5e:00:53:77")),
            ("/addresses", json!(["192.168.50.103/24"])),
            ("/netns", json!(self.child.path())),
            ("/port", json!(999)),
        ] {
            *child.pointer_mut(place).expect(place) = value;
        }
        children.push(child);
        let networks = backup["networks"].as_array_mut().expect("a list");
        networks.push(json!({ "name": "new", "parent": PARENT }));
        let file = self.daemon.state_dir().join("backup.json");
        fs::write(&file, backup.to_string()).expect("the folder can be written to");
        self.daemon.cli(&["import", file.to_str().expect("a path in UTF-8")]);
    }

    /// Does it, however that ends.
    fn operate(&mut self, operation: Operation) {
        match operation {
            ChildAdd(network) => self.add(network),
            ChildRm(_) => drop(self.daemon.cli(&["child", "rm", "c"])),
            Release(_) => {
                self.child.delete_all();
                eventually("the child is removed, or the daemon has died", SOON, || {
                    let list = self.daemon.cli(&["child", "ls"]);
                    !list.status.success()
                        || !String::from_utf8_lossy(&list.stdout).contains("\nc ")
                });
            }
            ParentAdd => drop(self.daemon.cli(&["parent", "add", PARENT, "--xdp", "native"])),
            ParentRm => drop(self.daemon.cli(&["parent", "rm", PARENT, "--force"])),
            NetworkCreate => {
                drop(self.daemon.cli(&["network", "create", "new", "--parent", PARENT]));
            }
            Import => self.import(),
            Reload => drop(self.daemon.cli(&["reload"])),
            Start => {
                self.daemon.kill9();
                self.stays[0].delete("eth0");
                self.daemon.try_launch();
            }
            FirstStart => {
                self.daemon.kill9();
                let state = self.daemon.state_dir();
                fs::remove_dir_all(state).expect("the state directory can be removed");
                self.daemon.try_launch();
            }
            Upgrade => {
                self.daemon.kill9();
                let pins = self.daemon.bpffs().join("maclane");
                fs::rename(pins.join(layout()), pins.join("v0")).expect("pins can be renamed");
                self.daemon.try_launch();
            }
            StoreLost | StoreReplaced => self.lose_store(operation),
            Forgotten(_) => {
                self.daemon.kill9();
                fs::write(self.store(), &self.stores[0]).expect("it can be written");
                self.daemon.try_launch();
            }
        }
    }

    /// Whatever it was: what is there is whole and can be removed, and what is not can be made.
    fn settle(&mut self, operation: Operation, at: &Reached) {
        match operation {
            ChildAdd(network) | ChildRm(network) => {
                if !self.knows("child", "c") {
                    self.add(network);
                }
                self.assert_child_works(network, at);
                self.daemon.run(&["child", "rm", "c"]);
                assert!(!self.child.has("eth0"), "killed at {at:?}: a link is left");
            }
            Import => {
                let whole = [self.knows("network", "new"), self.knows("child", "c")];
                if whole == [false; 2] {
                    self.import();
                } else {
                    assert_eq!(whole, [true; 2], "killed at {at:?}: a half of it is there");
                }
                self.assert_child_works("new", at);
                self.daemon.run(&["child", "rm", "c"]);
                self.daemon.run(&["network", "rm", "new"]);
            }
            Reload => {
                // The start after a kill goes on with it.
                for what in [("network", "new"), ("parent", "new0")] {
                    assert!(self.knows(what.0, what.1), "killed at {at:?}: no {what:?}");
                }
                for what in [("network", "old"), ("parent", "old0")] {
                    assert!(!self.knows(what.0, what.1), "killed at {at:?}: still {what:?}");
                }
                assert_eq!(self.daemon.run(&["reload"]), "nothing to do\n", "killed at {at:?}");
                self.daemon.configure("");
                self.daemon.run(&["reload"]);
            }
            Release(_) => {
                eventually(&format!("killed at {at:?}: the child is removed"), SOON, || {
                    !self.knows("child", "c")
                });
                self.child.make_again();
            }
            NetworkCreate => {
                if !self.knows("network", "new") {
                    self.daemon.run(&["network", "create", "new", "--parent", PARENT]);
                }
                self.daemon.run(&["network", "rm", "new"]);
            }
            ParentAdd => {
                self.daemon.run(&["parent", "add", PARENT, "--xdp", "native"]);
                assert_eq!(self.daemon.problems(), "[]", "killed at {at:?}");
                assert_reaches(self.host(), self.lan.router.ip);
                self.daemon.run(&["parent", "rm", PARENT]);
            }
            ParentRm => {
                for (name, last) in [("m", 101), ("v", 102)] {
                    if self.knows("child", name) {
                        self.assert_reaches_soon(last, at);
                    }
                }
                if self.knows("parent", PARENT) {
                    self.daemon.run(&["parent", "rm", PARENT, "--force"]);
                }
            }
            StoreReplaced => {
                assert!(self.knows("child", "c"), "killed at {at:?}: an older copy is the store");
                self.assert_child_works("lan", at);
                self.daemon.run(&["child", "rm", "c"]);
                let kept = self.daemon.state_dir().join("maclane.redb.kept-1");
                assert!(fs::read(&kept).expect("it is kept") == self.stores[0], "killed at {at:?}");
                fs::remove_file(kept).expect("it can be removed");
            }
            Forgotten(network) => {
                assert!(!self.knows("child", "c"), "killed at {at:?}");
                eventually(&format!("killed at {at:?}: it is isolated"), SOON, || {
                    self.daemon.problems().contains("no record")
                });
                let is_heard = ping(self.host(), v4(103), 1, Duration::from_millis(10)).is_clean();
                assert!(!is_heard, "killed at {at:?}: the host reaches it");
                self.daemon.kill9();
                fs::write(self.store(), &self.stores[1]).expect("it can be written");
                self.daemon.launch();
                self.assert_child_works(network, at);
                self.daemon.run(&["child", "rm", "c"]);
            }
            StoreLost | Start | Upgrade => {
                self.assert_reaches_soon(101, at);
                self.assert_reaches_soon(102, at);
                assert_eq!(self.daemon.problems(), "[]", "killed at {at:?}");
            }
            FirstStart => assert_eq!(self.daemon.json(&["parent", "ls"]), serde_json::json!([])),
        }
        if !matches!(operation, ParentAdd | ParentRm | FirstStart) {
            self.assert_reaches_soon(101, at);
            assert_reaches(&self.stays[0], v4(102));
        }
    }

    fn assert_reaches_soon(&self, last: u8, at: &Reached) {
        eventually(&format!("killed at {at:?}: the host reaches .{last}"), SOON, || {
            ping(self.host(), v4(last), 1, Duration::from_millis(10)).is_clean()
        });
    }

    /// The child is there, and wholly: address, route and traffic.
    fn assert_child_works(&self, network: &str, at: &Reached) {
        eventually(&format!("killed at {at:?}: the child is up"), SOON, || {
            self.daemon.inspect("c")["state"] == "up"
                && self.child.ip("route").contains("10.9.0.0/16 via 192.168.50.1")
        });
        // The host is not in VLAN 10.
        if network != "lan10" {
            self.assert_reaches_soon(103, at);
            assert_reaches(&self.child, v4(102));
        }
    }

    fn footprint(&self) -> Footprint {
        let [m, v] = &self.stays;
        footprint(&self.daemon, self.host(), &[m, v, &self.child, &self.adopted])
    }

    fn assert_as_before(&self, before: &Footprint, at: &Reached) {
        let deadline = Instant::now() + SOON;
        loop {
            let now = self.footprint();
            if now == *before {
                return;
            }
            let (left, gone) = (now.difference(before), before.difference(&now));
            assert!(
                Instant::now() < deadline,
                "killed at {at:?}: left behind {:#?}, gone {:#?}",
                left.collect::<Vec<_>>(),
                gone.collect::<Vec<_>>(),
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Does an operation once, and returns the points that it reaches.
fn record(site: &mut Site, operation: Operation) -> Vec<Reached> {
    site.prepare(operation);
    site.points.wait_for_quiet();
    site.points.clear();
    site.operate(operation);
    let reached = site.points.reached();
    assert!(!reached.is_empty(), "no failpoint was reached");
    site.settle(operation, &("nowhere".to_owned(), 0));
    reached
}

/// Lets a daemon die at every point that an operation reaches.
fn kill_everywhere(operation: Operation) {
    kill_at(operation, "auto", |_| true);
}

fn kill_at(operation: Operation, tc: &str, which: impl Fn(&str) -> bool) {
    let mut site = Site::new(operation, tc);
    let reached = record(&mut site, operation);
    let before = site.footprint();
    let mut killed = 0;
    for at in reached.iter().filter(|at| is_first_or_last(at, &reached) && which(&at.0)) {
        site.prepare(operation);
        site.points.wait_for_quiet();
        site.points.kill_at(at);
        site.operate(operation);
        if site.daemon.wait_for_end(Duration::from_secs(2)) {
            killed += 1;
            site.daemon.launch();
        } else {
            // Which slots of the groups are free is not the same each time.
            assert!(!site.points.reached().contains(at), "the daemon does not die at {at:?}");
        }
        site.points.clear();
        site.settle(operation, at);
        site.assert_as_before(&before, at);
    }
    eprintln!("{operation:?} ({tc}): killed at {killed} of {} points", reached.len());
    assert!(killed > 0);
}

/// Of a row of entries in a map the first and the last one will do.
fn is_first_or_last((name, times): &Reached, all: &[Reached]) -> bool {
    let last = all.iter().filter(|(other, _)| other == name).count();
    !name.starts_with("maps.") || *times == 1 || *times == last
}

#[test]
fn child_add_that_dies_anywhere_is_finished_or_forgotten() {
    for network in ["lan", "lanv", "lan10"] {
        kill_everywhere(ChildAdd(network));
    }
}

#[test]
fn child_rm_that_dies_anywhere_is_finished() {
    for network in ["lan", "lanv", "lan10"] {
        kill_everywhere(ChildRm(network));
    }
}

#[test]
fn the_end_of_a_lease_that_dies_anywhere_is_finished() {
    for network in ["lanv", "lan10"] {
        kill_everywhere(Release(network));
    }
}

#[test]
fn parent_add_that_dies_anywhere_is_finished_or_forgotten() {
    kill_everywhere(ParentAdd);
    kill_everywhere(NetworkCreate);
}

#[test]
fn import_that_dies_anywhere_is_whole_or_absent() {
    kill_everywhere(Import);
}

#[test]
fn reload_that_dies_anywhere_is_finished_by_the_next_start() {
    kill_everywhere(Reload);
}

#[test]
fn parent_rm_that_dies_anywhere_leaves_nothing_that_cannot_be_removed() {
    kill_everywhere(ParentRm);
}

#[test]
fn a_start_that_dies_anywhere_is_followed_by_one_that_does_not() {
    kill_everywhere(Start);
    kill_everywhere(FirstStart);
    if kernel::has_tcx() {
        kill_everywhere(Upgrade);
    } else {
        eprintln!("skipped: this kernel has no TCX, whose links an upgrade takes over");
    }
}

/// A store that is being written anew when the daemon dies is whole at the next start, with everything that
/// was acknowledged, and what was in its place is kept.
#[test]
fn a_store_written_anew_that_dies_anywhere_is_whole() {
    kill_everywhere(StoreLost);
    kill_everywhere(StoreReplaced);
}

/// A link without a record is isolated by the next daemon if the first one dies while it does so.
#[test]
fn isolation_that_dies_anywhere_is_finished() {
    for network in ["lan", "lanv", "lan10"] {
        let is_part = |name: &str| matches!(name, "link.private" | "link.isolated");
        kill_at(Forgotten(network), "auto", is_part);
    }
}

#[test]
fn filters_of_clsact_are_no_worse() {
    for operation in [ParentAdd, ParentRm, ChildAdd("lanv"), Start] {
        kill_at(operation, "clsact", |name| name.starts_with("clsact."));
    }
}

#[test]
fn every_failpoint_is_reached() {
    let mut operations = vec![
        (ChildAdd("lan"), "auto"),
        (ChildAdd("lanv"), "auto"),
        (ChildAdd("lan10"), "auto"),
        (ChildRm("lanv"), "auto"),
        (ChildRm("lan10"), "auto"),
        (ParentAdd, "auto"),
        (ParentRm, "auto"),
        (Start, "auto"),
        (FirstStart, "auto"),
        (StoreReplaced, "auto"),
        (Forgotten("lan"), "auto"),
        (Forgotten("lanv"), "auto"),
        (ParentAdd, "clsact"),
        (ParentRm, "clsact"),
    ];
    let mut wanted: BTreeSet<String> = failpoints::all().into_iter().collect();
    if kernel::has_tcx() {
        operations.push((Upgrade, "auto"));
    } else {
        wanted.retain(|name| !name.starts_with("tcx.") && !name.starts_with("upgrade."));
    }
    // `docker_crash.rs` lets it die there, and, where the kernel has them, `sub_interface.rs` and `cards.rs`.
    let elsewhere = ["endpoint.", "isolated.", "sub_interface.", "vlan_filter."];
    wanted.retain(|name| !elsewhere.iter().any(|of| name.starts_with(of)));
    for (operation, tc) in operations {
        let mut site = Site::new(operation, tc);
        for (name, _) in record(&mut site, operation) {
            wanted.remove(&name);
        }
    }
    assert!(wanted.is_empty(), "no test lets the daemon die at {wanted:?}");
}
