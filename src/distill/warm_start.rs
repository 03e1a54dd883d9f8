//! Warm starts: students whose U-Nets begin with the weights of the teacher's U-Net.

use tch::Tensor;

use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::koopman::{Basis, Student};
use crate::nets::InputCoordinates;
use crate::velocity::{skip_at, FieldDescription, NetworkFieldConfig, VelocityField};

/// Prefixes of a student's parameters that belong to a U-Net, or to half of one.
const PLACES: [&str; 3] = ["forward.", "backward.", "readout."];
/// Bias of a decoder's time embedding.
const EMBEDDED: &str = "readout.time_embed.2.bias";

/// Factor of the initial eigenvalues of a hierarchy's generator. The teacher's decoder expects feature maps
/// as the encoder computes them. With the usual eigenvalues the maps would turn by whole radians from noise
/// to data.
const AT_REST: f64 = 0.05;

/// Copies the weights of the teacher's U-Net to the student's parameters with the same name and shape. These
/// are all except a last layer of another width. A decoder takes no condition, so the mean of the class
/// embeddings, if there are classes, is added to its time embedding. The generator between encoder and
/// decoder begins with small eigenvalues. A student's skip around its U-Net is that of the teacher at the time at which
/// the lift encodes: none, or the linear prediction of a preconditioned teacher.
///
/// # Errors
/// [`Error::Argument`] naming `warm_start` if the teacher is not a native U-Net or has another architecture.
pub fn begin_as(student: &mut Student, teacher: &dyn VelocityField) -> Result<()> {
    let wrong = |got: String| {
        let expected = "a native teacher with a U-Net of the student's architecture";
        Error::argument("warm_start", expected, got)
    };
    let config = student.config().clone();
    let state = teacher.state().ok_or_else(|| wrong(format!("a '{}' teacher", teacher.kind_name())))?;
    let without = || wrong(format!("a '{}' teacher without a U-Net", teacher.kind_name()));
    let FieldDescription::Network(field) = &state.description else { return Err(without()) };
    let unet = field.unet.clone().ok_or_else(without)?;
    if config.unet.as_ref() != Some(&unet) {
        return Err(wrong(format!("a U-Net of {}", serde_json::to_string(&unet).unwrap_or_default())));
    }
    let theirs = |name: &str| -> Option<&Tensor> {
        let own = PLACES.iter().find_map(|place| name.strip_prefix(place))?;
        let found = state.tensors.iter().find(|(theirs, _)| theirs.strip_prefix("network.") == Some(own));
        found.map(|(_, tensor)| tensor)
    };
    if !field.scaled {
        // The teacher's inputs are not scaled.
        let table = config.table_times;
        let (kind, device) = (student.kind(), student.device());
        student.set_coordinates(InputCoordinates::identity_of_channels(
            &config.event_shape,
            table,
            kind,
            device,
        ));
    }
    let classes = theirs("readout.label_emb.weight")
        .filter(|_| matches!(config.conditioning, Conditioning::Labels { .. }));
    let mean_class = classes.map(|rows| rows.mean_dim(0, false, rows.kind()));
    let hierarchy = config.basis == Basis::Hierarchy;
    let own = student.named();
    let [at_noise, at_data] = [0.0, 1.0].map(|time| channel_skips(field, &state.tensors, time));
    let (at_noise, at_data) = (at_noise?, at_data?);
    student.restore(|name| {
        let current = own.iter().find(|(own, _)| own == name).map(|(_, tensor)| tensor);
        match (theirs(name), current) {
            (None, Some(current)) if hierarchy && name.starts_with("generator.") => Ok(current * AT_REST),
            (Some(bias), Some(_)) if name == EMBEDDED => {
                Ok(mean_class.as_ref().map_or(bias.shallow_clone(), |mean| bias + mean))
            }
            (Some(tensor), Some(current)) if tensor.size() == current.size() => Ok(tensor.shallow_clone()),
            (_, Some(current)) if name.ends_with(".skip") => {
                let skip = if name.starts_with("backward.") { &at_data } else { &at_noise };
                Ok(skip_like(current, skip.as_ref()))
            }
            (_, Some(current)) => Ok(current.shallow_clone()),
            (_, None) => Err(Error::Internal(anyhow::anyhow!("a parameter without a value: {name}"))),
        }
    })
}

/// The skip of each channel of a preconditioned teacher at one time, float64 `[C]`; `None` for other teachers.
fn channel_skips(
    field: &NetworkFieldConfig,
    tensors: &[(String, Tensor)],
    time: f64,
) -> Result<Option<Tensor>> {
    // All pixels of a channel have the same scales.
    let skip = skip_at(field, tensors, time)?;
    Ok(skip.map(|skip| skip.view([field.event_shape[0], -1]).select(1, 0)))
}

/// A skip `[outputs, inputs]` in the form of a student's own, `current`: zero without a skip of the teacher. An output
/// with another number of channels is not the teacher's, so the student keeps its own skip.
fn skip_like(current: &Tensor, skip: Option<&Tensor>) -> Tensor {
    match skip {
        None => current.zeros_like(),
        Some(skip) if current.size() == [skip.size()[0], skip.size()[0]] => {
            skip.diag(0).to_kind(current.kind()).to_device(current.device())
        }
        Some(_) => current.shallow_clone(),
    }
}
