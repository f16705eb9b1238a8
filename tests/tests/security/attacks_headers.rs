//! What a child could try with headers that lie about their lengths, or about what they are.

use tests::{
    forge::{UDP, V4, udp},
    frames::Frame,
};

use crate::{
    attacks::{Attack, Key, attack},
    site::Site,
};

/// The protocol TCP.
const TCP: u8 = 6;

/// Every attack by headers that lie.
pub(crate) fn all(site: &Site) -> Vec<Attack> {
    let (evil, victim, gateway) = (&site.evil, &site.victim, &site.lan.router);
    let packet = |from, protocol| V4::new(from, gateway.ip, protocol, udp(5000, 5001));
    let frame = |packet: V4| packet.frame(evil.mac, gateway.mac);
    // A byte of the packet that is another.
    let lie = |packet: V4, at: usize, byte| {
        let mut frame = frame(packet);
        frame.payload[at] = byte;
        frame
    };
    let spoof = |name, frame: Frame| attack(name, frame, "source_ip", Key::Word("ip"));
    let hides = |name, frame: Frame| attack(name, frame, "hidden_header", Key::Everything);
    let (theirs, own) = (packet(victim.ip, TCP), packet(evil.ip, UDP));
    let options = V4 { options: 3, ..packet(victim.ip, UDP) };
    let later = V4 { fragment: 3, ..packet(victim.ip, UDP) };
    vec![
        spoof("a sibling's address before options", frame(options)),
        spoof("a sibling's address in a later fragment", frame(later)),
        spoof("a sibling's address in a header that is too short", lie(theirs.clone(), 0, 0x44)),
        spoof("a sibling's address in a header of no length", lie(theirs.clone(), 0, 0x40)),
        spoof("a sibling's address in another version", lie(theirs.clone(), 0, 0x65)),
        spoof("a sibling's address in a packet of no length", lie(theirs.clone(), 3, 0)),
        spoof("a sibling's address in a packet that is cut off", lie(theirs, 2, 0x40)),
        hides("options that are longer than the packet", lie(own.clone(), 0, 0x4f)),
        hides("a datagram in a packet of no length", lie(own, 3, 0)),
    ]
}
