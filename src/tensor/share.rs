//! Second handles on the same tensors.

use tch::Tensor;

/// What can be handed out a second time without a copy of its tensors: writing one handle writes the other.
pub trait Share {
    fn shallow_clone(&self) -> Self;
}

impl Share for Tensor {
    fn shallow_clone(&self) -> Self {
        Tensor::shallow_clone(self)
    }
}

impl<T: Share> Share for Option<T> {
    fn shallow_clone(&self) -> Self {
        self.as_ref().map(T::shallow_clone)
    }
}

impl<T: Share> Share for Vec<T> {
    fn shallow_clone(&self) -> Self {
        self.iter().map(T::shallow_clone).collect()
    }
}

impl<T: Share, const N: usize> Share for [T; N] {
    fn shallow_clone(&self) -> Self {
        self.each_ref().map(T::shallow_clone)
    }
}

/// `shared!(Struct { shared fields; copied fields })` writes `Struct::shallow_clone`.
macro_rules! shared {
    ($name:ident { $($field:ident),* $(; $($own:ident),*)? }) => {
        impl $name {
            /// A second handle: tensors are shared, not copied.
            pub fn shallow_clone(&self) -> Self {
                // For the fields in an option, a vector or an array.
                #[allow(unused_imports)]
                use $crate::tensor::Share as _;
                $name {
                    $($field: self.$field.shallow_clone(),)*
                    $($($own: Clone::clone(&self.$own),)*)?
                }
            }
        }

        impl $crate::tensor::Share for $name {
            fn shallow_clone(&self) -> Self {
                $name::shallow_clone(self)
            }
        }
    };
}
pub(crate) use shared;
