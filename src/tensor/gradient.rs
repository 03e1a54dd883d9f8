//! Gradients of our own: a tensor that was computed outside libtorch's graph, as a node of it. tch has no way to say
//! so, hence the C++ beside this file.

use std::ffi::{c_char, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::{Error, Result};

/// From the saved tensors and the gradient of the output to a gradient for each input.
type Backward = Box<dyn Fn(&[Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync>;

extern "C" {
    fn koopflow_with_gradient(
        output: *const C_tensor,
        inputs: *const *const C_tensor,
        input_count: usize,
        saved: *const *const C_tensor,
        saved_count: usize,
        state: *mut c_void,
        backward: unsafe extern "C" fn(
            *const c_void,
            *const *mut C_tensor,
            usize,
            *mut C_tensor,
            *mut *mut C_tensor,
        ) -> bool,
        release: unsafe extern "C" fn(*mut c_void),
        message: *mut *mut c_char,
    ) -> *mut C_tensor;
    fn free(memory: *mut c_void);
}

/// `output`, computed from `inputs` without a graph, with a gradient: `backward` answers one for each input, from
/// `saved` and the gradient of the output. Inputs may be among the saved. It runs on the thread that goes backwards,
/// with gradients on where somebody asks for a graph of the gradient itself.
///
/// # Errors
/// Whatever libtorch refuses. An error or a panic in `backward` is one of the backward pass.
pub fn with_gradient(
    output: &Tensor,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    backward: impl Fn(&[Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static,
) -> Result<Tensor> {
    let pointers = |tensors: &[&Tensor]| tensors.iter().map(|tensor| tensor.as_ptr()).collect::<Vec<_>>();
    let (inputs, saved) = (pointers(inputs), pointers(saved));
    let boxed: Backward = Box::new(backward);
    let state = Box::into_raw(Box::new(boxed)).cast::<c_void>();
    let mut message = std::ptr::null_mut();
    // SAFETY: all pointers are of tensors and arrays that live through the call, which copies what it keeps;
    // `state` is released by `release` alone, once.
    let made = unsafe {
        koopflow_with_gradient(
            output.as_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            saved.as_ptr(),
            saved.len(),
            state,
            call,
            release,
            &mut message,
        )
    };
    if made.is_null() {
        // SAFETY: a null answer comes with a message of `strdup`.
        let text = unsafe {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            free(message.cast());
            text
        };
        return Err(Error::Internal(anyhow::anyhow!(text)));
    }
    // SAFETY: a new tensor, which is ours.
    Ok(unsafe { Tensor::from_ptr(made) })
}

/// What the graph calls.
///
/// # Safety
/// `state` is a `Box<Backward>`; `saved` and `gradient` are tensors handed over; `found` has room for the inputs.
unsafe extern "C" fn call(
    state: *const c_void,
    saved: *const *mut C_tensor,
    count: usize,
    gradient: *mut C_tensor,
    found: *mut *mut C_tensor,
) -> bool {
    let backward = &*state.cast::<Backward>();
    let saved: Vec<Tensor> = (0..count).map(|place| Tensor::from_ptr(*saved.add(place))).collect();
    let gradient = Tensor::from_ptr(gradient);
    let Ok(Ok(gradients)) = catch_unwind(AssertUnwindSafe(|| backward(&saved, &gradient))) else {
        return false;
    };
    for (place, gradient) in gradients.into_iter().enumerate() {
        let mut gradient = std::mem::ManuallyDrop::new(gradient);
        *found.add(place) = gradient.as_mut_ptr();
    }
    true
}

/// # Safety
/// `state` is a `Box<Backward>` that nobody uses any more.
unsafe extern "C" fn release(state: *mut c_void) {
    drop(Box::from_raw(state.cast::<Backward>()));
}
