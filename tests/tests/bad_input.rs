//! What makes no sense gets a clear error, the right exit code, and changes nothing.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use tests::{
    daemon::{Daemon, binary},
    mac::Mac,
    topology::{Lan, PARENT},
};

/// Arguments, exit code, and words that the message must have.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    let ns = lan.namespace();
    host.ns.bridge("br0");
    host.ns.veth("port0", &lan.wire, "port1");
    host.ns.enslave("port0", "br0");
    daemon.network("lan", 0, "macvlan");
    let mac = daemon.child("web", "lan", &ns, "192.168.50.101/24").to_string();
    let (netns, own) = (ns.name(), host.mac.to_string());
    let add = |more: &[&'static str]| {
        let base = ["child", "add", "new", "--network", "lan", "--netns"];
        [&base[..], more].concat()
    };
    let here = |more: &[&str]| -> Vec<String> {
        let base = ["child", "add", "new", "--network", "lan", "--netns", netns];
        base.iter().chain(more).map(ToString::to_string).collect()
    };
    let owned = [
        here(&["--ifname", "eth0"]),
        here(&["--ifname", "x0", "--mac", &mac]),
        here(&["--ifname", "x0", "--mac", &own]),
        here(&["--ifname", "x0", "--ip", "192.168.50.101/24"]),
        here(&["--ifname", "x0", "--mac", "01:00:5e:00:00:01"]),
        here(&["--ifname", "sixteen-bytes-01"]),
        here(&["--ifname", "x0", "--trunk", "10,5000"]),
    ];
    let taken: Vec<Vec<&str>> =
        owned.iter().map(|args| args.iter().map(String::as_str).collect()).collect();
    let gone = add(&["no-such-netns"]);
    let by_pid = add(&["pid:4000000"]);
    let cases: &[Case<'_>] = &[
        (&["parent", "add", "nope0"], 3, &["nope0", "ip link"]),
        (&["parent", "add", "lo"], 2, &["lo", "loopback"]),
        (&["child", "ls", "--network", "nope"], 3, &["nope"]),
        (&["parent", "rm", "nope0"], 3, &["nope0"]),
        (&["parent", "show", "nope0"], 3, &["nope0"]),
        (&["network", "create", "n", "--parent", PARENT, "--vlan", "4095"], 2, &["4094"]),
        (&["network", "create", "n", "--parent", "nope0"], 3, &["nope0"]),
        (&["network", "create", "lan", "--parent", PARENT], 1, &["lan", "another"]),
        (&["network", "create", "n", "--parent", "port0"], 1, &["bridge", "--kind veth"]),
        (&["network", "create", "n", "--parent", PARENT, "--mtu", "9000"], 2, &["1500"]),
        (&["network", "rm", "lan"], 1, &["web"]),
        (&["network", "rm", "nope"], 3, &["nope"]),
        (&["child", "rm", "nope"], 3, &["nope"]),
        (&["child", "inspect", "nope"], 3, &["nope"]),
        (&["child", "add", "a", "--network", "nope", "--netns", netns], 3, &["nope"]),
        (&["child", "add", "web", "--network", "lan", "--netns", netns], 1, &["web"]),
        (&gone, 3, &["no-such-netns"]),
        (&by_pid, 3, &["4000000"]),
        (&taken[0], 1, &["eth0", "exists", "--ifname"]),
        (&taken[1], 1, &["child \"web\"", "--mac"]),
        (&taken[2], 1, &["the host", "--mac"]),
        (&taken[3], 1, &["192.168.50.101 is already used by child \"web\" (network lan)", "--ip"]),
        (&taken[4], 2, &["multicast"]),
        (&taken[5], 2, &["15 bytes"]),
        (&taken[6], 2, &["VLAN"]),
        (&["nonsense"], 2, &["nonsense"]),
    ];
    let show = || {
        let state = ["parent", "network", "child"].map(|what| daemon.json(&[what, "ls"]));
        let links = host.ns.run(&["ip", "-o", "link"]);
        let names: Vec<String> =
            links.lines().filter_map(|l| l.split(' ').nth(1)).map(String::from).collect();
        (state, daemon.json(&["fdb", "ls"]), names)
    };
    let before = show();
    for (arguments, code, words) in cases {
        let (got, message) = daemon.fail(arguments);
        assert_eq!(got, *code, "{arguments:?}: {message}");
        for word in *words {
            assert!(message.contains(word), "{arguments:?}: \"{word}\" is not in: {message}");
        }
        assert_eq!(show(), before, "{arguments:?} has changed something");
    }
    assert!(!ns.has("x0"));
    let mut alone = Command::new(binary());
    let output = alone.args(["--socket", "/nonexistent/maclane.sock", "child", "ls"]).output();
    let output = output.expect("it can be started");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{message}");
    assert!(message.contains("/nonexistent/maclane.sock"), "{message}");
}

