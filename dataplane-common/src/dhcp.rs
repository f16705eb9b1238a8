//! DHCP, as far as it says who gets which address (RFC 2131).

use crate::{frame::Mac, packet::Bytes};

/// The port of a `DHCPv4` server (RFC 2131, section 4.1).
pub const SERVER_PORT: u16 = 67;

/// The port of a `DHCPv4` client.
pub const CLIENT_PORT: u16 = 68;

/// True for the port of a server or a client.
#[must_use]
#[inline(always)]
pub const fn is_port(port: u16) -> bool {
    // One comparison.
    port.wrapping_sub(SERVER_PORT) <= CLIENT_PORT - SERVER_PORT
}

/// True for the port of a client or a server of `DHCPv6` (RFC 8415, section 7.2).
#[must_use]
#[inline(always)]
pub const fn is_port6(port: u16) -> bool {
    const CLIENT: u16 = 546;
    port.wrapping_sub(CLIENT) <= 1
}

/// `op` of a message from a client (RFC 2131, section 2).
const BOOTREQUEST: u8 = 1;

/// `op` of a message from a server.
pub(crate) const BOOTREPLY: u8 = 2;

/// Ethernet (RFC 1700), with addresses of six bytes.
const ETHERNET: [u8; 2] = [1, 6];

/// What the options begin with (RFC 2131, section 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// The option that says what a message is (RFC 2132, section 9.6).
const MESSAGE_TYPE: u8 = 53;

/// `DHCPACK`.
const ACK: u8 = 5;

/// `DHCPRELEASE`.
const RELEASE: u8 = 7;

/// The option without a length that only fills (RFC 2132, section 3.1).
const PAD: u8 = 0;

/// The last option (RFC 2132, section 3.2).
const LAST: u8 = 255;

/// How many options are looked at. Servers put the type of a message first, or among the first.
const OPTIONS: u32 = 8;

/// What a server has given to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: [u8; 4],
    /// The client's MAC.
    pub mac: Mac,
}

/// What a DHCP message says about who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// A server has given it to a client.
    Given(Lease),
    /// Its client gives it back.
    Back([u8; 4]),
}

/// What the DHCP message at `offset`, behind the UDP header, says about who has an address.
#[inline(always)]
pub fn said(bytes: &impl Bytes, offset: u32) -> Option<Said> {
    let [op, hardware, length]: [u8; 3] = bytes.load(offset)?;
    let cookie: [u8; 4] = bytes.load(offset + 236)?;
    if [hardware, length] != ETHERNET || u32::from_ne_bytes(cookie) != u32::from_ne_bytes(COOKIE) {
        return None;
    }
    let kind = message_type(bytes, offset + 240);
    if op == BOOTREPLY && kind == ACK {
        let ip: [u8; 4] = bytes.load(offset + 16)?;
        let mac: Mac = bytes.load(offset + 28)?;
        if u32::from_ne_bytes(ip) == 0 { None } else { Some(Said::Given(Lease { ip, mac })) }
    } else if op == BOOTREQUEST && kind == RELEASE {
        let ip: [u8; 4] = bytes.load(offset + 12)?;
        if u32::from_ne_bytes(ip) == 0 { None } else { Some(Said::Back(ip)) }
    } else {
        None
    }
}

/// Of what type the options from `at` on say that the message is; 0, which is none, if they do not.
#[inline(always)]
fn message_type(bytes: &impl Bytes, mut at: u32) -> u8 {
    for _ in 0..OPTIONS {
        let Some([code, length, value]) = bytes.load::<3>(at) else { return 0 };
        match code {
            MESSAGE_TYPE => return value,
            LAST => return 0,
            PAD => at += 1,
            _ => at += 2 + u32::from(length),
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's message of this type, behind `options`.
    fn message(kind: u8, options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 236];
        message[0] = BOOTREPLY;
        message[1..3].copy_from_slice(&ETHERNET);
        message[12..16].copy_from_slice(&[192, 168, 50, 78]);
        message[16..20].copy_from_slice(&[192, 168, 50, 77]);
        message[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        message.extend(COOKIE);
        message.extend(options);
        message.extend([MESSAGE_TYPE, 1, kind, LAST, 0, 0]);
        message
    }

    #[test]
    fn ports_are_those_of_servers_and_clients() {
        for port in [0, 66, 67, 68, 69, 323, u16::MAX] {
            assert_eq!(is_port(port), matches!(port, SERVER_PORT | CLIENT_PORT), "{port}");
        }
    }

    #[test]
    fn an_acknowledgement_says_who_gets_what_and_a_release_who_has_had_it() {
        let lease = Lease { ip: [192, 168, 50, 77], mac: [2, 0, 0, 0, 0, 9] };
        let want = Some(Said::Given(lease));
        let said_of = |message: Vec<u8>| said(&message.as_slice(), 0);
        let changed = |at: usize, value| {
            let mut message = message(ACK, &[]);
            message[at] = value;
            message
        };
        let mut nothing = message(ACK, &[]);
        nothing[16..20].fill(0);
        let client = |kind| {
            let mut message = message(kind, &[]);
            message[0] = BOOTREQUEST;
            message
        };
        let mut of_nothing = client(RELEASE);
        of_nothing[12..16].fill(0);
        let cases = [
            ("an acknowledgement", message(ACK, &[]), want),
            ("behind another option", message(ACK, &[54, 4, 192, 168, 50, 1]), want),
            ("behind padding", message(ACK, &[0, 0, 0]), want),
            ("an offer", message(2, &[]), None),
            ("a refusal", message(6, &[]), None),
            ("the end comes first", message(ACK, &[LAST, 0, 0]), None),
            ("too many options", message(ACK, &[0; 8]), None),
            ("a client's", changed(0, 1), None),
            ("nobody's", changed(0, 3), None),
            ("a release", client(RELEASE), Some(Said::Back([192, 168, 50, 78]))),
            ("a request", client(3), None),
            ("a release by a server", message(RELEASE, &[]), None),
            ("a release of nothing", of_nothing, None),
            ("of another hardware", changed(1, 6), None),
            ("of another cookie", changed(236, 0), None),
            ("of nothing", nothing, None),
            ("cut off", message(ACK, &[])[..240].to_vec(), None),
        ];
        for (name, message, want) in cases {
            assert_eq!(said_of(message), want, "{name}");
        }
    }
}
