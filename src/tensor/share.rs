//! Shallow copies, which share their tensors.

use tch::Tensor;

/// A type whose shallow copies share its tensors: writing to one copy changes the other.
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

/// `shared!(Struct { shared fields; copied fields })` implements [`Share`] and `Struct::shallow_clone`.
macro_rules! shared {
    ($name:ident { $($field:ident),* $(; $($own:ident),*)? }) => {
        impl $name {
            /// A shallow copy: tensors are shared, not copied.
            pub fn shallow_clone(&self) -> Self {
                // Needed for fields that are an option, a vector or an array.
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
