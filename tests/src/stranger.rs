//! Programs of somebody else on a parent: they let every frame pass, and count how often they ran.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use nix::libc;
use serde_json::Value;

use crate::{
    bpf::{bpf, instruction, load, open, pair, raw},
    netns::Netns,
    process,
};

/// Where a [`Stranger`] is attached. The numbers are those of `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TCX, on the way in.
    Ingress,
    /// TCX, on the way out.
    Egress,
    /// XDP, in the stack.
    Xdp,
}

const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ENABLE_STATS: libc::c_long = 32;

const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;

/// A loaded program, and where it is attached. It is taken away on drop.
#[derive(Debug)]
pub struct Stranger {
    program: OwnedFd,
    links: Vec<OwnedFd>,
    _counting: OwnedFd,
}

impl Stranger {
    /// Loads a program for a hook.
    #[track_caller]
    #[must_use]
    pub fn load(hook: Hook) -> Self {
        // TC_ACT_UNSPEC lets the next program decide; XDP_PASS is 2.
        let (kind, verdict) = if hook == Hook::Xdp { (XDP, 2) } else { (SCHED_CLS, -1_i32) };
        // r0 = verdict; exit
        let code = [instruction(0xb7, (0, 0), 0, verdict), instruction(0x95, (0, 0), 0, 0)];
        let program = load(kind, &code, *b"stranger").expect("a program of two instructions");
        let counting = open(BPF_ENABLE_STATS, &mut [0]).expect("programs can be counted");
        Self { program, links: Vec::new(), _counting: counting }
    }

    /// Attaches it to an interface.
    #[track_caller]
    pub fn attach(&mut self, ns: &Netns, ifname: &str, hook: Hook) {
        // attach_type and flags: XDP_FLAGS_SKB_MODE is 2.
        let (kind, flags) = match hook {
            Hook::Ingress => (46, 0),
            Hook::Egress => (47, 0),
            Hook::Xdp => (37, 2),
        };
        let head = pair(raw(&self.program), ns.ifindex(ifname));
        let mut argument = [head, pair(kind, flags), 0, 0, 0, 0, 0, 0];
        let link = ns.enter(|| open(BPF_LINK_CREATE, &mut argument));
        self.links.push(link.unwrap_or_else(|e| panic!("cannot attach a stranger: {e}")));
    }

    /// Takes it off every interface.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// Pins it, so that `tc` can attach it.
    #[track_caller]
    pub fn pin(&self, path: &Path) {
        crate::bpf::pin(&self.program, path);
    }

    /// How often it ran.
    #[track_caller]
    #[must_use]
    pub fn runs(&self) -> u64 {
        let info = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let info = std::fs::read_to_string(info).expect("a descriptor has its information");
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).expect("an ID").trim();
        let shown = process::run(Command::new("bpftool").args(["-j", "prog", "show", "id", id]));
        let shown: Value = serde_json::from_str(&shown).expect("bpftool prints JSON");
        shown["run_cnt"].as_u64().unwrap_or(0)
    }
}

/// How many programs of TC and XDP are on an interface, whoever attached them.
#[track_caller]
#[must_use]
pub fn programs_on(ns: &Netns, ifname: &str) -> usize {
    const BPF_PROG_QUERY: libc::c_long = 16;
    let link = ns.link(ifname);
    let xdp = usize::from(link.get("xdp").is_some());
    let filters = ["ingress", "egress"].map(|hook| {
        let text = ns.run(&["tc", "filter", "show", "dev", ifname, hook]);
        text.lines().filter(|line| line.contains(" handle ")).count()
    });
    let ifindex = ns.ifindex(ifname);
    let tcx = [46_u32, 47].map(|hook| {
        let mut argument = [pair(ifindex, hook), 0, 0, 0, 0, 0, 0, 0];
        // A kernel without TCX has nothing to tell.
        let _ = ns.enter(|| bpf(BPF_PROG_QUERY, &mut argument));
        usize::try_from(argument[3] & 0xffff_ffff).expect("a small number")
    });
    xdp + filters.iter().sum::<usize>() + tcx.iter().sum::<usize>()
}
