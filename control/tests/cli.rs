//! The `maclane` binary from outside: exit codes, messages and shapes that need neither root nor a
//! daemon.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Words of a case, then what standard error must contain.
type Case<'a> = (&'a [&'a str], &'a str);

fn maclane(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_maclane"))
        .args(words)
        .env_remove("MACLANE_SOCKET")
        .env_remove("MACLANE_LOG")
        .output()
        .unwrap()
}

/// As [`maclane`], where no daemon can be.
fn alone(words: &[&str]) -> Output {
    maclane(&[&["--socket", "/nonexistent/maclane.sock"], words].concat())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn refused(cases: &[Case<'_>], code: i32) {
    for (words, message) in cases {
        let output = alone(words);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(message), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{words:?} wrote results");
    }
}

#[test]
fn without_a_daemon_the_message_names_the_socket() {
    let why = "there is no socket /nonexistent/maclane.sock";
    let cases: [&[&str]; 14] = [
        &["network", "set", "lan", "--security", "log", "--storm", "broadcast=5,unknown=0"],
        &["child", "set", "web", "--trust", "none", "--allow-ip", "192.168.50.250"],
        &["binding", "add", "192.168.50.1", "02:00:5e:00:53:01", "--network", "lan"],
        &["binding", "ls"],
        &["export"],
        &["reload", "--dry-run"],
        &["parent", "ls"],
        &["parent", "add", "eth0"],
        &["parent", "rm", "eth0", "--force"],
        &["network", "inspect", "lan"],
        &["child", "rm", "eth0/02:00:5e:00:53:01"],
        &["child", "ls", "-o", "json"],
        &["fdb", "ls"],
        &["stats", "--watch"],
    ];
    refused(&cases.map(|words| (words, why)), 4);
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let output = Command::new(env!("CARGO_BIN_EXE_maclane"))
        .args(["parent", "ls"])
        .env("MACLANE_SOCKET", "/nonexistent/other.sock")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("/nonexistent/other.sock"));
}

#[test]
fn wrong_usage_is_told_before_a_daemon_is_asked() {
    let add = ["child", "add", "web", "--network", "lan", "--netns", "red"];
    let with = |option: &'static str, value: &'static str| [&add[..], &[option, value]].concat();
    let children = [
        (with("--mac", "02:00:5e:00:53"), "is not a MAC address"),
        (with("--mac", "ff:ff:ff:ff:ff:ff"), "it is a multicast address"),
        (with("--ifname", "1234567890123456"), "is not an interface name"),
        (with("--ifname", "a/b"), "is not an interface name"),
        (with("--ip", "192.168.50"), "is not an address"),
        (with("--ip", "192.168.50.9/33"), "is not an address"),
        (with("--ip", "224.0.0.1"), "cannot be an interface's address"),
        (with("--route", "default"), "is not a route"),
        (with("--route", "10.0.0.0/8=fd00::1"), "is not a route"),
        (with("--trunk", "5000"), "is not a list of VLANs"),
        (with("--security", "on"), "possible values"),
        (with("--trust", "dhcp"), "use dhcp-server, router, multicast-router, bpdu, mac, ip"),
        (with("--storm", "1000"), "is no list of limits"),
        (with("--max-addresses", "257"), "use 1 to 256"),
        (with("--allow-ip", "192.168.50.9/24"), "write 192.168.50.0/24 or 192.168.50.9"),
        (with("--arp", "flood"), "unexpected argument"),
    ];
    let cases: Vec<Case<'_>> = children.iter().map(|(words, why)| (&words[..], *why)).collect();
    refused(&cases, 2);
    refused(
        &[
            (
                &["network", "create", "lan", "--parent", "eth0", "--vlan", "4095"],
                "is not a VLAN ID",
            ),
            (&["network", "create", "lan", "--parent", "eth0", "--vlan", "x"], "is not a VLAN ID"),
            (&["network", "create", "lan", "--parent", "eth0", "--mtu", "67"], "is not an MTU"),
            (&["network", "create", "a/b", "--parent", "eth0"], "is not a name"),
            (
                &["network", "create", "lan", "--parent", "eth0", "--subnet", "10.0.0.0"],
                "is not a subnet",
            ),
            (
                &["network", "create", "lan", "--parent", "eth0", "--gateway", "10.0.0.1"],
                "is in no --subnet",
            ),
            (&["network", "create", "lan"], "--parent <IFACE>"),
            (
                &["network", "create", "lan", "--parent", "eth0", "--binding", "10.0.0.1"],
                "is not a binding",
            ),
            (
                &["network", "create", "lan", "--parent", "eth0", "--arp", "spoof"],
                "[possible values: steer, suppress, flood]",
            ),
            (&["network", "set", "lan"], "required arguments were not provided"),
            (&["network", "set", "lan", "--arp", "spoof"], "use steer, suppress, flood"),
            (&["network", "set", "lan", "--security", "x"], "use off, log, enforce"),
            (&["network", "set", "lan", "--vlan", "5"], "unexpected argument"),
            (&["child", "set", "web"], "required arguments were not provided"),
            (&["child", "set", "web", "--arp", "flood"], "unexpected argument"),
            (
                &["child", "set", "web", "--allow-ip", "none", "--allow-ip", "10.0.0.1"],
                "leave one of them out",
            ),
            (&["binding", "add", "10.0.0", "02:00:5e:00:53:01", "--network", "lan"], "an address"),
            (&["binding", "add", "10.0.0.1", "x", "--network", "lan"], "is not a MAC address"),
            (&["binding", "add", "10.0.0.1", "02:00:5e:00:53:01"], "--network <NETWORK>"),
            (&["parent", "add", "eth0", "--storm", "x=5"], "is no list of limits"),
            (&["parent", "add", ""], "is not an interface name"),
            (&["parent", "add", "eth0", "--xdp", "fast"], "possible values"),
            (&["child", "add", "a", "--network", "b", "--netns", "pid:zero"], "is not a network"),
            (&["child", "rm", ""], "value is required"),
            (&["fly"], "unrecognized subcommand"),
            (&["parent", "ls", "-q", "-v"], "cannot be used with"),
            (&["parent"], "Usage: maclane parent"),
            (&[], "Usage: maclane"),
        ],
        2,
    );
}

#[test]
fn a_backup_is_read_before_a_daemon_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("maclane.json");
    let file = path.to_str().unwrap();
    let whole = r#"{ "schema": 1, "parents": [], "networks": [], "children": [] }"#;
    let later = "{ \"schema\": 1,\n  \"parents\": [],\n  \"lakes\": [] }";
    for (text, code, words) in [
        (whole, 4, &["there is no socket"][..]),
        (later, 2, &["cannot import", "line 3", "unknown field `lakes`"]),
        (r#"{ "schema": 2, "lakes": [] }"#, 2, &["schema 2", "the newer maclane"]),
        ("", 2, &["line 1", "`maclane export`"]),
    ] {
        std::fs::write(&path, text).unwrap();
        let output = alone(&["import", file]);
        let stderr = self::text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}: {stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{text}: {stderr}");
    }
    refused(&[(&["import", "/nonexistent.json"], "cannot import /nonexistent.json")], 1);
    refused(&[(&["import"], "<FILE|->")], 2);
}

#[test]
fn help_has_examples() {
    let cases: [&[&str]; 11] = [
        &["network", "set", "--help"],
        &["child", "set", "--help"],
        &["binding", "add", "--help"],
        &["export", "--help"],
        &["import", "--help"],
        &["reload", "--help"],
        &["--help"],
        &["parent", "add", "--help"],
        &["network", "create", "--help"],
        &["child", "add", "--help"],
        &["completions", "--help"],
    ];
    for words in cases {
        let output = maclane(words);
        assert!(output.status.success(), "{words:?}");
        assert!(text(&output.stdout).contains("Example"), "{words:?}");
    }
}

#[test]
fn versions_are_shown_without_a_daemon() {
    let output = alone(&["version", "-o", "json"]);
    assert!(output.status.success());
    let expected =
        format!("{{\n  \"client\": \"{}\",\n  \"daemon\": null\n}}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&output.stdout), expected);
    assert!(text(&maclane(&["--version"]).stdout).starts_with("maclane "));
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = maclane(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        assert!(text(&output.stdout).contains("netns"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("share/man1");
    assert!(maclane(&["man", pages.to_str().unwrap()]).status.success());
    for page in
        ["maclane", "maclane-daemon", "maclane-import", "maclane-child-add", "maclane-parent-show"]
    {
        let page = pages.join(format!("{page}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{page:?}: {e}"));
        assert!(text.starts_with(".ie \\n(.g") && text.contains(".SH NAME"), "{page:?}");
    }
    let output = maclane(&["man", "/dev/null/man"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write man pages into /dev/null/man"));
}

#[test]
fn a_reader_that_stops_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_maclane"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_maclane"))
        .args(["completions", "bash"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: cannot write to standard output: "));
}

#[test]
fn doctor_works_without_a_daemon() {
    let output = alone(&["doctor", "-o", "json"]);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let check = |name: &str| findings.iter().find(|finding| finding["check"] == name);
    for name in ["kernel", "capabilities", "btf", "bpffs", "macvlan", "8021q", "daemon"] {
        assert!(check(name).is_some(), "{name} is missing");
    }
    for finding in &findings {
        let status = finding["status"].as_str().unwrap();
        assert!(["ok", "warn", "fail"].contains(&status), "{finding}");
        assert_ne!(finding["detail"], "", "{finding}");
    }
    assert_eq!(check("daemon").unwrap()["status"], "warn");
    let failed = findings.iter().any(|finding| finding["status"] == "fail");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
}

#[test]
fn what_is_not_a_daemon_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("other.sock");
    let answers = ["garbage\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ""];
    for answer in answers {
        let output = beside(&socket, answer, &["parent", "ls"]);
        assert_eq!(output.status.code(), Some(1), "{answer:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(socket.to_str().unwrap()), "{answer:?}");
    }
}

#[test]
fn the_kind_of_an_error_is_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [("invalid", 2), ("not_found", 3), ("conflict", 1), ("failed", 1)];
    for (kind, code) in cases {
        let body = format!("{{\"error\":{{\"kind\":\"{kind}\",\"message\":\"the reason\"}}}}");
        let answer = format!("HTTP/1.1 400 Bad\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let output = beside(&dir.path().join("fake.sock"), &answer, &["child", "inspect", "x"]);
        assert_eq!(output.status.code(), Some(code), "{kind}");
        assert_eq!(text(&output.stderr), "error: the reason\n");
    }
}

#[test]
fn an_answer_is_a_table_or_the_json_that_came() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("fake.sock");
    let body = r#"[{"parent":"eth0","mac":"02:00:5e:00:53:01","vlan":null,"port":3,"kind":"macvlan","owner":"web","later":1}]"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let table = beside(&socket, &answer, &["fdb", "ls"]);
    let expected = "\
PARENT   MAC                 VLAN   PORT   KIND      OWNER
eth0     02:00:5e:00:53:01   any    3      macvlan   web
";
    assert_eq!(text(&table.stdout), expected);
    let json = beside(&socket, &answer, &["fdb", "ls", "-o", "json"]);
    let sent: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(text(&json.stdout), format!("{}\n", serde_json::to_string_pretty(&sent).unwrap()));
}

/// Runs `maclane` while one connection to `socket` gets `answer`, whatever it asks.
fn beside(socket: &Path, answer: &str, words: &[&str]) -> Output {
    let _ = std::fs::remove_file(socket);
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let _ = std::io::Read::read(&mut stream, &mut head);
            let _ = stream.write_all(answer.as_bytes());
        });
        maclane(&[&["--socket", socket.to_str().unwrap()], words].concat())
    })
}
