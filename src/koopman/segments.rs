//! A chain of students, each for one segment of a flow's time.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::{Student, StudentConfig, StudentDescription};
use crate::error::{Error, Result};
use crate::store::{Stored, Tensors};
use crate::tensor::{shape_text, Share};

/// K students: the first leads from the source to `breaks[1]`, the last from `breaks[K - 1]` to the data.
/// Each treats its segment as a flow from 0 to 1.
pub struct Segments {
    students: Vec<Student>,
    /// K + 1 increasing times from 0 to 1.
    breaks: Vec<f64>,
}

impl Segments {
    /// # Errors
    /// [`Error::Argument`] or [`Error::Shape`] naming `breaks` or `students` if they do not match.
    pub fn new(students: Vec<Student>, breaks: Vec<f64>) -> Result<Self> {
        let rising = breaks.windows(2).all(|pair| pair[0] < pair[1]);
        let ends = breaks.first() == Some(&0.0) && breaks.last() == Some(&1.0);
        if !(rising && ends && breaks.len() == students.len() + 1) {
            let expected = format!("{} increasing times from 0 to 1", students.len() + 1);
            return Err(Error::argument("breaks", expected, format!("{breaks:?}")));
        }
        let first = students[0].config();
        for student in &students[1..] {
            let own = student.config();
            if own.event_shape != first.event_shape {
                let [expected, got] = [&first.event_shape, &own.event_shape].map(|shape| shape_text(shape));
                return Err(Error::shape("students", expected, got));
            }
            if own.conditioning != first.conditioning {
                let expected = format!("students with the same conditioning, {:?}", first.conditioning);
                return Err(Error::argument("students", expected, format!("{:?}", own.conditioning)));
            }
        }
        Ok(Segments { students, breaks })
    }

    pub fn students(&self) -> &[Student] {
        &self.students
    }

    pub fn breaks(&self) -> &[f64] {
        &self.breaks
    }

    /// The first student. All have the same event shape and conditioning.
    pub fn first(&self) -> &Student {
        &self.students[0]
    }

    /// Number of batched lift evaluations of all of them so far (NFE).
    pub fn evaluations(&self) -> u64 {
        self.students.iter().map(Student::evaluations).sum()
    }

    /// Index of the segment that a time belongs to, and the time within it, which runs from 0 to 1. Times
    /// before the first or after the last segment belong to that segment.
    pub fn place(&self, t: f64) -> (usize, f64) {
        let inner = &self.breaks[1..self.students.len()];
        let place = inner.iter().filter(|end| t > **end).count();
        let (from, to) = (self.breaks[place], self.breaks[place + 1]);
        (place, (t - from) / (to - from))
    }
}

impl Share for Segments {
    fn shallow_clone(&self) -> Self {
        Segments { students: self.students.shallow_clone(), breaks: self.breaks.clone() }
    }
}

/// Segments without their tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SegmentsDescription {
    pub students: Vec<StudentConfig>,
    pub breaks: Vec<f64>,
}

fn prefix(place: usize) -> String {
    format!("segments.{place}.")
}

impl Stored for Segments {
    const KIND: &'static str = "segments";
    type Description = SegmentsDescription;

    fn description(&self) -> Result<SegmentsDescription> {
        let students = self.students.iter().map(|student| student.config().clone()).collect();
        Ok(SegmentsDescription { students, breaks: self.breaks.clone() })
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let each = self.students.iter().enumerate().flat_map(|(place, student)| {
            let named = student.named().into_iter();
            named.map(move |(name, tensor)| (format!("{}{name}", prefix(place)), tensor))
        });
        Ok(each.collect())
    }

    fn rebuild(description: SegmentsDescription, tensors: &mut Tensors, device: Device) -> Result<Self> {
        let SegmentsDescription { students, breaks } = description;
        if students.is_empty() {
            return Err(Error::argument("students", "at least one", "none"));
        }
        let each = students.into_iter().enumerate();
        let students = each
            .map(|(place, config)| {
                let mut own = tensors.under(&prefix(place));
                let student = Student::rebuild(StudentDescription { config }, &mut own, device)?;
                own.finish()?;
                Ok(student)
            })
            .collect::<Result<_>>()?;
        Segments::new(students, breaks)
    }
}
