//! The generator and the sinks: programs of `dataplane-ebpf/src/load.rs` at work.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{PerCpuArray, xdp::DevMap},
    programs::{SchedClassifier, TcAttachType, TestRunOptions, Xdp, XdpMode, tc},
};
use tests::{frames::Frame, netns::Netns};

use crate::context::{FRAMES, load_cpu, pin};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BENCH_LOAD_OBJECT"));

/// Frames that the kernel takes from the generator at once.
const BATCH: u32 = 64;

/// Makes frames in the kernel, and sends them out of an interface.
pub(crate) struct Generator {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

impl Generator {
    /// Loads a generator of this frame that sends out of `ifname`. With a `spread`, the last four
    /// bytes of the destination are changed by the frame's number as far as this mask lets it
    /// through.
    pub(crate) fn new(ns: &Netns, ifname: &str, frame: &Frame, spread: u32) -> Result<Self> {
        let frame = frame.to_bytes();
        let (words, _) = frame.as_chunks::<8>();
        let head: [u64; 3] = [0, 1, 2].map(|n| words.get(n).copied().map_or(0, u64::from_ne_bytes));
        let ifindex = ns.ifindex(ifname);
        let mut ebpf = EbpfLoader::new()
            .override_global("LOAD_IFINDEX", &ifindex, true)
            .override_global("LOAD_HEAD", &head, true)
            .override_global("LOAD_SPREAD", &spread, true)
            .load(OBJECT)
            .context("cannot load the generator")?;
        xdp(&mut ebpf, "load_generator")?.load().context("cannot load load_generator")?;
        Ok(Self { ebpf, frame })
    }

    /// Makes and sends [`FRAMES`] frames on one CPU, which also receives them; returns the seconds
    /// that it took.
    ///
    /// The time is the kernel's own, without the 30 ms that it takes to set a run up.
    fn run(&self, ns: &Netns) -> Result<f64> {
        let duration = ns.enter(|| {
            pin(load_cpu())?;
            self.send(FRAMES)
        })?;
        // The kernel says how many whole nanoseconds a frame took.
        let nanoseconds = duration.as_secs_f64() * 1e9 + 0.5;
        Ok(nanoseconds * f64::from(FRAMES) / 1e9)
    }

    /// Makes and sends frames from the namespace of the calling thread; returns how long each took.
    pub(crate) fn send(&self, frames: u32) -> Result<Duration> {
        let program: &Xdp =
            self.ebpf.program("load_generator").context("no generator")?.try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.repeat = frames;
        options.attrs = options.attrs.xdp_live_frames(BATCH);
        Ok(program.test_run(options).context("cannot run load_generator")?.duration)
    }
}

/// Takes frames at the end of their way, counts and drops them.
pub(crate) struct Sink {
    ebpf: Ebpf,
}

impl Sink {
    /// In XDP, before an skb exists.
    pub(crate) fn xdp(ns: &Netns, ifname: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT)?;
        attach_xdp(&mut ebpf, "load_drop", ns, ifname)?;
        Ok(Self { ebpf })
    }

    /// In the stack: at the TC ingress of an interface.
    pub(crate) fn stack(ns: &Netns, ifname: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT)?;
        attach_tc(&mut ebpf, "load_sink", ns, ifname)?;
        Ok(Self { ebpf })
    }

    /// Frames taken so far.
    pub(crate) fn count(&self) -> Result<u64> {
        let count: PerCpuArray<_, u64> =
            self.ebpf.map("load_count").context("no load_count")?.try_into()?;
        Ok(count.get(&0, 0)?.iter().sum())
    }
}

/// The program that counts and drops in the stack, loaded and attached nowhere.
pub(crate) fn bare_program() -> Result<SchedClassifier> {
    let mut ebpf = Ebpf::load(OBJECT)?;
    let program = ebpf.program_mut("load_sink").context("no load_sink")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    // Another handle to it, which outlives the object.
    Ok(SchedClassifier::from_program_info(program.info()?, "load_sink".into())?)
}

/// A program that something is compared with, attached to an interface.
pub(crate) struct Bare {
    _ebpf: Ebpf,
}

impl Bare {
    /// A program at the TC ingress of `ifname` that does nothing.
    pub(crate) fn pass(ns: &Netns, ifname: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT)?;
        attach_tc(&mut ebpf, "load_pass", ns, ifname)?;
        Ok(Self { _ebpf: ebpf })
    }

    /// A redirect of everything from `ifname` to `to`, through a devmap.
    pub(crate) fn redirect(ns: &Netns, ifname: &str, to: &str) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT)?;
        let index = ns.ifindex(to);
        let mut map: DevMap<_> = ebpf.map_mut("load_tx").context("no load_tx")?.try_into()?;
        ns.enter(|| map.set(0, index, None, 0)).with_context(|| format!("no redirect to {to}"))?;
        attach_xdp(&mut ebpf, "load_redirect", ns, ifname)?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// Runs a generator and says how many frames a second came out where `count` counts.
pub(crate) fn rate(
    generator: &mut Generator,
    wire: &Netns,
    mut count: impl FnMut() -> Result<u64>,
) -> Result<f64> {
    let before = count()?;
    let seconds = generator.run(wire)?;
    // The last ones may still be on their way.
    thread::sleep(Duration::from_millis(2));
    let received = count()? - before;
    ensure!(
        received > u64::from(FRAMES) / 2,
        "of {FRAMES} frames only {received} came through; the set-up is wrong",
    );
    #[allow(clippy::cast_precision_loss)]
    Ok(received as f64 / seconds)
}

fn attach_tc(ebpf: &mut Ebpf, name: &str, ns: &Netns, ifname: &str) -> Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    ns.enter(|| {
        // Of no use where the kernel has TCX, and there already on the second call.
        let _ = tc::qdisc_add_clsact(ifname);
        program.attach(ifname, TcAttachType::Ingress)
    })
    .with_context(|| format!("cannot attach {name} to {ifname}"))?;
    Ok(())
}

fn attach_xdp(ebpf: &mut Ebpf, name: &str, ns: &Netns, ifname: &str) -> Result<()> {
    let program = xdp(ebpf, name)?;
    program.load().with_context(|| format!("cannot load {name}"))?;
    ns.enter(|| program.attach(ifname, XdpMode::Driver))
        .with_context(|| format!("cannot attach {name} to {ifname}"))?;
    Ok(())
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
    Ok(program.try_into()?)
}
