//! Students whose U-Nets begin as the teacher's.

use tch::Tensor;

use crate::condition::Conditioning;
use crate::error::{Error, Result};
use crate::koopman::{Basis, Student};
use crate::nets::InputCoordinates;
use crate::velocity::{FieldDescription, VelocityField};

/// Prefixes of a student's parameters that belong to a U-Net, or to half of one.
const PLACES: [&str; 3] = ["forward.", "backward.", "readout."];
/// What a decoder adds to its embedding of time.
const EMBEDDED: &str = "readout.time_embed.2.bias";

/// Share of its usual eigenvalues that a hierarchy's generator begins with. A decoder that was the teacher's knows maps as
/// the encoder gives them: turned by whole radians from noise to data, they would be strangers to it.
const AT_REST: f64 = 0.05;

/// Copies the weights of the teacher's U-Net to those of the student's parts that have the same name and shape: all
/// of them but a last layer of another width. A decoder knows no condition, and gets the mean of all classes' or none;
/// the generator that joins it to the encoder begins nearly at rest.
///
/// # Errors
/// [`Error::Argument`] naming `warm_start` where the teacher is no native U-Net, or one of another architecture.
pub fn begin_as(student: &mut Student, teacher: &dyn VelocityField) -> Result<()> {
    let wrong = |got: String| {
        let expected = "a native teacher by a U-Net of the student's architecture";
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
        return Err(wrong(format!("one of {}", serde_json::to_string(&unet).unwrap_or_default())));
    }
    let theirs = |name: &str| -> Option<&Tensor> {
        let own = PLACES.iter().find_map(|place| name.strip_prefix(place))?;
        let found = state.tensors.iter().find(|(theirs, _)| theirs.strip_prefix("network.") == Some(own));
        found.map(|(_, tensor)| tensor)
    };
    if !scaled {
        // It saw its images as they are.
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
