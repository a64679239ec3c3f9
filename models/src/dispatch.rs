//! One source, a copy for each vector width: portable, AVX2 with FMA, and AVX-512. The machine chooses, once.
//!
//! A kernel is an always-inlined closure of `numerics`' arithmetic, so that each copy holds the same operations in the same order on
//! wider registers: the bits do not depend on the copy. It promises nothing about kernels that call what is not inlined.

use std::sync::atomic::{AtomicU8, Ordering};

/// A copy of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Width {
    Portable = 1,
    /// 8 floats, with the fused multiply-add.
    Avx2,
    /// 16 floats, and twice the registers.
    Avx512,
}

/// The widest copy of this machine; 0 until it was asked for.
static WIDEST: AtomicU8 = AtomicU8::new(0);

#[inline(always)]
fn width() -> Width {
    #[cfg(test)]
    if let Some(forced) = tests::FORCED.get() {
        return forced;
    }
    match WIDEST.load(Ordering::Relaxed) {
        3 => Width::Avx512,
        2 => Width::Avx2,
        1 => Width::Portable,
        _ => detect(),
    }
}

#[cold]
fn detect() -> Width {
    #[cfg(target_arch = "x86_64")]
    let widest = if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
        Width::Portable
    } else if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        // Not needed, but machines before it (2019) slow their clock down where the wide registers are used.
        && is_x86_feature_detected!("avx512vbmi")
    {
        Width::Avx512
    } else {
        Width::Avx2
    };
    #[cfg(not(target_arch = "x86_64"))]
    let widest = Width::Portable;
    WIDEST.store(widest as u8, Ordering::Relaxed);
    widest
}

/// Runs `work`, an always-inlined closure, in the widest copy that the machine can run.
#[inline(always)]
pub(crate) fn dispatch(work: impl FnOnce()) {
    match width() {
        // SAFETY: the features were seen on this machine.
        #[cfg(target_arch = "x86_64")]
        Width::Avx512 => unsafe { with_avx512(work) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Width::Avx2 => unsafe { with_avx2(work) },
        _ => work(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2(work: impl FnOnce()) {
    work();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")]
fn with_avx512(work: impl FnOnce()) {
    work();
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    thread_local! {
        pub(super) static FORCED: std::cell::Cell<Option<Width>> = const { std::cell::Cell::new(None) };
    }

    /// The copies that this machine can run.
    pub(crate) fn widths() -> impl Iterator<Item = Width> {
        let all = [Width::Portable, Width::Avx2, Width::Avx512];
        all.into_iter().filter(|width| *width <= detect())
    }

    /// Runs `work` in one copy on this thread; one of [`widths`].
    pub(crate) fn at<T>(width: Width, work: impl FnOnce() -> T) -> T {
        assert!(width <= detect(), "{width:?} on this machine");
        FORCED.set(Some(width));
        let result = work();
        FORCED.set(None);
        result
    }
}
