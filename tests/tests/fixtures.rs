//! The cases of the decision, by the loaded programs in the kernel: what `decide` says on the
//! host, they do.
//!
//! `BPF_PROG_TEST_RUN` runs a program on a frame and returns the frame, but not where it was
//! redirected to: that, the counters say. Copies of a flood are really sent; taps hear them.

#[path = "fixtures/load.rs"]
mod load;
#[path = "fixtures/outcome.rs"]
mod outcome;
#[path = "fixtures/rig.rs"]
mod rig;
#[path = "fixtures/stamper.rs"]
mod stamper;

use dataplane_common::{
    DropReason, Frame, Tables as _, Verdict,
    abi::{Addresses as _, Kind, check_flag},
    decide::{decide, runt},
    mark::NO_STAMP,
    sender::{Provenance, Sender, Socket, egress_port, ingress_port},
};
use fixtures::{
    THE_HOST, Table, WIRE, bytes, identity,
    lan::{BROADCAST, HOST, NOBODY, STRANGER, frame, lan, mac},
};
use rig::{Entry, Rig, Rigs, Run};
use tests::{kernel::sees_netns, length::COUNTED_FRAMES, slowness};

/// True if `BPF_PROG_TEST_RUN` makes an skb of a frame: one of at most a page, with a whole IP
/// header if it says that it has one (`net/bpf/test_run.c`, `bpf_prog_test_run_skb`). XDP runs on
/// all of them.
fn fits_an_skb(bytes: &[u8]) -> bool {
    let header = match bytes[12..14] {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => 0,
    };
    (14 + header..=3_100).contains(&bytes.len())
}

/// The program that meets a frame of a port first, and who it takes for the sender: on the host
/// it finds out in the same way.
fn entry(rig: &Rig, from: u16) -> Entry {
    match rig.tables.port(from).map(|port| Kind::from_raw(port.kind)) {
        Some(Kind::Wire) => Entry::Ingress,
        Some(Kind::Veth) => Entry::HostEnd(from),
        Some(Kind::Host | Kind::Macvlan | Kind::None) | None => Entry::Egress,
    }
}

/// What the host says of a frame that meets a program.
fn expected(rig: &Rig, entry: Entry, frame: Option<&Frame>, provenance: &Provenance) -> Verdict {
    let tables = &rig.tables;
    match (entry, frame) {
        (Entry::Ingress | Entry::Xdp, None) => runt(WIRE),
        (Entry::HostEnd(port), None) => runt(port),
        (Entry::Egress, None) => {
            runt(if provenance.stamp == NO_STAMP { THE_HOST } else { provenance.stamp })
        }
        (Entry::HostEnd(port), Some(frame)) => decide(frame, port, tables),
        (Entry::Ingress | Entry::Xdp, Some(frame)) => {
            match ingress_port(frame, provenance, tables).sender() {
                Ok(Sender::Port(port)) => decide(frame, port, tables),
                Ok(other) => panic!("{other:?} at the ingress"),
                Err(reason) => Verdict::Drop(reason),
            }
        }
        (Entry::Egress, Some(frame)) => match egress_port(frame, provenance, tables).sender() {
            Ok(Sender::Port(port)) => decide(frame, port, tables),
            // Without security it is the port's.
            Ok(Sender::Bypass(port)) if !enforces(rig, port) => decide(frame, port, tables),
            Ok(Sender::Bypass(_) | Sender::Foreign) => Verdict::Drop(DropReason::GuardBypass),
            Ok(Sender::Unknown) => decide(frame, THE_HOST, tables),
            Ok(Sender::Transit) => Verdict::Pass,
            Err(reason) => Verdict::Drop(reason),
        },
    }
}

/// True for a port whose security enforces.
fn enforces(rig: &Rig, port: u16) -> bool {
    rig.tables.tables.policy(port).checks & check_flag::ENFORCE != 0
}

fn run_table(table: &Table, rig: &mut Rig, seen: &mut Vec<DropReason>) {
    for (name, frame, from, want) in &table.cases {
        // A port that is not there has no program either.
        if rig.tables.port(*from).is_none() {
            continue;
        }
        let bytes = bytes::write(frame, name.as_bytes());
        let entry = entry(rig, *from);
        let verdict = expected(rig, entry, Some(frame), &Provenance::KERNEL);
        // A macvlan child without a guard is known by its source MAC, so what it sends with
        // another one is decided on as somebody else's.
        if entry != Entry::Egress || verdict == *want {
            assert_eq!(verdict, *want, "{name}");
        }
        let run = Run { name, entry, bytes: &bytes, provenance: Provenance::KERNEL };
        rig.check(&run, verdict);
        if entry == Entry::Ingress {
            rig.check(&Run { entry: Entry::Xdp, ..run }, verdict);
        }
        if let Verdict::Drop(reason) = verdict {
            seen.push(reason);
        }
    }
}

