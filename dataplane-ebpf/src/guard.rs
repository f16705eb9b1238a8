//! `maclane_guard`, the program that sits on a macvlan child: it knows which child that is, and leads its
//! frames to the one program for all of them. An object of its own, because it is loaded once for each
//! child.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod licence;

/// For the host there is nothing to run: `cargo clippy --workspace` may look at it all the same.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod guard {
    use aya_ebpf::{
        Global,
        bindings::TC_ACT_SHOT,
        btf_maps::ProgramArray,
        macros::{btf_map, classifier},
        programs::TcContext,
    };
    use dataplane_common::{DropReason, mark::Guarded};

    use crate::count::{self, Size};

    /// Where every guard leads: `maclane_macvlan`, the daemon's newest. With a constant index the kernel
    /// makes a jump of the call (`kernel/bpf/arraymap.c`, `prog_array_map_poke_run`).
    #[btf_map(name = "maclane_guards")]
    static GUARDS: ProgramArray<1> = ProgramArray::new();

    /// The port of the child that this instance sits on; set when it is loaded.
    #[unsafe(no_mangle)]
    static GUARD_PORT: Global<u32> = Global::new(0);

    /// 1: what comes after it does not run.
    #[unsafe(no_mangle)]
    static GUARD_LAST: Global<u32> = Global::new(0);

    /// TC egress of a macvlan child.
    #[classifier]
    #[inline(always)]
    fn maclane_guard(ctx: TcContext) -> i32 {
        #[allow(clippy::cast_possible_truncation, reason = "a port is below 1,026")]
        let port = GUARD_PORT.load() as u16;
        let guarded = Guarded { port, last: GUARD_LAST.load() != 0 };
        // SAFETY: the program's context; nothing runs between here and who reads it.
        unsafe { (*ctx.skb.skb).cb[0] = guarded.encode() };
        // SAFETY: it holds no values that a jump would leave behind.
        unsafe { GUARDS.tail_call(&ctx, 0) };
        // Somebody has emptied the array, which the daemon fills before it attaches a guard.
        let size = Size::of_skb(ctx.skb.skb);
        count::rx(port, size);
        count::count_drop(DropReason::Refused, size);
        TC_ACT_SHOT
    }
}
