//! One wire, one host, one child: what frames are sent along.
//!
//! ```text
//!    wire                    host                       child
//!  ┌──────────┐   veth   ┌──────────────────┐         ┌─────────┐
//!  │ w0 ──────┼──────────┼── eth0           │         │  eth0   │
//!  │ generator│          │ maclane, macvlan │─────────│  sink   │
//!  └──────────┘          │ or a bridge      │         └─────────┘
//!                        └──────────────────┘
//! ```

use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddrV4};
use tests::{daemon::Daemon, frames::Frame, mac::Mac, netns::Netns, topology::PARENT};

use crate::{
    context::Context,
    load::{Generator, Sink, rate},
};

/// The wire's end of the cable.
pub(crate) const WIRE: &str = "w0";

/// The host end of a veth child that no maclane has made.
const HOST_END: &str = "h0";

/// The child's address.
pub(crate) const CHILD: Mac = Mac([0x02, 0xee, 0, 0, 0, 1]);

/// The address that a macvlan child has of its owner, and maclane's children of maclane: it keeps them
/// to it (`--security enforce`), as it does users' children.
pub(crate) const CHILD_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Who sends: nobody that the host knows.
const STRANGER: Mac = Mac([0x02, 0xdd, 0, 0, 0, 1]);

/// Nobody here.
pub(crate) const NOBODY: Mac = Mac([0x02, 0xcc, 0, 0, 0, 0]);

/// One wire, one host, one child. Dropped in this order.
pub(crate) struct Line {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) child: Netns,
    pub(crate) host: Netns,
    pub(crate) wire: Netns,
}

/// What maclane is told.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) kind: &'a str,
    pub(crate) vlan: u16,
    pub(crate) xdp: &'a str,
    pub(crate) unknown: &'a str,
}

impl Line {
    /// The wire and the host, and a namespace for the child.
    pub(crate) fn bare() -> Self {
        let [wire, host, child] = [(); 3].map(|()| Netns::without_ipv6());
        host.veth(PARENT, &wire, WIRE);
        for (ns, ifname) in [(&host, PARENT), (&wire, WIRE)] {
            // XDP has to see tags, as it does on a NIC of which maclane has switched that off.
            ns.run(&["ethtool", "-K", ifname, "txvlan", "off", "rxvlan", "off"]);
        }
        // A veth takes frames of `ndo_xdp_xmit` only where NAPI is on.
        host.offload(PARENT, "gro", true);
        Self { daemon: None, child, host, wire }
    }

    /// With maclane, and one child that it has made.
    pub(crate) fn maclane(cx: &Context, setup: Setup) -> Self {
        let mut line = Self::bare();
        line.daemon = Some(Daemon::start_program(cx.program.clone(), &line.host, &[]));
        line.configure(setup, &[]);
        let daemon = line.maclane_there();
        daemon.network("lan", setup.vlan, setup.kind);
        let (mac, cidr) = (CHILD.to_string(), format!("{CHILD_IP}/16"));
        daemon.child_with("child", "lan", &line.child, &["--mac", &mac, "--ip", &cidr]);
        line
    }

    /// The maclane that runs there.
    pub(crate) const fn maclane_there(&self) -> &Daemon {
        self.daemon.as_ref().expect("maclane runs there")
    }

    /// Tells maclane how its parent has to be, also while it serves it; `more` are arguments of `parent add`.
    pub(crate) fn configure(&self, Setup { xdp, unknown, .. }: Setup, more: &[&str]) {
        let words = ["parent", "add", PARENT, "--xdp", xdp, "--unknown", unknown];
        self.maclane_there().run(&[&words[..], more].concat());
    }

    /// With a macvlan child of the kernel.
    pub(crate) fn macvlan(mode: &str) -> Self {
        let line = Self::bare();
        line.host.macvlan(PARENT, mode, &line.child, PARENT);
        line.child.set_mac(PARENT, CHILD);
        line.child.address(PARENT, &format!("{CHILD_IP}/16"));
        line
    }

    /// With a veth child that is not connected to anything.
    pub(crate) fn veth() -> Self {
        let line = Self::bare();
        line.host.veth(HOST_END, &line.child, PARENT);
        line.child.set_mac(PARENT, CHILD);
        line
    }

    /// With a bridge of the kernel, and a veth child on it. `netfilter` is what the kernel does unless
    /// somebody says otherwise.
    pub(crate) fn bridge(netfilter: bool) -> Self {
        let line = Self::veth();
        line.host.bridge("br0");
        line.host.bridge_netfilter(netfilter);
        line.host.enslave(PARENT, "br0");
        line.host.enslave(HOST_END, "br0");
        // The child has been heard.
        line.host.run(&[
            "bridge",
            "fdb",
            "add",
            &CHILD.to_string(),
            "dev",
            HOST_END,
            "master",
            "static",
        ]);
        line
    }

    /// The host end of the child.
    pub(crate) const fn host_end() -> &'static str {
        HOST_END
    }

    /// A generator of frames from the wire.
    pub(crate) fn generator(&self, to: Mac, vlan: u16, spread: u32) -> Result<Generator> {
        let ip = |last| SocketAddrV4::new(Ipv4Addr::new(10, 9, 8, last), 9);
        let frame = Frame::udp((STRANGER, ip(1)), (to, ip(2)), "maclane");
        let frame = if vlan == 0 { frame } else { frame.vlan(vlan) };
        Generator::new(&self.wire, WIRE, &frame, spread)
    }
}

/// A line with a generator and a sink: one side of a comparison.
pub(crate) struct Side {
    generator: Generator,
    sink: Sink,
    /// Programs that have to stay where they are.
    _keep: Option<Box<dyn std::any::Any>>,
    line: Line,
}

impl Side {
    /// Into the child's stack.
    pub(crate) fn stack(line: Line, vlan: u16) -> Result<Self> {
        let sink = Sink::stack(&line.child, PARENT)?;
        Self::with(line, vlan, sink, None)
    }

    /// Into XDP on the child's veth.
    pub(crate) fn xdp(line: Line) -> Result<Self> {
        let sink = Sink::xdp(&line.child, PARENT)?;
        Self::with(line, 0, sink, None)
    }

    /// With something that has to stay.
    pub(crate) fn with(
        line: Line,
        vlan: u16,
        sink: Sink,
        keep: Option<Box<dyn std::any::Any>>,
    ) -> Result<Self> {
        let generator = line.generator(CHILD, vlan, 0)?;
        Ok(Self { generator, sink, _keep: keep, line })
    }

    /// Where it is.
    pub(crate) const fn line(&self) -> &Line {
        &self.line
    }

    /// Frames a second.
    pub(crate) fn rate(&mut self) -> Result<f64> {
        rate(&mut self.generator, &self.line.wire, || self.sink.count())
    }
}
