//! Modalities: raw thing to tensors of a fixed layout.

use std::fmt::Debug;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{OpenContext, Raw};
use crate::catalogue::plugin_family;
use crate::error::{Error, Result};
use crate::random::{Purpose, Seed, Stream};

/// Whether samples are prepared for training or evaluation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Augmented.
    Training,
    /// The same every time.
    Evaluation,
}

/// Kind of number a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floating point.
    F32,
    /// 64-bit integer.
    I64,
}

/// Shape of one tensor of a sample, without the batch dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLayout {
    /// Name, `value` for the only one.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// Kind of number.
    pub element: Element,
}

impl TensorLayout {
    /// The single f32 tensor `value` of most modalities.
    pub fn value(shape: &[i64]) -> Vec<Self> {
        vec![Self { name: "value".to_owned(), shape: shape.to_vec(), element: Element::F32 }]
    }

    /// Numbers a sample has in this tensor.
    pub fn len(&self) -> usize {
        let sides = self.shape.iter().map(|&side| usize::try_from(side).unwrap_or(0));
        sides.fold(1, usize::saturating_mul)
    }

    /// Whether the tensor holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One tensor of a sample, to be filled.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// 32-bit floating point.
    F32(&'a mut [f32]),
    /// 64-bit integer.
    I64(&'a mut [i64]),
}

/// Where a sample's tensors are written: one buffer for each tensor of the layout, in its order.
///
/// A decoder asks for every one of them. The memory is that of earlier samples: a buffer is cleared
/// when it is first asked for, unless the decoder promises to write all of it; so nothing of another
/// sample is ever left in one, and what a decoder makes does not depend on which worker it runs in.
#[derive(Debug)]
pub struct SampleBuffers<'a> {
    buffers: Vec<Buffer<'a>>,
    /// Which of them hold nothing of an earlier sample.
    own: Vec<bool>,
}

impl<'a> SampleBuffers<'a> {
    /// Lends these buffers, whatever they hold.
    pub fn new(buffers: Vec<Buffer<'a>>) -> Self {
        let own = vec![false; buffers.len()];
        Self { buffers, own }
    }

    /// The f32 tensor at `index` of the layout, all 0 when first asked for.
    ///
    /// # Errors
    /// [`Error::Bug`] when the layout says otherwise.
    pub fn f32(&mut self, index: usize) -> Result<&mut [f32]> {
        self.clear(index);
        self.f32_to_overwrite(index)
    }

    /// The f32 tensor at `index` of the layout with whatever it holds, for a decoder that writes
    /// all of it: clearing a large tensor takes as long as filling it.
    ///
    /// # Errors
    /// [`Error::Bug`] when the layout says otherwise.
    pub fn f32_to_overwrite(&mut self, index: usize) -> Result<&mut [f32]> {
        match self.buffers.get_mut(index) {
            Some(Buffer::F32(slice)) => {
                self.own[index] = true;
                Ok(slice)
            }
            _ => Err(Error::Bug(format!("tensor {index} of a modality is not f32"))),
        }
    }

    /// The i64 tensor at `index` of the layout, all 0 when first asked for.
    ///
    /// # Errors
    /// [`Error::Bug`] when the layout says otherwise.
    pub fn i64(&mut self, index: usize) -> Result<&mut [i64]> {
        self.clear(index);
        match self.buffers.get_mut(index) {
            Some(Buffer::I64(slice)) => Ok(slice),
            _ => Err(Error::Bug(format!("tensor {index} of a modality is not i64"))),
        }
    }

    /// Clears what nobody asked for.
    pub fn finish(mut self) {
        for index in 0..self.buffers.len() {
            self.clear(index);
        }
    }

    /// Fills a buffer with 0, unless it was asked for before.
    fn clear(&mut self, index: usize) {
        if self.own.get(index) == Some(&false) {
            match &mut self.buffers[index] {
                Buffer::F32(values) => values.fill(0.0),
                Buffer::I64(values) => values.fill(0),
            }
            self.own[index] = true;
        }
    }
}

/// Randomness of one sample in one epoch.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// Seed of the run.
    pub seed: Seed,
    /// Modality that draws.
    pub modality: &'a str,
    /// Epochs of training data drawn so far in the run; 0 in evaluation.
    pub epoch: u64,
    /// Identity of the sample, a hash of its name.
    pub sample: u64,
}

impl Draw<'_> {
    /// Draws of this modality alone, new in every epoch.
    pub fn own(&self) -> Stream {
        self.seed.stream(Purpose::Augmentation, self.modality, &[self.epoch, self.sample])
    }

    /// Draws that all modalities of the sample share, e.g. one crop for colour, depth and flow.
    pub fn shared(&self) -> Stream {
        self.seed.stream(Purpose::Augmentation, "", &[self.epoch, self.sample])
    }

    /// Draws that stay the same over the run: properties of the data, such as added noise.
    pub fn fixed(&self) -> Stream {
        self.seed.stream(Purpose::Synthesis, self.modality, &[self.sample])
    }
}

/// What decoding gives before anything is drawn: an array that can be kept on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Shape, e.g. `[height, width, 3]`.
    pub shape: Vec<usize>,
    /// The values, row by row.
    pub values: Values,
}

/// Values of a decoded array.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 8-bit values, such as pixels.
    U8(Vec<u8>),
    /// 32-bit floating point.
    F32(Vec<f32>),
}

/// A decoded array that lies elsewhere: in memory, or in a mapped file of the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodedView<'a> {
    /// Shape.
    pub shape: &'a [usize],
    /// The values.
    pub values: ValuesView<'a>,
}

