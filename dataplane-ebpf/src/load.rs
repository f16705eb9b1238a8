//! What `bench` measures with: a generator, a sink, and the bare programs that maclane's are
//! compared with. Not part of the product.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod licence;

/// For the host there is nothing to run: `cargo clippy --workspace` may look at it all the same.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod load {
    use aya_ebpf::{
        Global,
        bindings::{
            TC_ACT_SHOT,
            xdp_action::{XDP_ABORTED, XDP_DROP},
        },
        btf_maps::{DevMap, PerCpuArray},
        helpers::bpf_redirect,
        macros::{btf_map, classifier, xdp},
        programs::{TcContext, XdpContext},
    };

    /// Frames that a sink has taken.
    #[btf_map(name = "load_count")]
    static COUNT: PerCpuArray<u64, 1> = PerCpuArray::new();

    /// Frames that the generator has made.
    #[btf_map(name = "load_made")]
    static MADE: PerCpuArray<u32, 1> = PerCpuArray::new();

    /// Where the bare redirect sends everything.
    #[btf_map(name = "load_tx")]
    static TX: DevMap<1> = DevMap::new();

    /// The interface that the generator sends out of.
    #[unsafe(no_mangle)]
    static LOAD_IFINDEX: Global<u32> = Global::new(0);

    /// The head of each frame: whole words, which are copied fast.
    #[unsafe(no_mangle)]
    static LOAD_HEAD: Global<Words> = Global::new([0; WORDS]);

    /// Each frame's number, as far as this mask lets it through, changes the last four bytes of
    /// its destination.
    #[unsafe(no_mangle)]
    static LOAD_SPREAD: Global<u32> = Global::new(0);

    const WORDS: usize = 3;

    type Words = [u64; WORDS];

    /// Makes a frame and sends it. `BPF_PROG_TEST_RUN` hands the same pages out again and again,
    /// and who received them may have changed their heads (a tag taken out), so that is written
    /// each time (`net/bpf/test_run.c`, `xdp_test_run_batch`).
    #[xdp(frags)]
    fn load_generator(ctx: XdpContext) -> u32 {
        let spread = LOAD_SPREAD.load();
        let number = if spread == 0 { 0 } else { next() & spread };
        let data = ctx.data();
        if data + size_of::<Words>() > ctx.data_end() {
            return XDP_ABORTED;
        }
        let mut head = LOAD_HEAD.load();
        head[0] ^= u64::from(number.to_be()) << 16;
        // SAFETY: the bytes were checked to be inside the frame; any alignment will do.
        unsafe { (data as *mut Words).write_unaligned(head) };
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_redirect(LOAD_IFINDEX.load(), 0) as u32 }
    }

    /// The number of a frame.
    #[inline(always)]
    fn next() -> u32 {
        let Some(made) = MADE.get_ptr_mut(0) else { return 0 };
        // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
        unsafe {
            *made = (*made).wrapping_add(1);
            *made
        }
    }

    /// Counts and drops, before an skb exists.
    #[xdp(frags)]
    fn load_drop(_ctx: XdpContext) -> u32 {
        count();
        XDP_DROP
    }

    /// A redirect through a devmap, and nothing else.
    #[xdp(frags)]
    fn load_redirect(_ctx: XdpContext) -> u32 {
        TX.redirect(0, 0).unwrap_or(XDP_ABORTED)
    }

    /// Counts and drops what has reached the stack of an interface.
    #[classifier]
    fn load_sink(_ctx: TcContext) -> i32 {
        count();
        TC_ACT_SHOT
    }

    /// Lets everything through and does nothing (`TCX_NEXT`): what it costs to be asked.
    #[classifier]
    fn load_pass(_ctx: TcContext) -> i32 {
        -1
    }

    #[inline(always)]
    fn count() {
        if let Some(count) = COUNT.get_ptr_mut(0) {
            // SAFETY: the entry is this CPU's own, and a program is not interrupted by itself.
            unsafe { *count += 1 };
        }
    }
}
