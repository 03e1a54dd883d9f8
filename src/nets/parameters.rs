//! The trainable tensors of a model, stored in one flat buffer. An optimiser step, a moving average, a gradient norm
//! or a snapshot is then a few operations, regardless of the number of layers.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::tensor::{shape_text, shared};

/// Named leaf tensors. Layers hold shallow clones of them. After [`Parameters::pack`] all are views of one buffer, so
/// writing to the buffer changes every layer.
#[derive(Debug)]
pub struct Parameters {
    kind: Kind,
    device: Device,
    names: Vec<String>,
    tensors: Vec<Tensor>,
    flat: Option<Tensor>,
}

impl Parameters {
    pub fn new(kind: Kind, device: Device) -> Self {
        Parameters { kind, device, names: Vec::new(), tensors: Vec::new(), flat: None }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Registers a parameter and returns the leaf tensor for the layer to keep. Must be called before [`Self::pack`].
    pub fn add(&mut self, name: impl Into<String>, initial: Tensor) -> Tensor {
        debug_assert!(self.flat.is_none(), "parameters are added before packing");
        let leaf = initial.to_kind(self.kind).to_device(self.device).detach().copy().set_requires_grad(true);
        self.names.push(name.into());
        self.tensors.push(leaf.shallow_clone());
        leaf
    }

    /// Registers the parameters of another model, whose layers then use this buffer. Must be called before
    /// [`Self::pack`].
    pub fn adopt(&mut self, prefix: &str, other: &Parameters) {
        debug_assert!(self.flat.is_none(), "parameters are added before packing");
        self.names.extend(other.names.iter().map(|name| format!("{prefix}{name}")));
        self.tensors.extend(other.tensors.iter().map(Tensor::shallow_clone));
    }

    /// Moves every parameter into one contiguous buffer.
    pub fn pack(&mut self) {
        let flat = tch::no_grad(|| {
            let pieces: Vec<Tensor> =
                self.tensors.iter().map(|tensor| tensor.detach().reshape([-1])).collect();
            match pieces.is_empty() {
                true => Tensor::zeros([0], (self.kind, self.device)),
                false => Tensor::cat(&pieces, 0),
            }
        });
        let mut offset = 0;
        for tensor in &mut self.tensors {
            let length = tensor.numel() as i64;
            let view = flat.narrow(0, offset, length).view(tensor.size().as_slice());
            tensor.set_data(&view);
            offset += length;
        }
        self.flat = Some(flat);
    }

    /// The buffer itself. Writing to it in place changes the parameters.
    ///
    /// # Errors
    /// An internal error before [`Self::pack`].
    pub fn flat(&self) -> Result<Tensor> {
        match &self.flat {
            Some(flat) => Ok(flat.shallow_clone()),
            None => Err(Error::Internal(anyhow::anyhow!("parameters were used before they were packed"))),
        }
    }

    /// A number that grows whenever a parameter is written, through the buffer or through the tensor of a layer.
    /// Values computed from the parameters at another version are stale. libtorch counts the writes.
    pub fn version(&self) -> i64 {
        self.tensors.iter().chain(&self.flat).map(Tensor::internal_version).sum()
    }

    /// Runs `work` while the parameters have the given values `[count]`, and restores them afterwards.
    ///
    /// # Errors
    /// Errors of `work`, after which the parameters are restored too.
    pub fn with<T>(&self, values: &Tensor, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut flat = self.flat()?;
        let own = flat.copy();
        tch::no_grad(|| flat.f_copy_(values))?;
        let outcome = work();
        tch::no_grad(|| flat.f_copy_(&own))?;
        outcome
    }

    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The number of trainable values.
    pub fn count(&self) -> i64 {
        self.tensors.iter().map(|tensor| tensor.numel() as i64).sum()
    }

    /// The number of trainable values of the parameters that a test on names chooses.
    pub fn count_of(&self, chosen: impl Fn(&str) -> bool) -> i64 {
        let own = self.names.iter().zip(&self.tensors).filter(|(name, _)| chosen(name));
        own.map(|(_, tensor)| tensor.numel() as i64).sum()
    }

    /// The gradient of a scalar loss as a flat tensor `[count]`. It is zero for parameters that the loss does not
    /// depend on.
    pub fn gradient(&self, loss: &Tensor) -> Result<Tensor> {
        let gradients = Tensor::f_run_backward(&[loss], &self.tensors, false, false)?;
        let pieces: Vec<Tensor> = gradients
            .iter()
            .zip(&self.tensors)
            .map(|(gradient, tensor)| match gradient.defined() {
                true => gradient.reshape([-1]),
                false => Tensor::zeros([tensor.numel() as i64], (self.kind, self.device)),
            })
            .collect();
        Ok(Tensor::f_cat(&pieces, 0)?)
    }

    /// One number for each value of the buffer, chosen by the name of its parameter, `[count]`.
    pub fn multipliers(&self, of: impl Fn(&str) -> f64) -> Result<Tensor> {
        let options = (self.kind, self.device);
        let pieces: Vec<Tensor> = self
            .names
            .iter()
            .zip(&self.tensors)
            .map(|(name, tensor)| Ok(Tensor::f_full([tensor.numel() as i64], of(name), options)?))
            .collect::<Result<_>>()?;
        Ok(Tensor::f_cat(&pieces, 0)?)
    }

    /// Copies of the parameters for a file, with their names.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.names.iter().cloned().zip(self.tensors.iter().map(|tensor| tensor.detach().copy())).collect()
    }

    /// Overwrites the parameters with tensors of the same names and shapes, taken from `take`.
    ///
    /// # Errors
    /// The error of `take` for a missing name; [`Error::Shape`] for a shape that does not fit.
    pub fn restore(&mut self, mut take: impl FnMut(&str) -> Result<Tensor>) -> Result<()> {
        for (name, tensor) in self.names.iter().zip(&mut self.tensors) {
            let stored = take(name)?;
            if stored.size() != tensor.size() {
                return Err(Error::shape(name, shape_text(&tensor.size()), shape_text(&stored.size())));
            }
            tch::no_grad(|| tensor.f_copy_(&stored))?;
        }
        Ok(())
    }
}

shared!(Parameters { tensors, flat; kind, device, names });