/// Values of a [`DecodedView`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValuesView<'a> {
    /// 8-bit values.
    U8(&'a [u8]),
    /// 32-bit floating point.
    F32(&'a [f32]),
}

impl Decoded {
    /// Lends the array.
    pub fn view(&self) -> DecodedView<'_> {
        let values = match &self.values {
            Values::U8(values) => ValuesView::U8(values),
            Values::F32(values) => ValuesView::F32(values),
        };
        DecodedView { shape: &self.shape, values }
    }
}

impl<'a> DecodedView<'a> {
    /// The values as 8-bit ones.
    ///
    /// # Errors
    /// [`Error::Bug`] when they are of another kind.
    pub fn u8(&self) -> Result<&'a [u8]> {
        match self.values {
            ValuesView::U8(values) => Ok(values),
            ValuesView::F32(_) => Err(Error::Bug("a decoded array is not of u8".to_owned())),
        }
    }

    /// The values as 32-bit floating point.
    ///
    /// # Errors
    /// [`Error::Bug`] when they are of another kind.
    pub fn f32(&self) -> Result<&'a [f32]> {
        match self.values {
            ValuesView::F32(values) => Ok(values),
            ValuesView::U8(_) => Err(Error::Bug("a decoded array is not of f32".to_owned())),
        }
    }
}

/// The two halves of a modality whose expensive one does not depend on chance.
///
/// What [`Decode::decode`] gives is kept in the cache, under the recipe and the fingerprint of the
/// files; [`Decode::finish`] crops, augments and normalises it anew for every epoch.
pub trait Decode: Send + Sync {
    /// All of the configuration that `decode` depends on in `mode`, and a version number to raise
    /// whenever its values change, e.g. `rgb 1`.
    fn recipe(&self, mode: Mode) -> String;

    /// Decodes `raw`, a pure function of the files, the recipe and `mode`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    fn decode(&self, raw: &Raw<'_>, mode: Mode) -> Result<Decoded>;

    /// Makes the tensors of a sample from what `decode` gave.
    ///
    /// # Errors
    /// When the array does not fit.
    fn finish(
        &self,
        decoded: DecodedView<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()>;
}

/// Configuration of a modality.
#[typetag::serde(tag = "name")]
pub trait ModalityConfig: Debug + Send + Sync {
    /// Checks the options against each other and their ranges.
    ///
    /// # Errors
    /// Names the option, what was found and what was expected.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Builds the decoder.
    ///
    /// # Errors
    /// When an option is out of range or a file it names cannot be read.
    fn build(&self) -> Result<Box<dyn Modality>>;

    /// Files beside the data that decoding depends on, such as a vocabulary, as the options name
    /// them; a run records their SHA-256. There are none by default.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The option that swaps left and right of training samples, where that is switched on.
    ///
    /// A run is refused where it would turn classes of its dataset into others.
    fn mirrors(&self) -> Option<&'static str> {
        None
    }
}

/// Decodes samples; shared by the loader's workers, so it holds no tensors.
pub trait Modality: Send + Sync {
    /// Tensors of a sample.
    fn layout(&self) -> Vec<TensorLayout>;

    /// Takes up the files that the configuration names, such as a vocabulary, before the first
    /// `load`; there are none by default. Experiments are checked without them.
    ///
    /// # Errors
    /// Names the file that is missing or broken.
    fn open(&mut self, _context: &OpenContext) -> Result<()> {
        Ok(())
    }

    /// Decodes `raw` into `out`; a pure function of the other arguments.
    ///
    /// Takes the kinds of raw thing its datasets give, and files of its usual formats, in which
    /// `mie predict` gets samples that are of no dataset.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    fn load(
        &self,
        raw: &Raw<'_>,
        mode: Mode,
        draw: &Draw<'_>,
        out: &mut SampleBuffers<'_>,
    ) -> Result<()>;

    /// Its two halves, where it has them: what the first one gives is then cached. `load` must be
    /// the second one on what the first one gives.
    fn cacheable(&self) -> Option<&dyn Decode> {
        None
    }

    /// Value that stands for a sample without this modality; 0 in the main tensor by default.
    fn filler(&self) -> f64 {
        0.0
    }
}

plugin_family!(Modality, ModalityConfig);

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn nothing_of_an_earlier_sample_is_left_in_a_buffer() {
        let (mut values, mut ids, mut unused) = ([5.0_f32; 3], [7_i64; 2], [9.0_f32; 2]);
        let mut out = SampleBuffers::new(vec![
            Buffer::F32(&mut values),
            Buffer::I64(&mut ids),
            Buffer::F32(&mut unused),
        ]);
        out.f32(0).unwrap()[1] = 1.0;
        // What was written stays.
        assert_eq!(bits(out.f32(0).unwrap()), bits(&[0.0, 1.0, 0.0]));
        out.i64(1).unwrap()[0] = 4;
        assert!(out.f32(1).is_err() && out.i64(0).is_err() && out.f32(3).is_err());
        out.finish();
        assert_eq!((ids, bits(&unused)), ([4, 0], bits(&[0.0; 2])));
        let mut out = SampleBuffers::new(vec![Buffer::F32(&mut values)]);
        assert_eq!(bits(out.f32_to_overwrite(0).unwrap()), bits(&[0.0, 1.0, 0.0]));
    }

    #[test]
    fn the_length_of_an_absurd_shape_does_not_overflow() {
        let length = |shape: &[i64]| TensorLayout::value(shape)[0].len();
        assert_eq!(length(&[2, 3, 4]), 24);
        assert_eq!(length(&[]), 1);
        assert_eq!(length(&[5, 0]), 0);
        assert_eq!(length(&[i64::MAX, i64::MAX]), usize::MAX);
        assert_eq!(length(&[-1, 3]), 0);
    }
}
