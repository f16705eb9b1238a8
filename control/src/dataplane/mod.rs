//! The programs and maps of a parent in the kernel. The only module that knows aya.

mod attach;
mod guard;
mod maps;
mod pins;

use aya::{
    Ebpf, EbpfLoader,
    maps::MapInfo,
    programs::{SchedClassifier, Xdp},
};
use dataplane_common::{
    abi::{self, Settings},
    topology::TableSet,
};

pub(crate) use self::{
    attach::{TcKind, XdpIn},
    maps::{Counters, Events},
    pins::{Pins, parents as pinned_parents},
};
use crate::error::{Context, Error, Result};

/// The programs of a parent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MACLANE_BPF_OBJECT"));

/// Its programs, by the names that the kernel shows.
mod program {
    pub(super) const XDP: &str = "maclane_xdp";
    pub(super) const INGRESS: &str = "maclane_ingress";
    pub(super) const EGRESS: &str = "maclane_egress";
    pub(super) const PORT: &str = "maclane_port";
    pub(super) const GUARD: &str = "maclane_guard";
    pub(super) const TC: [&str; 3] = [INGRESS, EGRESS, PORT];
}

/// The dataplane of one parent: its programs and maps are in the kernel and pinned, and stay there
/// when this value is gone.
pub(crate) struct Dataplane {
    ebpf: Ebpf,
    pins: Pins,
    settings: Settings,
    maps: maps::Maps,
    tables: TableSet,
    attached: attach::Attached,
    tc: TcKind,
    guards: guard::Guards,
}

macro_rules! failed {
    ($($error:ty),+) => {
        $(
            impl From<$error> for Error {
                fn from(e: $error) -> Self {
                    Self::failed(chain(&e))
                }
            }
        )+
    };
}

failed!(
    aya::EbpfError,
    aya::programs::ProgramError,
    aya::programs::links::LinkError,
    aya::maps::MapError,
    aya::maps::xdp::XdpMapError,
    aya::pin::PinError
);

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl Dataplane {
    /// Loads the programs. Pinned maps are used as they are; programs that are attached already
    /// go on running until [`Self::attach_tc`] and its like replace them.
    pub(crate) fn load(pins: Pins, settings: Settings, tc: TcKind) -> Result<Self> {
        pins.create()?;
        for name in abi::map::ALL {
            check_pinned(&pins, name)?;
        }
        let mut loader = EbpfLoader::new();
        // Nothing is relocated against the kernel's own types.
        loader.btf(None).override_global("SETTINGS", &settings, true);
        for name in abi::map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT).doing(|| "cannot load the eBPF object".into())?;
        let attached = attach::Attached::default();
        let guards = guard::Guards::new(pins.map(abi::map::STATS));
        let mut maps = maps::Maps::take(&mut ebpf)?;
        let tables = maps.read()?;
        let mut dataplane = Self { ebpf, pins, settings, maps, tables, attached, tc, guards };
        dataplane.load_programs()?;
        #[cfg(feature = "bpf-log")]
        log_lines(&mut dataplane.ebpf);
        Ok(dataplane)
    }

    fn load_programs(&mut self) -> Result<()> {
        let verify = |name: &str| format!("the kernel does not take the program {name}");
        let pin = |name: &str| format!("cannot pin the program {name}");
        for name in program::TC {
            let path = self.pins.program(name);
            let program = self.tc(name)?;
            program.load().doing(|| verify(name))?;
            pins::unpin(&path).doing(|| pin(name))?;
            program.pin(&path).doing(|| pin(name))?;
        }
        let path = self.pins.program(program::XDP);
        let program = self.xdp()?;
        program.load().doing(|| verify(program::XDP))?;
        pins::unpin(&path).doing(|| pin(program::XDP))?;
        program.pin(&path).doing(|| pin(program::XDP))?;
        Ok(())
    }

    /// The settings that the programs were loaded with.
    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    /// What the maps hold.
    pub(crate) fn tables(&self) -> &TableSet {
        &self.tables
    }

    /// Makes the maps hold `wanted`. What is added comes first and what is removed last, each in
    /// the order in which the programs look things up, so that no frame meets a half.
    pub(crate) fn apply(&mut self, wanted: TableSet) -> Result<()> {
        if let Err(e) = self.maps.write(&self.tables, &wanted) {
            // Some of it is written: what exactly, the maps say.
            self.tables = self.maps.read()?;
            return Err(e);
        }
        self.tables = wanted;
        Ok(())
    }

    /// The counters of every port and drop reason.
    pub(crate) fn counters(&self) -> Result<Counters> {
        self.maps.counters()
    }

    /// Sets the counters of a port to zero, for its next owner.
    pub(crate) fn reset_counters(&mut self, port: u16) -> Result<()> {
        self.maps.reset_counters(port)
    }

    /// The events of the programs; given out once.
    pub(crate) fn take_events(&mut self) -> Result<Events> {
        self.maps.take_events()
    }

    fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name);
        let program = program.ok_or_else(|| Error::failed(format!("the object has no {name}")))?;
        Ok(program.try_into()?)
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(program::XDP);
        let program =
            program.ok_or_else(|| Error::failed(format!("the object has no {}", program::XDP)))?;
        Ok(program.try_into()?)
    }
}

/// aya takes a pinned map for what its name says: we look first.
fn check_pinned(pins: &Pins, name: &str) -> Result<()> {
    let path = pins.map(name);
    if !path.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(&path).doing(|| format!("cannot open {}", path.display()))?;
    let found = (info.key_size(), info.value_size(), info.max_entries());
    let wanted = maps::shape(name);
    if found == wanted {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "{} has keys of {} bytes, values of {} bytes and {} entries where this maclane needs {}, {} and {}; \
         remove the folder {} (its frames are then no longer steered) and start again",
        path.display(),
        found.0,
        found.1,
        found.2,
        wanted.0,
        wanted.1,
        wanted.2,
        pins.dir().display()
    )))
}

/// Hands the programs' log lines to the daemon's log.
#[cfg(feature = "bpf-log")]
fn log_lines(ebpf: &mut Ebpf) {
    // SAFETY: the descriptor is the logger's own, the same one for as long as it lives.
    let register = |logger| unsafe { tokio::io::unix::AsyncFd::register(logger) };
    let logger = aya_log::EbpfLogger::init(ebpf).map_err(|e| e.to_string());
    match logger.and_then(|logger| register(logger).map_err(|_| "cannot wait for it".to_owned())) {
        Err(e) => tracing::warn!("no log lines from the programs: {e}"),
        Ok(mut logger) => {
            tokio::spawn(async move {
                while let Ok(mut ready) = logger.readable_mut().await {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
            });
        }
    }
}
