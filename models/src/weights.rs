//! `weights.safetensors`, read strictly: every tensor that an architecture names is there in its shape, and no other.
//!
//! A mistake names the tensor and both shapes. NaN and infinite weights are refused. The order in the file does not matter.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::load::LoadError;

/// Names told when one is missing.
const NAMES_TOLD: usize = 8;

/// The tensors of one file that nobody has taken yet.
pub struct Weights<'a> {
    file: &'a str,
    tensors: BTreeMap<String, TensorView<'a>>,
}

impl<'a> Weights<'a> {
    /// Reads the head of `bytes`; `file` names it in errors.
    pub fn read(bytes: Option<&'a [u8]>, file: &'a str) -> Result<Self, LoadError> {
        let whole = |reason: String| refuse(file, "file", reason);
        let bytes = bytes.ok_or_else(|| whole("is missing".to_owned()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| whole(error.to_string()))?;
        Ok(Self {
            file,
            tensors: tensors.tensors().into_iter().collect(),
        })
    }

    /// The shape of a tensor not yet taken.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(TensorView::shape)
    }

    /// A tensor of finite f32 in exactly this shape, flat.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let tensor = self.take_any(name)?;
        if tensor.dtype() != Dtype::F32 {
            return Err(self.refuse(name, format!("expected F32, got {:?}", tensor.dtype())));
        }
        self.check_shape(name, &tensor, shape)?;
        let values: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes(four.try_into().expect("chunks of four")))
            .collect();
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.refuse(name, format!("value {at} is {}", values[at]))),
            None => Ok(values),
        }
    }

    /// A list of whole numbers, of any integer type or bool; `len` of them where it is said.
    pub fn take_integers(&mut self, name: &str, len: Option<usize>) -> Result<Vec<i64>, LoadError> {
        let tensor = self.take_any(name)?;
        let len = len.unwrap_or_else(|| tensor.shape().first().copied().unwrap_or(0));
        self.check_shape(name, &tensor, &[len])?;
        let data = tensor.data();
        macro_rules! integers {
            ($type:ty) => {
                data.chunks_exact(size_of::<$type>())
                    .map(|bytes| {
                        <$type>::from_le_bytes(bytes.try_into().expect("chunks of its size")) as i64
                    })
                    .collect()
            };
        }
        Ok(match tensor.dtype() {
            Dtype::BOOL | Dtype::U8 => integers!(u8),
            Dtype::I8 => integers!(i8),
            Dtype::I16 => integers!(i16),
            Dtype::U16 => integers!(u16),
            Dtype::I32 => integers!(i32),
            Dtype::U32 => integers!(u32),
            Dtype::I64 => integers!(i64),
            // Beyond 2^63 they wrap: numpy's -1, made unsigned, is -1 again.
            Dtype::U64 => integers!(u64),
            other => {
                return Err(self.refuse(name, format!("expected integers, got {other:?}")));
            }
        })
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<(), LoadError> {
        match self.tensors.keys().next() {
            Some(name) => Err(self.refuse(name, "is not a tensor of this architecture".to_owned())),
            None => Ok(()),
        }
    }

    /// An error about one tensor of this file.
    pub fn refuse(&self, tensor: &str, reason: String) -> LoadError {
        refuse(self.file, tensor, reason)
    }

    fn take_any(&mut self, name: &str) -> Result<TensorView<'a>, LoadError> {
        self.tensors.remove(name).ok_or_else(|| {
            let left: Vec<_> = self
                .tensors
                .keys()
                .take(NAMES_TOLD)
                .map(String::as_str)
                .collect();
            let left = match left.as_slice() {
                [] => "nothing else".to_owned(),
                names => names.join(", "),
            };
            self.refuse(
                name,
                format!("is missing; what is left in the file: {left}"),
            )
        })
    }

    fn check_shape(
        &self,
        name: &str,
        tensor: &TensorView<'_>,
        shape: &[usize],
    ) -> Result<(), LoadError> {
        if tensor.shape() == shape {
            return Ok(());
        }
        let reason = format!("expected shape {shape:?}, got {:?}", tensor.shape());
        Err(self.refuse(name, reason))
    }
}

fn refuse(file: &str, tensor: &str, reason: String) -> LoadError {
    LoadError::Weights {
        file: file.to_owned(),
        tensor: tensor.to_owned(),
        reason,
    }
}
