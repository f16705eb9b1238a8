//! The programs and maps of a parent in the kernel. The only module that knows aya.

mod attach;
mod btf;
mod clsact;
mod guard;
mod held;
mod maps;
mod observed;
mod pins;
mod sockopt;
mod sys;
mod trace;
mod xdp;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::OnceLock,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapInfo, ProgramArray},
    programs::{ProgramType, SchedClassifier, TcAttachType, Xdp},
    sys::{BpfHelper, is_helper_supported},
};
use dataplane_common::{
    abi::{self, Learned, NeighbourKey, Offence, OffenceKey, Settings, SkbLayout},
    topology::{TableSet, Topology},
    trace::Tracer,
};

pub(crate) use self::{
    attach::{Filter, TcKind},
    maps::{Counters, Events, Told},
    pins::{Mark, Pins, parents as pinned_parents},
    trace::{Frames, TracedFrame},
    xdp::XdpIn,
};
use crate::{
    error::{Context, Error, Result},
    failpoint::{self, failpoint},
};

/// The programs of a parent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MACLANE_BPF_OBJECT"));

/// True if TC programs can ask for the network namespace of a frame's socket
/// (`bpf_get_netns_cookie`, since Linux 6.15): the kernel is tried.
pub(crate) fn sees_netns() -> bool {
    let helper = BpfHelper::BPF_FUNC_get_netns_cookie;
    failpoint::refuse("get_netns_cookie").is_ok()
        && is_helper_supported(ProgramType::SchedClassifier, helper).unwrap_or(false)
}

/// Where the programs find pending checksums.
///
/// # Errors
///
/// If the kernel does not say, or does not let programs read its memory (`bpf_probe_read_kernel`): it is locked down for
/// confidentiality (`kernel_lockdown(7)`).
fn skb_layout() -> Result<SkbLayout> {
    /// What a kernel has once said.
    static KNOWN: OnceLock<SkbLayout> = OnceLock::new();
    if let Some(layout) = KNOWN.get() {
        return Ok(*layout);
    }
    let helper = BpfHelper::BPF_FUNC_probe_read_kernel;
    failpoint::refuse("skb_layout")?;
    if !is_helper_supported(ProgramType::SchedClassifier, helper).unwrap_or(false) {
        let why = "the kernel does not let BPF programs read its memory; is it locked down for confidentiality?";
        return Err(Error::failed(why));
    }
    let layout = btf::skb_layout()?;
    Ok(*KNOWN.get_or_init(|| layout))
}

/// Its programs, by the names that the kernel shows.
mod program {
    pub(super) const XDP: &str = "maclane_xdp";
    pub(super) const INGRESS: &str = "maclane_ingress";
    pub(super) const EGRESS: &str = "maclane_egress";
    pub(super) const PORT: &str = "maclane_port";
    pub(super) const MACVLAN: &str = "maclane_macvlan";
    pub(super) const SIBLINGS: &str = "maclane_siblings";
    pub(super) const GUARD: &str = "maclane_guard";
    pub(super) const SOCKOPT: &str = "maclane_sockopt";
    pub(super) const TC: [&str; 3] = [INGRESS, EGRESS, PORT];
}

