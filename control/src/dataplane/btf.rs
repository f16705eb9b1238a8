//! Where the kernel keeps what no helper tells: the members of its structs, from its BTF (`Documentation/bpf/btf.rst`).
//!
//! Read here because aya keeps its reader to itself, and there is no other one that is both kept and free to link with.

use std::path::Path;

use dataplane_common::abi::SkbLayout;

use crate::error::{Context as _, Error, Result};

/// The BTF of the running kernel.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_MAGIC` (`include/uapi/linux/btf.h`), as a machine of this byte order writes it.
const MAGIC: u16 = 0xeb9f;

/// `struct btf_type`: the offset of a name, kind and length, a size or a type.
const TYPE: usize = 12;

/// `struct btf_member`: the offset of a name, a type, an offset in bits.
const MEMBER: usize = 12;

/// `BTF_KIND_STRUCT` and `BTF_KIND_UNION`.
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// A struct holds at most so many levels of structs and unions without a name.
const LEVELS: u32 = 8;

/// Where the running kernel keeps what it knows of a pending checksum.
///
/// # Errors
///
/// If the kernel has no BTF, or one that says something else than what the programs can read.
pub(crate) fn skb_layout() -> Result<SkbLayout> {
    let path = Path::new(VMLINUX);
    let bytes =
        std::fs::read(path).doing(|| format!("cannot read the kernel's types in {VMLINUX}"))?;
    layout_in(&bytes).map_err(|what| {
        Error::failed(format!("the kernel's types in {VMLINUX} cannot be used: {what}"))
    })
}

/// The layout in a kernel's BTF, or what stands against it.
fn layout_in(bytes: &[u8]) -> std::result::Result<SkbLayout, String> {
    let btf = Btf::parse(bytes).ok_or("it is cut off")?;
    let skb = btf
        .named(STRUCT, "sk_buff")
        .ok_or("there is no struct sk_buff among the types that maclane can read")?;
    let member =
        |name: &str| btf.member(skb, name, LEVELS).ok_or(format!("struct sk_buff has no {name}"));
    let bytes = |name: &str| {
        let Member { bit, bits } = member(name)?;
        u16::try_from(bit / 8)
            .ok()
            .filter(|_| bits == 0 && bit % 8 == 0)
            .ok_or(format!("{name} is at bit {bit}"))
    };
    // Two of a size are read at once.
    let pair = |first: &str, second: &str, size: u16| {
        let at = bytes(first)?;
        if bytes(second)? == at + size {
            Ok(at)
        } else {
            Err(format!("{second} does not follow {first}"))
        }
    };
    let summed = member("ip_summed")?;
    let (byte, shift) = (summed.bit / 8, summed.bit % 8);
    let in_one = summed.bits == 2 && shift <= 6;
    let byte = u16::try_from(byte)
        .ok()
        .filter(|_| in_one)
        .ok_or("ip_summed is not two bits of one byte")?;
    let head = pair("head", "data", 8)?;
    let place = head
        .checked_sub(u16::try_from(SkbLayout::HEAD).expect("small"))
        .ok_or("head is too near to the start")?;
    let transport_header = bytes("transport_header")?
        .checked_sub(place)
        .filter(|at| usize::from(*at) <= SkbLayout::HEAD - 2)
        .ok_or("transport_header is too far from head")?;
    Ok(SkbLayout {
        ip_summed: byte,
        csum_start: pair("csum_start", "csum_offset", 2)?,
        place,
        #[expect(clippy::cast_possible_truncation, reason = "in 40 bytes")]
        transport_header: transport_header as u8,
        // Bits are counted from the other end there.
        #[expect(clippy::cast_possible_truncation, reason = "at most 6")]
        shift: if cfg!(target_endian = "big") { 6 - shift as u8 } else { shift as u8 },
    })
}

/// A member of a struct.
struct Member {
    /// Where it begins, in bits from the struct's start.
    bit: u32,
    /// How many bits it has, if it is a bit field; 0 for others.
    bits: u32,
}

/// The types of a kernel.
struct Btf<'a> {
    types: &'a [u8],
    names: &'a [u8],
    /// Where each type begins; that of ID 1 is the first.
    starts: Vec<usize>,
}

