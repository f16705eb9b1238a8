//! Systems with less on them than a distribution has.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tests::{
    daemon::{Daemon, Setup},
    program::binary,
    topology::{Lan, PARENT},
    traffic::assert_reaches,
};

/// A daemon that sees the machine as `script` changes it, in a mount namespace of its own.
#[track_caller]
fn start_after(lan: &Lan, dir: &Path, script: &str) -> Daemon {
    let program = dir.join("maclane");
    // Namespaces that are named later are mounted there, too.
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = daemon ] || exec {0} \"$@\"\n\
         exec unshare --mount --propagation slave sh -c '{script} && exec {0} \"$@\"' maclane \"$@\"\n",
        binary().display()
    );
    fs::write(&program, text).expect("a script can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    Daemon::start_as(&lan.hosts[0].ns, Setup { program: Some(program), ..Setup::default() })
}

#[track_caller]
fn assert_serves(lan: &Lan, daemon: &Daemon) {
    daemon.network("lan", 0, "macvlan");
    let ns = lan.namespace();
    daemon.child("child", "lan", &ns, "192.168.50.101/24");
    assert_reaches(&lan.hosts[0].ns, [192, 168, 50, 101]);
    assert_eq!(daemon.json(&["parent", "show", PARENT])["problems"].to_string(), "[]");
}

/// Without /etc, that is without groups, users and names of protocols, root is served.
#[test]
fn without_etc_root_is_served() {
    let (lan, dir) = (Lan::new(1), tempfile::tempdir().expect("a folder"));
    let daemon = start_after(&lan, dir.path(), "mount -t tmpfs none /etc");
    let text = "there is no group \"maclane\"";
    assert!(daemon.log().contains(text), "{}", daemon.log());
    assert_serves(&lan, &daemon);
}

/// A root file system that cannot be written to is no obstacle: what is written has folders of its own.
#[test]
fn a_root_that_is_read_only_is_served() {
    let (lan, dir) = (Lan::new(1), tempfile::tempdir().expect("a folder"));
    let script = "mount --bind /tmp /tmp && mount -o remount,bind,ro / && ! touch /x 2>/dev/null";
    let daemon = start_after(&lan, dir.path(), script);
    assert_serves(&lan, &daemon);
}
