//! Custom gradients: tensors that were computed outside libtorch's graph become a node of that graph. tch has
//! no interface for this, so the node is written in C++ (`gradient.cpp`).

use std::ffi::{c_char, c_void, CStr, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::{Error, Result};

/// Computes a gradient for each input from the saved tensors and the gradients of the outputs.
type Backward = Box<dyn Fn(&[Tensor], &[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

type Call = unsafe extern "C" fn(
    *const c_void,
    *const *mut C_tensor,
    usize,
    *const *mut C_tensor,
    usize,
    *mut *mut C_tensor,
) -> *mut c_char;

extern "C" {
    fn koopflow_with_gradient(
        outputs: *const *const C_tensor,
        output_count: usize,
        inputs: *const *const C_tensor,
        input_count: usize,
        saved: *const *const C_tensor,
        saved_count: usize,
        state: *mut c_void,
        backward: Call,
        release: unsafe extern "C" fn(*mut c_void),
        made: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn free(memory: *mut c_void);
    fn strdup(text: *const c_char) -> *mut c_char;
}

/// Attaches a gradient to `outputs`, which were computed from `inputs` without a graph. `backward` receives
/// `saved` and the gradients of the outputs, and returns one gradient for each input. Inputs may be among the
/// saved tensors. `backward` runs on the thread of the backward pass. It records operations if the caller
/// wants a graph of the gradient itself.
///
/// # Errors
/// Any error of libtorch. An error or a panic in `backward` becomes an error of the backward pass, with its
/// message.
pub fn with_gradient<const N: usize>(
    outputs: [&Tensor; N],
    inputs: &[&Tensor],
    saved: &[&Tensor],
    backward: impl Fn(&[Tensor], &[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
) -> Result<[Tensor; N]> {
    let pointers = |tensors: &[&Tensor]| tensors.iter().map(|tensor| tensor.as_ptr()).collect::<Vec<_>>();
    let (given, inputs, saved) = (pointers(&outputs), pointers(inputs), pointers(saved));
    let boxed: Backward = Box::new(backward);
    let state = Box::into_raw(Box::new(boxed)).cast::<c_void>();
    let mut made = [std::ptr::null_mut(); N];
    // SAFETY: all pointers belong to tensors and arrays that outlive the call, which copies what it keeps.
    // Only `release` frees `state`, and only once.
    let message = unsafe {
        koopflow_with_gradient(
            given.as_ptr(),
            N,
            inputs.as_ptr(),
            inputs.len(),
            saved.as_ptr(),
            saved.len(),
            state,
            call,
            release,
            made.as_mut_ptr(),
        )
    };
    if !message.is_null() {
        // SAFETY: `message` was allocated by `strdup`.
        let text = unsafe {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            free(message.cast());
            text
        };
        return Err(Error::Internal(anyhow::anyhow!(text)));
    }
    // SAFETY: the tensors are new and owned by this function.
    Ok(made.map(|tensor| unsafe { Tensor::from_ptr(tensor) }))
}

/// The callback that the graph calls in a backward pass.
///
/// # Safety
/// `state` is a `Box<Backward>`. `saved` and `gradients` are tensors whose ownership passes to this function.
/// `found` has room for one tensor per input.
unsafe extern "C" fn call(
    state: *const c_void,
    saved: *const *mut C_tensor,
    saved_count: usize,
    gradients: *const *mut C_tensor,
    gradient_count: usize,
    found: *mut *mut C_tensor,
) -> *mut c_char {
    let backward = &*state.cast::<Backward>();
    let taken = |tensors: *const *mut C_tensor, count: usize| -> Vec<Tensor> {
        (0..count).map(|place| Tensor::from_ptr(*tensors.add(place))).collect()
    };
    let (saved, gradients) = (taken(saved, saved_count), taken(gradients, gradient_count));
    let gradients = match catch_unwind(AssertUnwindSafe(|| backward(&saved, &gradients))) {
        Ok(Ok(gradients)) => gradients,
        Ok(Err(error)) => return message(&error.to_string()),
        Err(_) => return message("the backward function panicked"),
    };
    for (place, gradient) in gradients.into_iter().enumerate() {
        let mut gradient = std::mem::ManuallyDrop::new(gradient);
        *found.add(place) = gradient.as_mut_ptr();
    }
    std::ptr::null_mut()
}

/// A copy of `text` that C frees.
fn message(text: &str) -> *mut c_char {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: `text` is a string with a terminating zero.
    unsafe { strdup(text.as_ptr()) }
}

/// # Safety
/// `state` is a `Box<Backward>` that is no longer used.
unsafe extern "C" fn release(state: *mut c_void) {
    drop(Box::from_raw(state.cast::<Backward>()));
}

/// Gradients of a scalar `product` with respect to those inputs that require one, with a graph; undefined
/// tensors for the other inputs. For use in the `backward` function of [`with_gradient`]. The product is
/// computed from aliases of the inputs: it may contain the gradients of the outputs, which depend on the
/// inputs through the node that waits for this result.
pub(crate) fn gradients_of(
    inputs: &[&Tensor],
    product: impl FnOnce(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let aliases: Vec<Tensor> =
        inputs.iter().map(|input| input.f_view_as(input)).collect::<std::result::Result<_, _>>()?;
    let product = product(&aliases)?;
    let wanted: Vec<&Tensor> = aliases.iter().filter(|alias| alias.requires_grad()).collect();
    let mut found = Tensor::f_run_backward(&[product], &wanted, true, true)?.into_iter();
    let each = aliases.iter().map(|alias| match alias.requires_grad() {
        true => found.next().unwrap_or_else(Tensor::new),
        false => Tensor::new(),
    });
    Ok(each.collect())
}

/// Whether gradients are enabled on this thread.
pub(crate) fn is_grad_enabled() -> bool {
    // SAFETY: sets a thread-local flag and restores it.
    unsafe {
        let before = torch_sys::at_grad_set_enabled(0);
        torch_sys::at_grad_set_enabled(before);
        before != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_that_fails_says_why() {
        let x = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
        let attempt = |backward: fn() -> Result<Vec<Tensor>>| {
            let [y] = with_gradient([&(&x * 2.0).detach()], &[&x], &[], move |_, _| backward()).unwrap();
            Tensor::f_run_backward(&[y.sum(tch::Kind::Double)], &[&x], false, false).unwrap_err().to_string()
        };
        let text = attempt(|| Err(Error::argument("weights", "two of them", "three")));
        assert!(text.contains("two of them") && text.contains("three"), "{text}");
        assert!(attempt(|| panic!("a test's own")).contains("panicked"));
    }
}
