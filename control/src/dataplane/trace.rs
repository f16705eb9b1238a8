//! Single frames, as the programs tell of them.

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, RingBuf},
};
use dataplane_common::{
    abi::map,
    trace::{Traced, Tracer},
};
use tokio::io::unix::AsyncFd;

use super::{
    Pins,
    maps::{read, take},
};
use crate::error::{Context, Error, Result};

/// A frame that was told.
#[derive(Clone, Debug)]
pub(crate) struct TracedFrame {
    /// What is known of it.
    pub(crate) traced: Traced,
    /// Its first bytes.
    pub(crate) bytes: Vec<u8>,
}

impl TracedFrame {
    fn read(record: &[u8]) -> Option<Self> {
        let traced: Traced = read(record)?;
        let bytes = record.get(size_of::<Traced>()..)?;
        Some(Self { traced, bytes: bytes.get(..traced.snapped.into())?.to_vec() })
    }
}

/// Says which frames the programs tell.
pub(super) struct Filter {
    tracer: Array<MapData, Tracer>,
    /// Without what was lost.
    written: Tracer,
}

impl Filter {
    /// Takes the map out of a loaded object, and asks for nothing.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut tracer: Array<MapData, Tracer> = take(ebpf, map::TRACER)?;
        let written = Tracer::default();
        tracer.set(0, written, 0).doing(|| format!("cannot write {}", map::TRACER))?;
        Ok(Self { tracer, written })
    }

    /// Asks for other frames, if those are others.
    pub(super) fn set(&mut self, wanted: Tracer) -> Result<()> {
        if wanted == self.written {
            return Ok(());
        }
        let lost = self.tracer.get(&0, 0)?.lost;
        let value = Tracer { lost, ..wanted };
        self.tracer.set(0, value, 0).doing(|| format!("cannot write {}", map::TRACER))?;
        self.written = wanted;
        Ok(())
    }
}

/// The frames that a parent's programs tell of.
pub(crate) struct Frames {
    ring: AsyncFd<RingBuf<MapData>>,
    tracer: Array<MapData, Tracer>,
    lost: u64,
}

impl Frames {
    /// Takes the ring out of a loaded object. What somebody was told before is not told again.
    pub(super) fn take(ebpf: &mut Ebpf, pins: &Pins) -> Result<Self> {
        let mut ring: RingBuf<MapData> = take(ebpf, map::TRACE)?;
        while ring.next().is_some() {}
        let path = pins.map(map::TRACER);
        let doing = || format!("cannot open {}", path.display());
        let data = MapData::from_pin(&path).doing(doing)?;
        let tracer = Array::try_from(Map::Array(data)).doing(doing)?;
        let lost = Array::<MapData, Tracer>::get(&tracer, &0, 0)?.lost;
        // SAFETY: the descriptor is the ring's own, the same one for as long as the ring lives.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(std::io::Error::from)?;
        Ok(Self { ring, tracer, lost })
    }

    /// Waits for frames and takes all that are there; beside them, how many more there was no room for.
    pub(crate) async fn wait(&mut self) -> Result<(Vec<TracedFrame>, u64)> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let mut frames = Vec::new();
            while let Some(record) = ready.get_inner_mut().next() {
                frames.extend(TracedFrame::read(&record));
            }
            ready.clear_ready();
            if frames.is_empty() {
                continue;
            }
            let before = self.lost;
            self.lost = self.tracer.get(&0, 0).map_err(Error::from)?.lost;
            return Ok((frames, self.lost.saturating_sub(before)));
        }
    }
}
