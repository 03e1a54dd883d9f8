//! Warm starts: students whose U-Nets begin with the weights of the teacher's U-Net.

use tch::Tensor;

use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::koopman::{Basis, Student};
use crate::nets::InputCoordinates;
use crate::velocity::{FieldDescription, VelocityField};

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
/// decoder begins with small eigenvalues.
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
    let (unet, scaled) = match &state.description {
        FieldDescription::Network(field) => (field.unet.clone(), field.scaled),
        _ => (None, false),
    };
    let unet = unet.ok_or_else(|| wrong(format!("a '{}' teacher without a U-Net", teacher.kind_name())))?;
    if config.unet.as_ref() != Some(&unet) {
        return Err(wrong(format!("a U-Net of {}", serde_json::to_string(&unet).unwrap_or_default())));
    }
    let theirs = |name: &str| -> Option<&Tensor> {
        let own = PLACES.iter().find_map(|place| name.strip_prefix(place))?;
        let found = state.tensors.iter().find(|(theirs, _)| theirs.strip_prefix("network.") == Some(own));
        found.map(|(_, tensor)| tensor)
    };
    if !scaled {
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
    student.restore(|name| {
        let current = own.iter().find(|(own, _)| own == name).map(|(_, tensor)| tensor);
        match (theirs(name), current) {
            (None, Some(current)) if hierarchy && name.starts_with("generator.") => Ok(current * AT_REST),
            (Some(bias), Some(_)) if name == EMBEDDED => {
                Ok(mean_class.as_ref().map_or(bias.shallow_clone(), |mean| bias + mean))
            }
            (Some(tensor), Some(current)) if tensor.size() == current.size() => Ok(tensor.shallow_clone()),
            // The teacher has no skip connection around its network.
            (_, Some(current)) if name.ends_with(".skip") => Ok(current.zeros_like()),
            (_, Some(current)) => Ok(current.shallow_clone()),
            (_, None) => Err(Error::Internal(anyhow::anyhow!("a parameter without a value: {name}"))),
        }
    })
}
