//! `WireGuard`: `wireguard-go`, which needs no module of the kernel.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tests::{eventually, netns::Netns, process, traffic::assert_reaches};

use crate::{
    programs::Program,
    site::{KINDS, SOON, Site},
};

/// An end of a tunnel.
struct End {
    /// Its interface; no other end that runs on this machine has the name, because its control socket lies in
    /// a folder of the machine.
    ifname: String,
    private: PathBuf,
    public: String,
    _program: Program,
}

impl End {
    #[track_caller]
    fn start(ns: &Netns, end: &str, dir: &Path) -> Self {
        let ifname = format!("wg{}{end}", std::process::id());
        let socket = Path::new("/var/run/wireguard").join(format!("{ifname}.sock"));
        // A run that was killed may have left one.
        let _ = fs::remove_file(&socket);
        let program = Program::wireguard(ns, &ifname);
        eventually("wireguard-go answers", SOON, || socket.exists());
        let private = dir.join(&ifname);
        let key = process::run(Command::new("wg").arg("genkey"));
        fs::write(&private, &key).expect("a file can be written");
        let key = fs::File::open(&private).expect("a file can be read");
        let mut command = Command::new("wg");
        let public = process::run(command.arg("pubkey").stdin(Stdio::from(key)));
        Self { ifname, private, public: public.trim().to_owned(), _program: program }
    }

    /// Sets it up with an address, and with its peer.
    #[track_caller]
    fn connect(&self, ns: &Netns, inner: &str, (peer, peers_inner, at): (&Self, &str, IpAddr)) {
        let private = self.private.display().to_string();
        let (range, endpoint) = (format!("{peers_inner}/32"), format!("{at}:51820"));
        ns.run(&[
            "wg",
            "set",
            &self.ifname,
            "listen-port",
            "51820",
            "private-key",
            &private,
            "peer",
            &peer.public,
            "allowed-ips",
            &range,
            "endpoint",
            &endpoint,
        ]);
        ns.address(&self.ifname, &format!("{inner}/24"));
        ns.up(&self.ifname);
    }
}

/// A tunnel of `WireGuard` from an enforced child to the wire carries addresses that the child has no
/// right to outside of it.
#[test]
fn wireguard_works_without_trust() {
    for kind in &KINDS[1..] {
        eprintln!("{kind}");
        let site = Site::new(kind, false);
        let child = site.member("child", "--ip 192.168.50.101/24");
        let router = &site.lan.router;
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let near = End::start(&child.ns, "near", dir.path());
        let far = End::start(&router.ns, "far", dir.path());
        near.connect(&child.ns, "10.77.0.1", (&far, "10.77.0.2", router.ip.into()));
        far.connect(
            &router.ns,
            "10.77.0.2",
            (&near, "10.77.0.1", IpAddr::from([192, 168, 50, 101])),
        );
        assert_reaches(&child.ns, IpAddr::from([10, 77, 0, 2]));
        assert_reaches(&router.ns, IpAddr::from([10, 77, 0, 1]));
        let shaken = child.ns.run(&["wg", "show", &near.ifname, "latest-handshakes"]);
        assert!(!shaken.trim_end().ends_with("\t0"), "they shake hands: {shaken}");
        site.assert_nothing_counted(&[&child]);
    }
}