#[test]
fn a_bridge_port_serves_veth_children() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    host.ns.ip("addr flush dev eth0");
    host.ns.bridge("br0");
    host.ns.enslave(PARENT, "br0");
    host.ns.address("br0", "192.168.50.10/24");
    let daemon = Daemon::start(&host.ns);
    daemon.network("lanv", 0, "veth");
    let ns = lan.namespace();
    daemon.child("v", "lanv", &ns, "192.168.50.101/24");
    tests::traffic::assert_reaches(&ns, lan.router.ip);
    tests::traffic::assert_reaches(&host.ns, [192, 168, 50, 101]);
    tests::traffic::assert_reaches(&ns, host.ip);
}

#[test]
fn bridge_mode_in_two_vlans_is_refused() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    let create = |name: &'static str, vlan: &'static str| {
        vec!["network", "create", name, "--parent", PARENT, "--mode", "bridge", "--vlan", vlan]
    };
    daemon.run(&create("a", "10"));
    let (code, message) = daemon.fail(&create("b", "20"));
    assert_eq!(code, 1);
    assert!(message.contains("switch between") && message.contains("vepa"), "{message}");
}

#[test]
fn garbage_on_the_socket_hurts_nobody() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    for garbage in [
        &b"\x00\xff\xfe garbage \x01\r\n\r\n"[..],
        b"GET /v1/children HTTP/9.9\r\n\r\n",
        b"POST /v1/children HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"name\":",
        b"POST /v1/parents HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nnull",
        &vec![b'A'; 200_000],
    ] {
        let mut socket = UnixStream::connect(daemon.socket()).expect("the daemon listens");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        // The daemon may hang up while we write.
        let _ = socket.write_all(garbage);
        let _ = socket.read(&mut [0; 4096]);
        assert_eq!(daemon.json(&["parent", "ls"]), serde_json::json!([]));
    }
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let lan = Lan::new(1);
    let host = &lan.hosts[0];
    let daemon = Daemon::start(&host.ns);
    let other = tempfile::tempdir().expect("a folder");
    let start = |state: &std::path::Path, runtime: &std::path::Path| {
        let mut command = host.ns.command(binary().to_str().expect("a path in UTF-8"));
        command.args(["daemon", "--state-dir"]).arg(state).arg("--runtime-dir").arg(runtime);
        command.output().expect("it can be started")
    };
    for (state, runtime) in [
        (daemon.state_dir(), other.path().join("run")),
        (other.path().join("state"), daemon.runtime_dir()),
    ] {
        let output = start(&state, &runtime);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("another maclane daemon"), "{message}");
    }
    assert_eq!(daemon.json(&["parent", "ls"]), serde_json::json!([]));
}

#[test]
fn without_root_or_bpffs_the_daemon_says_what_is_missing() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let run = |program: &str, arguments: &[&str], bpffs: &str| {
        let mut command = Command::new(program);
        command.args(arguments).arg(binary()).args(["daemon", "--bpffs", bpffs]);
        command.arg("--state-dir").arg(path("state")).arg("--runtime-dir").arg(path("run"));
        let output = command.output().expect("it can be started");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let lan = Lan::new(1);
    let enter = format!("--net={}", lan.hosts[0].ns.path().display());
    let message = run("nsenter", &[&enter], dir.path().to_str().expect("a path in UTF-8"));
    assert!(message.contains("BPF file system") && message.contains("mount -t bpf"), "{message}");
    let nobody = ["--reuid=65534", "--clear-groups"];
    let message = run("setpriv", &nobody, "/sys/fs/bpf");
    assert!(message.contains("must run as root"), "{message}");
}

#[test]
fn macs_are_parsed_as_people_write_them() {
    let lan = Lan::new(1);
    let daemon = Daemon::start(&lan.hosts[0].ns);
    daemon.network("lan", 0, "macvlan");
    let ns = lan.namespace();
    let mac = daemon.child_with("a", "lan", &ns, &["--mac", "02-00-5E-00-53-0A"]);
    assert_eq!(mac, Mac([2, 0, 0x5e, 0, 0x53, 0x0a]));
}
