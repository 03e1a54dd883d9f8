//! Loops that are compiled twice: for any processor, and for processors with wide registers (AVX2 and FMA).

/// Calls `$kernel::<true>` with wide registers where the processor has them, and `$kernel::<false>` elsewhere.
macro_rules! on_this_processor {
    ($kernel:ident($($argument:ident: $kind:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            unsafe fn wide($($argument: $kind),*) {
                $kernel::<true>($($argument),*);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor supports both features.
                return unsafe { wide($($argument),*) };
            }
        }
        $kernel::<false>($($argument),*);
    }};
}

pub(crate) use on_this_processor;
