//! A place in a frame as one number: functions of a program that the verifier looks at by themselves take
//! numbers only.

/// Where in a frame something is looked at, and for whom: a port, its VLAN, and an offset.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The port that the frame came from.
    pub(crate) port: u16,
    /// The VLAN that it is in.
    pub(crate) vlan: u16,
    /// Where its payload begins.
    pub(crate) offset: u16,
    /// What else there is to say.
    pub(crate) extra: u16,
}

impl Place {
    #[inline(always)]
    pub(crate) const fn pack(self) -> u64 {
        self.port as u64
            | (self.vlan as u64) << 16
            | (self.offset as u64) << 32
            | (self.extra as u64) << 48
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "each field is cut out at its width")]
    pub(crate) const fn unpack(word: u64) -> Self {
        Self {
            port: word as u16,
            vlan: (word >> 16) as u16,
            offset: (word >> 32) as u16,
            extra: (word >> 48) as u16,
        }
    }
}