impl<'a> Btf<'a> {
    /// `None` for what is no BTF of this byte order, or is cut off. Types behind one of a kind that is not known are
    /// left out: how long that is, is not known either.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let [header, types_at, types, names_at, names] = [4, 8, 12, 16, 20]
            .map(|at| word(bytes, at).and_then(|word| usize::try_from(word).ok()));
        let section = |at: Option<usize>, len: Option<usize>| {
            let start = header?.checked_add(at?)?;
            bytes.get(start..start.checked_add(len?)?)
        };
        let (types, names) = (section(types_at, types)?, section(names_at, names)?);
        let mut at = 0;
        let mut starts = Vec::new();
        while at < types.len() {
            starts.push(at);
            let Some(behind) = behind(word(types, at + 4)?) else { break };
            at += TYPE + behind;
        }
        (magic == MAGIC && at <= types.len()).then_some(Self { types, names, starts })
    }

    /// Where the first type of that kind and name begins.
    fn named(&self, kind: u32, name: &str) -> Option<usize> {
        let is = |at: &usize| {
            word(self.types, at + 4).is_some_and(|info| kind_of(info) == kind)
                && word(self.types, *at).is_some_and(|offset| self.is_named(offset, name))
        };
        self.starts.iter().copied().find(is)
    }

    /// True if that name stands at an offset.
    fn is_named(&self, offset: u32, name: &str) -> bool {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.names.get(at..).and_then(|names| names.strip_prefix(name.as_bytes()));
        found.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The member of a struct or union at `start`, also of one in it that has no name.
    fn member(&self, start: usize, name: &str, levels: u32) -> Option<Member> {
        let info = word(self.types, start + 4)?;
        let has_bit_fields = info >> 31 != 0;
        (0..length(info)).find_map(|index| {
            let at = start + TYPE + index * MEMBER;
            let [called, of, offset] = [0, 4, 8].map(|field| word(self.types, at + field));
            let (called, of, offset) = (called?, of?, offset?);
            let (bit, bits) =
                if has_bit_fields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            if self.is_named(called, name) {
                return Some(Member { bit, bits });
            }
            if called != 0 || levels == 0 {
                return None;
            }
            let inner = *self.starts.get(usize::try_from(of).ok()?.checked_sub(1)?)?;
            if !matches!(kind_of(word(self.types, inner + 4)?), STRUCT | UNION) {
                return None;
            }
            let found = self.member(inner, name, levels - 1)?;
            Some(Member { bit: bit + found.bit, ..found })
        })
    }
}

/// The word at an offset.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// `BTF_INFO_KIND`.
const fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// `BTF_INFO_VLEN`.
const fn length(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// How many bytes follow a `struct btf_type`.
const fn behind(info: u32) -> Option<usize> {
    let length = length(info);
    Some(match kind_of(info) {
        // Pointer, forward declaration, typedef, the qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        STRUCT | UNION => length * MEMBER,
        // Enumeration, the parameters of a function.
        6 | 13 => length * 8,
        // The variables of a section, enumeration of 64 bits.
        15 | 19 => length * 12,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct sk_buff { struct { u8 a:5, ip_summed:2; u16 csum_start, csum_offset, transport_header; }; ... union {
    /// void *head; }; void *data; }` as a kernel would have it, but for the types of its members. Behind it is a type
    /// of a kind that a later kernel may have.
    fn btf(second: &str, summed_at: u32) -> Vec<u8> {
        let mut names = vec![0];
        let mut name = |text: &str| {
            let at = u32::try_from(names.len()).expect("short");
            names.extend_from_slice(text.as_bytes());
            names.push(0);
            at
        };
        let info = |kind: u32, length: u32, flag: u32| flag << 31 | kind << 24 | length;
        let members = [
            vec![name("int"), info(1, 0, 0), 4, 32],
            vec![0, info(UNION, 1, 0), 8, name("head"), 1, 0],
            vec![
                0,
                info(STRUCT, 4, 1),
                8,
                name("ip_summed"),
                1,
                2 << 24 | summed_at,
                name("csum_start"),
                1,
                16,
                name(second),
                1,
                32,
                name("transport_header"),
                1,
                48,
            ],
            vec![
                name("sk_buff"),
                info(STRUCT, 3, 0),
                48,
                0,
                3,
                64,
                0,
                2,
                256,
                name("data"),
                1,
                320,
            ],
            vec![name("later"), info(31, 1, 0), 0, 0],
        ]
        .concat();
        let types: Vec<u8> = members.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let lengths = [types.len(), names.len()].map(|len| u32::try_from(len).expect("short"));
        let header = [24, 0, lengths[0], lengths[0], lengths[1]];
        let header = header.iter().flat_map(|word: &u32| word.to_ne_bytes());
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(header);
        bytes.extend(types);
        bytes.extend(names);
        bytes
    }

    #[test]
    fn members_are_found_in_structs_without_a_name() {
        let want = SkbLayout {
            ip_summed: 8,
            csum_start: 10,
            place: 8,
            transport_header: 6,
            shift: if cfg!(target_endian = "big") { 1 } else { 5 },
        };
        assert_eq!(layout_in(&btf("csum_offset", 5)), Ok(want));
    }

    #[test]
    fn another_layout_is_refused_with_what_is_different() {
        for (bytes, what) in [
            (btf("csum_level", 5), "struct sk_buff has no csum_offset"),
            (btf("csum_offset", 7), "ip_summed is not two bits of one byte"),
            (vec![], "it is cut off"),
        ] {
            let error = layout_in(&bytes).expect_err(what);
            assert!(error.contains(what), "{error}");
        }
        let whole = btf("csum_offset", 5);
        for cut in 0..whole.len() {
            assert!(layout_in(&whole[..cut]).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn the_running_kernel_has_a_layout() {
        let layout = skb_layout().expect("a kernel with BTF");
        assert!(layout.csum_start > 0 && layout.place > layout.csum_start, "{layout:?}");
    }
}
