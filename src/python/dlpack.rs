//! Import and export of tensors as DLPack capsules (<https://dmlc.github.io/dlpack/latest/>). The unversioned
//! struct is used, because every torch version supports it. An import copies the data once, so that no pointer
//! can dangle. An export shares memory: the tensor stays alive until the capsule's deleter is called.

use std::ffi::{c_void, CStr};
use std::ptr;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::dtype_name;

#[repr(C)]
#[derive(Clone, Copy)]
struct DLDevice {
    device_type: i32,
    device_id: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DLDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DLTensor {
    data: *mut c_void,
    device: DLDevice,
    ndim: i32,
    dtype: DLDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DLManagedTensor {
    dl_tensor: DLTensor,
    manager_ctx: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

const CPU: i32 = 1;
const CUDA: i32 = 2;
const CUDA_HOST: i32 = 3;

const FRESH: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";

/// Everything that an exported capsule owns. Its deleter frees all of it together.
struct Export {
    managed: DLManagedTensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
    _tensor: Tensor,
}

/// A capsule that shares the memory of `tensor` (which must not require gradients).
pub fn export(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let device = match tensor.device() {
        Device::Cpu => DLDevice { device_type: CPU, device_id: 0 },
        Device::Cuda(index) => DLDevice { device_type: CUDA, device_id: index as i32 },
        other => {
            let message = format!("cannot export a tensor on {other:?}");
            return Err(Error::Device { argument: "result".into(), message }.into());
        }
    };
    let dtype = dtype_of(tensor.kind())?;
    let data = if tensor.numel() == 0 { ptr::null_mut() } else { tensor.data_ptr() };
    let mut owned = Box::new(Export {
        managed: DLManagedTensor {
            dl_tensor: DLTensor {
                data,
                device,
                ndim: tensor.dim() as i32,
                dtype,
                shape: ptr::null_mut(),
                strides: ptr::null_mut(),
                byte_offset: 0,
            },
            manager_ctx: ptr::null_mut(),
            deleter: Some(delete_export),
        },
        shape: tensor.size(),
        strides: tensor.stride(),
        _tensor: tensor,
    });
    // The buffers of the vectors do not move with the box, so these pointers stay valid.
    owned.managed.dl_tensor.shape = owned.shape.as_mut_ptr();
    owned.managed.dl_tensor.strides = owned.strides.as_mut_ptr();
    let raw = Box::into_raw(owned);
    // SAFETY: `raw` is a live box. The capsule takes ownership of it, or it is freed here.
    unsafe {
        (*raw).managed.manager_ctx = raw.cast();
        let managed = &raw mut (*raw).managed;
        let capsule = ffi::PyCapsule_New(managed.cast(), FRESH.as_ptr(), Some(drop_capsule));
        if capsule.is_null() {
            delete_export(managed);
            return Err(PyErr::fetch(py));
        }
        Ok(Bound::from_owned_ptr(py, capsule))
    }
}

/// Called by the consumer of the capsule, from any thread, with or without the interpreter lock.
unsafe extern "C" fn delete_export(managed: *mut DLManagedTensor) {
    // SAFETY: `manager_ctx` is the box that `export` leaked, and a deleter is called once.
    unsafe { drop(Box::from_raw((*managed).manager_ctx.cast::<Export>())) }
}

/// Frees the tensor of a capsule that was never consumed.
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this with a capsule made by `export`. A consumed capsule has another name.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, FRESH.as_ptr()) == 0 {
            return;
        }
        let managed = ffi::PyCapsule_GetPointer(capsule, FRESH.as_ptr()).cast::<DLManagedTensor>();
        if let Some(deleter) = managed.as_ref().and_then(|managed| managed.deleter) {
            deleter(managed);
        }
    }
}

/// A copy, on the same device, of the tensor that `capsule` describes. The capsule is consumed.
pub fn import(argument: &str, capsule: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    // SAFETY: the name guarantees that the pointer is a DLManagedTensor. By the protocol, renaming the capsule
    // transfers its ownership.
    let managed = unsafe {
        if ffi::PyCapsule_IsValid(capsule.as_ptr(), FRESH.as_ptr()) == 0 {
            return Err(PyBufferError::new_err(format!(
                "{argument}: expected a DLPack capsule that was not consumed yet"
            )));
        }
        let managed = ffi::PyCapsule_GetPointer(capsule.as_ptr(), FRESH.as_ptr()).cast::<DLManagedTensor>();
        if ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr()) != 0 {
            return Err(PyErr::fetch(capsule.py()));
        }
        Owned(managed)
    };
    // SAFETY: ownership of `managed` was transferred just now, and it lives until the end of this function.
    Ok(unsafe { copy(argument, &(*managed.0).dl_tensor) }?)
}