/// The dataplane of one parent: its programs and maps are in the kernel and pinned, and stay there
/// when this value is gone.
pub(crate) struct Dataplane {
    ebpf: Ebpf,
    pins: Pins,
    held: held::Held,
    settings: Settings,
    maps: maps::Maps,
    observed: observed::Observed,
    filter: trace::Filter,
    tables: TableSet,
    /// What they were made of, if they are as they were written.
    applied: Option<Topology>,
    attached: attach::Attached,
    tc: TcKind,
    guards: guard::Guards,
    /// Where the ingress leads with frames between siblings.
    siblings: ProgramArray<MapData>,
    /// Why XDP cannot be had: the kernel does not take its program.
    xdp_refused: Option<String>,
    /// Why options of sockets cannot be refused: the kernel does not take the program.
    sockopt_refused: Option<String>,
    /// Why pending checksums are not looked for.
    checksums_hidden: Option<String>,
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
        pins.take_over()?;
        for name in abi::map::ALL {
            check_pinned(&pins, name)?;
        }
        let mut loader = EbpfLoader::new();
        // Nothing is relocated against the kernel's own types.
        loader.btf(None).override_global("SETTINGS", &settings, true);
        let (layout, checksums_hidden) = match skb_layout() {
            Ok(layout) => (layout, None),
            Err(e) => (SkbLayout::default(), Some(e.to_string())),
        };
        loader.override_global("SKB_LAYOUT", &layout, true);
        for name in abi::map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT).doing(|| "cannot load the eBPF object".into())?;
        let attached = attach::Attached::default();
        let guards = guard::Guards::new(&pins).doing(|| "cannot load the guard's object".into())?;
        let mut maps = maps::Maps::take(&mut ebpf)?;
        let observed = observed::Observed::take(&mut ebpf)?;
        let filter = trace::Filter::take(&mut ebpf)?;
        let siblings = maps::take(&mut ebpf, abi::map::SIBLINGS)?;
        let tables = maps.read()?;
        let mut held = held::Held::default();
        let there = abi::map::ALL.iter().map(|name| pins.map(name));
        for path in there.chain(pins.link_names().map(|name| pins.link(&name))) {
            held.hold(&path)?;
        }
        let (xdp_refused, sockopt_refused) = (None, None);
        let mut dataplane = Self {
            ebpf,
            pins,
            held,
            settings,
            maps,
            observed,
            filter,
            tables,
            applied: None,
            attached,
            tc,
            guards,
            siblings,
            xdp_refused,
            sockopt_refused,
            checksums_hidden,
        };
        dataplane.load_programs()?;
        #[cfg(feature = "bpf-log")]
        log_lines(&mut dataplane.ebpf);
        Ok(dataplane)
    }

    /// Why pending checksums are not looked for, on a kernel that does not let the programs see them.
    pub(crate) fn checksums_hidden(&self) -> Option<&str> {
        self.checksums_hidden.as_deref()
    }

    /// Makes the ingress lead to the newest program for frames between siblings. True if it did not.
    fn lead_siblings(&mut self) -> Result<bool> {
        let program = self.tc(program::SIBLINGS)?;
        let (id, program) = (program.info()?.id(), program.fd()?.try_clone()?);
        if self.held.program_in(&self.pins.map(abi::map::SIBLINGS)) == Some(id) {
            return Ok(false);
        }
        let led = self.siblings.set(0, &program, 0);
        led.doing(|| format!("cannot lead the ingress to {}", program::SIBLINGS))?;
        failpoint!("siblings.led");
        Ok(true)
    }

    fn load_programs(&mut self) -> Result<()> {
        let name = program::SIBLINGS;
        verified(name, || Ok(self.tc(name)?.load()?))?;
        self.pin_program(name, |plane, path| Ok(plane.tc(name)?.pin(path)?))?;
        self.lead_siblings()?;
        for name in program::TC {
            verified(name, || Ok(self.tc(name)?.load()?))?;
            self.pin_program(name, |plane, path| Ok(plane.tc(name)?.pin(path)?))?;
        }
        let name = program::XDP;
        match verified(name, || Ok(self.xdp()?.load()?)) {
            Ok(()) => self.pin_program(name, |plane, path| Ok(plane.xdp()?.pin(path)?))?,
            // TC does the whole job.
            Err(e) => self.xdp_refused = Some(e.to_string()),
        }
        if let Err(e) = self.load_sockopt() {
            self.sockopt_refused = Some(e.to_string());
        }
        let name = program::MACVLAN;
        match verified(name, || Ok(self.tc(name)?.load()?)) {
            Ok(()) => {
                self.pin_program(name, |plane, path| Ok(plane.tc(name)?.pin(path)?))?;
                if let Err(e) = self.lead_guards() {
                    self.guards.refuse(&e);
                }
            }
            // The parent's egress looks at what macvlan children send.
            Err(e) => self.guards.refuse(&e),
        }
        Ok(())
    }

    /// Pins a program in the place of an older one, and holds it.
    fn pin_program(
        &mut self,
        name: &str,
        pin: impl FnOnce(&mut Self, &Path) -> Result<()>,
    ) -> Result<()> {
        let path = self.pins.program(name);
        let pinned = repin(&path, || pin(self, &path));
        pinned.doing(|| format!("cannot pin the program {name}"))?;
        self.held.hold(&path)
    }

    /// The settings that the programs were loaded with.
    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    /// How TC programs are attached.
    pub(crate) fn tc_kind(&self) -> TcKind {
        self.tc
    }

    /// Its pins.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// What the maps hold.
    pub(crate) fn tables(&self) -> &TableSet {
        &self.tables
    }

    /// Makes the maps hold the tables of a topology. What is added comes first and what is removed last,
    /// each in the order in which the programs look things up, so that no frame meets a half.
    pub(crate) fn apply(&mut self, topology: Topology) -> Result<()> {
        if self.applied.as_ref() == Some(&topology) {
            return Ok(());
        }
        let wanted = topology.tables(&self.tables.groups);
        if let Err(e) = self.maps.write(&self.tables, &wanted) {
            // Some of it is written: what exactly, the maps say.
            self.applied = None;
            self.tables = self.maps.read()?;
            return Err(e);
        }
        self.tables = wanted;
        self.applied = Some(topology);
        Ok(())
    }

    /// Reads what the maps really hold. True if that is not what was written: somebody else has
    /// changed it, and the next [`Self::apply`] puts it right, where this has not.
    pub(crate) fn reread(&mut self) -> Result<bool> {
        let tables = self.maps.read()?;
        let changed = tables != self.tables;
        if changed {
            self.applied = None;
        }
        self.tables = tables;
        let changed = self.lead_siblings()? || changed;
        Ok(self.lead_guards()? || changed)
    }

    /// Pins again what is not pinned any more; how much that was.
    pub(crate) fn repin(&self) -> Result<usize> {
        self.held.repin(&self.pins)
    }

    /// The ports of children whose program is on no interface any more.
    pub(crate) fn unattended(&self) -> Vec<u16> {
        self.held.detached(&self.pins).filter_map(guard::port_of).collect()
    }

    /// Removes the links of ports that nobody has, and what other versions have left.
    pub(crate) fn prune(&mut self, ports: &BTreeSet<u16>) -> Result<()> {
        let links: Vec<String> = self.held.link_names(&self.pins).map(String::from).collect();
        for link in links {
            if guard::port_of(&link).is_some_and(|port| !ports.contains(&port)) {
                self.held.detach(&self.pins.link(&link))?;
            }
        }
        if self.pins.has_other_versions() {
            self.drop_old_guards()?;
            self.pins.remove_other_versions()?;
        }
        Ok(())
    }

    /// The counters of every port and drop reason.
    pub(crate) fn counters(&self) -> Result<Counters> {
        self.maps.counters()
    }

    /// What the programs have noted of ports and reasons to drop their frames.
    pub(crate) fn offences(&self) -> Result<BTreeMap<OffenceKey, Offence>> {
        self.observed.offences()
    }

    /// The addresses that children have been seen to take.
    pub(crate) fn learned(&self) -> Result<BTreeMap<NeighbourKey, Learned>> {
        self.observed.learned()
    }

    /// Forgets some of them.
    pub(crate) fn forget_learned(
        &mut self,
        goes: impl Fn(&NeighbourKey, &Learned) -> bool,
    ) -> Result<()> {
        self.observed.forget(goes)
    }

    /// Sets the counters of a port to zero, and forgets what was seen of it, for its next owner.
    pub(crate) fn reset_counters(&mut self, port: u16) -> Result<()> {
        self.observed.reset(port)?;
        self.maps.reset_counters(port)
    }

    /// The events of the programs; given out once.
    pub(crate) fn take_events(&mut self) -> Result<Events> {
        self.maps.take_events()
    }

    /// The frames that the programs tell of; given out once.
    pub(crate) fn take_frames(&mut self) -> Result<Frames> {
        Frames::take(&mut self.ebpf, &self.pins)
    }

    /// Says of which frames the programs tell.
    pub(crate) fn trace(&mut self, wanted: Tracer) -> Result<()> {
        self.filter.set(wanted)
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

/// The programs of others on the TC hooks of an interface, each as "NAME (ID N)"; `filters` are those
/// that netlink shows there.
pub(crate) fn strangers(ifname: &str, filters: &[Filter]) -> Vec<String> {
    let of_tcx = [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        .filter_map(|hook| SchedClassifier::query_tcx(ifname, hook).ok())
        .flat_map(|(_, programs)| programs.into_iter().map(|program| program.id()));
    let ids: BTreeSet<u32> = of_tcx.chain(filters.iter().map(|filter| filter.program)).collect();
    let name = |id: u32| Some((id, sys::program(id).ok()?.name));
    let named = ids.into_iter().filter_map(name);
    let theirs = named.filter(|(_, name)| !program::TC.contains(&name.as_str()));
    theirs.map(|(id, name)| format!("{name} (ID {id})")).collect()
}

/// Has the kernel look at a program.
fn verified(name: &str, load: impl FnOnce() -> Result<()>) -> Result<()> {
    let loaded = failpoint::refuse(name).and_then(|()| load());
    loaded.doing(|| format!("the kernel does not take the program {name}"))
}

/// Pins a program in the place of an older one.
fn repin(path: &Path, pin: impl FnOnce() -> Result<()>) -> Result<()> {
    pins::unpin(path)?;
    failpoint!("pins.program_unpinned");
    pin()?;
    failpoint!("pins.program_pinned");
    Ok(())
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
    let register = |logger| {
        // SAFETY: the descriptor is the logger's own, the same one for as long as it lives.
        unsafe { tokio::io::unix::AsyncFd::register(logger) }
            .map_err(|_| "cannot wait for it".to_owned())
    };
    let logger = aya_log::EbpfLogger::init(ebpf).map_err(|e| e.to_string());
    match logger.and_then(register) {
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
