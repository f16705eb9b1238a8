//! Frames in a file that Wireshark reads: pcapng
//! ([draft-ietf-opsawg-pcapng](https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/)), with an
//! interface for each port, and the path of each frame as its comment.

use std::{
    borrow::Cow,
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow};
use dataplane_common::trace::SNAP_BYTES;
use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use super::ARROW;
use crate::model::TraceView;

/// Times are in nanoseconds (`if_tsresol`).
const NANOSECONDS: u8 = 9;

/// A file of frames.
pub(super) struct Pcap {
    writer: PcapNgWriter<Box<dyn Write + Send>>,
    path: PathBuf,
    /// Parent and port of each interface, in their order.
    interfaces: Vec<(String, String)>,
}

impl Pcap {
    /// Makes the file, which must not be there yet; `-` is standard output.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let doing = || format!("cannot write frames to {}", path.display());
        let to: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            let is_plain = path.metadata().is_ok_and(|data| data.is_file());
            let mut options = OpenOptions::new();
            // What children say is for nobody else.
            options.write(true).create_new(is_plain || !path.exists()).mode(0o600);
            let file = options.open(path).map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists => {
                    anyhow!("it is there already; name another file, or remove it first")
                }
                _ => e.into(),
            });
            Box::new(file.with_context(doing)?)
        };
        let writer = PcapNgWriter::new(to).with_context(doing)?;
        Ok(Self { writer, path: path.to_owned(), interfaces: Vec::new() })
    }

    /// Writes a frame with its path.
    pub(super) fn write(&mut self, view: &TraceView, bytes: &[u8]) -> Result<()> {
        let interface_id = self.interface(view)?;
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: time(&view.time),
            original_len: view.length,
            data: Cow::Borrowed(bytes),
            options: vec![EnhancedPacketOption::Comment(view.path.join(ARROW).into())],
        };
        let written = self.writer.write_pcapng_block(block).map(drop).map_err(anyhow::Error::from);
        let flushed = written.and_then(|()| Ok(self.writer.get_mut().flush()?));
        flushed.with_context(|| format!("cannot write frames to {}", self.path.display()))
    }

    /// The number of the interface that stands for the port that sent a frame.
    fn interface(&mut self, view: &TraceView) -> Result<u32> {
        let wanted = (view.parent.clone(), view.from.clone());
        let known = self.interfaces.iter().position(|interface| *interface == wanted);
        let number = if let Some(number) = known {
            number
        } else {
            let name = format!("{}:{}", wanted.0, wanted.1);
            let block = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: SNAP_BYTES,
                options: vec![
                    InterfaceDescriptionOption::IfName(name.into()),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            };
            self.writer.write_pcapng_block(block)?;
            self.interfaces.push(wanted);
            self.interfaces.len() - 1
        };
        Ok(u32::try_from(number)?)
    }
}

/// A time as the daemon writes it, since 1970.
fn time(text: &str) -> Duration {
    let time = humantime::parse_rfc3339(text).unwrap_or(SystemTime::UNIX_EPOCH);
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