/// A consumed DLManagedTensor. Dropping it runs its producer's deleter.
struct Owned(*mut DLManagedTensor);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe {
            if let Some(deleter) = (*self.0).deleter {
                deleter(self.0);
            }
        }
    }
}

/// # Safety
/// `source` must describe memory that stays readable during the call.
unsafe fn copy(argument: &str, source: &DLTensor) -> Result<Tensor> {
    let kind = kind_of(argument, source.dtype)?;
    let device = match source.device.device_type {
        CPU | CUDA_HOST => Device::Cpu,
        CUDA => Device::Cuda(source.device.device_id as usize),
        other => {
            let message = format!("expected a CPU or CUDA array, got DLPack device type {other}");
            return Err(Error::Device { argument: argument.into(), message });
        }
    };
    let rank = source.ndim.max(0) as usize;
    if rank == 0 && !source.data.is_null() {
        // SAFETY: a tensor of rank 0 has one element, at `data`.
        return unsafe { copy_blob(source, &[], &[], kind, device) };
    }
    if source.shape.is_null() {
        return Err(Error::argument(argument, "a DLPack tensor with a shape", "a null pointer"));
    }
    // SAFETY: the protocol guarantees `ndim` entries.
    let shape = unsafe { std::slice::from_raw_parts(source.shape, rank) };
    if shape.iter().any(|&size| size < 0) {
        return Err(Error::argument(argument, "sizes of at least 0", format!("{shape:?}")));
    }
    if shape.contains(&0) {
        return Ok(Tensor::f_empty(shape, (kind, device))?);
    }
    if source.data.is_null() {
        return Err(Error::argument(argument, "a DLPack tensor with data", "a null pointer"));
    }
    // An absent `strides` means row-major, for libtorch as for DLPack.
    let strides = match source.strides.is_null() {
        true => &[],
        // SAFETY: the protocol guarantees `ndim` entries.
        false => unsafe { std::slice::from_raw_parts(source.strides, rank) },
    };
    if strides.iter().any(|&stride| stride < 0) {
        return Err(Error::argument(argument, "strides of at least 0", format!("{strides:?}")));
    }
    // SAFETY: the producer guarantees that shape and strides describe its memory.
    unsafe { copy_blob(source, shape, strides, kind, device) }
}

unsafe fn copy_blob(
    source: &DLTensor,
    shape: &[i64],
    strides: &[i64],
    kind: Kind,
    device: Device,
) -> Result<Tensor> {
    // SAFETY: the caller guarantees the memory, and the borrowed tensor does not outlive this call.
    unsafe {
        let start = source.data.cast::<u8>().add(source.byte_offset as usize);
        let borrowed = Tensor::f_from_blob(start, shape, strides, kind, device)?;
        let mut copied = Tensor::f_empty(shape, (kind, device))?;
        copied.f_copy_(&borrowed)?;
        Ok(copied)
    }
}

const INT: u8 = 0;
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;
const BOOL: u8 = 6;

const DTYPES: [(Kind, u8, u8); 10] = [
    (Kind::Float, FLOAT, 32),
    (Kind::Double, FLOAT, 64),
    (Kind::Half, FLOAT, 16),
    (Kind::BFloat16, BFLOAT, 16),
    (Kind::Int64, INT, 64),
    (Kind::Int, INT, 32),
    (Kind::Int16, INT, 16),
    (Kind::Int8, INT, 8),
    (Kind::Uint8, UINT, 8),
    (Kind::Bool, BOOL, 8),
];

fn dtype_of(kind: Kind) -> Result<DLDataType> {
    let found = DTYPES.iter().find(|entry| entry.0 == kind);
    let unknown = || Error::dtype("result", "an integer, float or bool tensor", dtype_name(kind));
    found.map(|&(_, code, bits)| DLDataType { code, bits, lanes: 1 }).ok_or_else(unknown)
}

fn kind_of(argument: &str, dtype: DLDataType) -> Result<Kind> {
    let DLDataType { code, bits, lanes } = dtype;
    let found = DTYPES.iter().find(|entry| lanes == 1 && entry.1 == code && entry.2 == bits);
    let unknown = || {
        let got = format!("DLPack type code {code} with {bits} bits and {lanes} lanes");
        Error::dtype(argument, "an integer, float or bool array", got)
    };
    found.map(|entry| entry.0).ok_or_else(unknown)
}