#[test]
fn the_programs_decide_as_the_host_does() {
    let (mut rigs, mut seen) = (Rigs::default(), Vec::new());
    for table in fixtures::all() {
        run_table(&table, rigs.get(&table.topology, table.strict), &mut seen);
    }
    // Those that need something else than a frame of a known port have tests of their own here.
    let elsewhere =
        [DropReason::Runt, DropReason::NoPort, DropReason::Refused, DropReason::GuardBypass];
    // What follows from who has which address, and from what has come before (`tests/security.rs`,
    // `tests/steering.rs`).
    let addressed = DropReason::Stranger as u32..=DropReason::MulticastRouter as u32;
    let is_elsewhere = |r: DropReason| elsewhere.contains(&r) || addressed.contains(&(r as u32));
    let missing: Vec<_> =
        DropReason::ALL.iter().filter(|r| !seen.contains(r) && !is_elsewhere(**r)).collect();
    assert!(missing.is_empty(), "no case in the kernel for {missing:?}");
}

#[test]
fn every_length_and_every_tag_is_read_as_on_the_host() {
    let mut rig = Rig::new(&bytes::topology(), false);
    for bytes::Case { name, bytes, from, want } in bytes::all() {
        let entry = entry(&rig, from);
        let frame = bytes::read(&bytes);
        let verdict = expected(&rig, entry, frame.as_ref(), &Provenance::KERNEL);
        assert!(
            verdict == want || entry == Entry::Egress && frame.is_none(),
            "{name}: {verdict:?}"
        );
        let run = Run { name: &name, entry, bytes: &bytes, provenance: Provenance::KERNEL };
        if fits_an_skb(&bytes) {
            rig.check(&run, verdict);
        }
        if entry == Entry::Ingress {
            rig.check(&Run { entry: Entry::Xdp, ..run }, verdict);
        }
    }
}

#[test]
fn a_sender_is_known_by_its_mark_as_on_the_host() {
    let mut rigs = Rigs::default();
    for case in identity::cases() {
        let rig = rigs.get(&case.topology, false);
        // Which namespace sent a frame cannot be told by every kernel.
        if case.topology.netns != 0 && !sees_netns() {
            continue;
        }
        // A run gives each frame a socket; the host's stands for none, but not here.
        // `security::origins` sends such a frame.
        if case.provenance.socket == Socket::NONE && case.want == Ok(Sender::Foreign) {
            continue;
        }
        // Copies go to the interfaces of the namespace that a frame is run in.
        let is_elsewhere = ![Socket::NONE, Socket::HOST].contains(&case.provenance.socket);
        let destinations = if is_elsewhere { &[STRANGER][..] } else { &[STRANGER, BROADCAST] };
        for &dst in destinations {
            let frame = frame(dst, case.src, dataplane_common::frame::Tag::NONE);
            // A host end has another index here than in the case.
            let came_in = rig.ifindex(case.provenance.came_in);
            let provenance = Provenance { came_in, ..case.provenance };
            let verdict = expected(rig, Entry::Egress, Some(&frame), &provenance);
            let bytes = bytes::write(&frame, case.name.as_bytes());
            let run = Run { name: case.name, entry: Entry::Egress, bytes: &bytes, provenance };
            if case.want == Ok(Sender::Transit) {
                rig.check_transit(&run);
            } else {
                rig.check(&run, verdict);
            }
        }
    }
}

#[test]
fn what_no_port_sends_and_what_the_kernel_refuses_is_dropped_and_counted() {
    let mut rig = Rig::new(&bytes::topology(), false);
    let bytes = bytes::write(&frame(STRANGER, BROADCAST, dataplane_common::frame::Tag::NONE), b"");
    let run = Run {
        name: "a host end of nobody",
        entry: Entry::HostEnd(2),
        bytes: &bytes,
        provenance: Provenance::KERNEL,
    };
    rig.check(&run, Verdict::Drop(DropReason::NoPort));
    rig.check_refusal();
}

/// Of many frames on two CPUs at once each one is counted, at the port that it goes to or under the
/// reason of its drop: 10^9 of each kind in a soak.
#[test]
fn every_frame_of_many_is_counted() {
    let times = COUNTED_FRAMES.get() / slowness();
    let mut rig = Rig::new(&lan(), true);
    let untagged = dataplane_common::frame::Tag::NONE;
    let (unknown, spoof) = (DropReason::Unknown as u32, DropReason::SourceMac as u32);
    for (name, entry, frame, port, reason) in [
        ("wire to veth child, XDP", Entry::Xdp, frame(mac(3), STRANGER, untagged), Some(3), None),
        ("wire to veth child", Entry::Ingress, frame(mac(3), STRANGER, untagged), Some(3), None),
        (
            "unknown unicast, XDP",
            Entry::Xdp,
            frame(NOBODY, STRANGER, untagged),
            None,
            Some(unknown),
        ),
        ("host to macvlan child", Entry::Egress, frame(mac(2), HOST, untagged), Some(2), None),
        ("child to host", Entry::HostEnd(3), frame(HOST, mac(3), untagged), Some(1), None),
        ("forged source", Entry::HostEnd(3), frame(HOST, mac(9), untagged), None, Some(spoof)),
    ] {
        let bytes = bytes::write(&frame, name.as_bytes());
        let run = Run { name, entry, bytes: &bytes, provenance: Provenance::KERNEL };
        let (tx, drops) = rig.run_many(&run, times);
        let counted = u64::from(times);
        assert_eq!(tx, port.map(|port| (port, counted)).into_iter().collect(), "{name}");
        assert_eq!(drops, reason.map(|reason| (reason, counted)).into_iter().collect(), "{name}");
    }
}
