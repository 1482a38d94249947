//! Optical flow of folders of frames, as arrays or pictures.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use mie_core::prelude::*;

use super::picture;
use super::tvl1::{self, Tvl1Options};

/// Finds the flow from each frame of a folder to the next, by TV-L1.
///
/// Frames are the JPEGs and PNGs of the folder in order of their names, all of one size; colours
/// become grey as `OpenCV` makes it (ITU-R BT.601).
#[derive(Debug, Clone, PartialEq)]
pub struct FlowFiles {
    /// What is made.
    pub form: FlowForm,
    /// Places of the frames taken, from 0; all of them when absent. The frame behind them is
    /// looked at, where there is one, for the flow of the last.
    pub span: Option<Range<usize>>,
    /// Settings of the flow.
    pub options: Tvl1Options,
    /// Where it is computed; a CUDA device takes many pairs at once.
    pub device: Device,
}

/// What flow is kept as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FlowForm {
    /// An array of 32-bit floats in the format of `NumPy`, `[height, width, 2, frames]`, in pixels
    /// to the right and downwards. The last frame of a folder, from which there is no flow, gets
    /// that of the one before, so that there is one for each frame.
    Npy,
    /// A folder with `flow_x` and `flow_y`, in them 8-bit grey JPEGs named after the frames. The
    /// last frame of a folder has none.
    ///
    /// ```text
    /// byte = round(127.5 cut(pixels, -b, b) / b + 127.5)        b = bound_pixels
    /// ```
    Pictures {
        /// Displacement of the bytes 0 and 255, in pixels, above 0; I3D has 20.
        bound_pixels: f64,
    },
}

/// Folders of the pictures.
const FOLDERS: [&str; 2] = ["flow_x", "flow_y"];

/// Quality of the pictures, from 1 to 100.
const QUALITY: u8 = 95;

/// Most bytes of an array; more are not read.
const LARGEST_BYTES: usize = 1 << 31;

/// Most pixels of a frame, of which the flow needs two gigabytes.
const MOST_PIXELS: usize = 1 << 22;

/// Pixels of the pairs that a CUDA device takes at once; they need about a gigabyte.
const PIXELS_AT_ONCE: usize = 1 << 21;

impl Preparer for FlowFiles {
    fn name(&self) -> String {
        let form = match self.form {
            FlowForm::Npy => "an array".to_owned(),
            FlowForm::Pictures { bound_pixels } => format!("pictures of {bound_pixels} pixels"),
        };
        let span = self.span.as_ref().map_or_else(|| "all".to_owned(), |span| format!("{span:?}"));
        let Self { options, device, .. } = self;
        format!("flow as {form} of frames {span} by {options:?} on {device:?}")
    }

    fn ready(&self) -> Result<()> {
        if let FlowForm::Pictures { bound_pixels: bound } = self.form {
            ensure_range("bound_pixels", "(0, inf)", bound, bound > 0.0 && bound.is_finite())?;
        }
        if matches!(self.device, Device::Cuda(_)) && !tch::Cuda::is_available() {
            return Err(Error::refused(
                "flow is to be computed by CUDA, and no such device is there",
                "compute it on the CPU",
            ));
        }
        Ok(())
    }

    fn make(&self, source: &Path, target: &Path) -> Result<()> {
        self.ready()?;
        let files = frames(source)?;
        let all = 0..files.len();
        let span = self.span.as_ref().unwrap_or(&all);
        if span.is_empty() || span.end > files.len() {
            let problem = format!("has {} frames, none or not all of {span:?}", files.len());
            return Err(Error::data(source, problem));
        }
        let files = &files[span.start..(span.end + 1).min(files.len())];
        if files.len() < 2 {
            return Err(Error::data(source, "has one frame and none behind it, flow needs two"));
        }
        match self.form {
            FlowForm::Npy => self.array(source, files, span.len(), target),
            FlowForm::Pictures { bound_pixels } => self.pictures(files, bound_pixels, target),
        }
    }
}

impl FlowFiles {
    /// Writes an array with the flow of so many frames.
    fn array(&self, source: &Path, files: &[PathBuf], frames: usize, target: &Path) -> Result<()> {
        let mut flows = Vec::new();
        self.each(files, |place, flow| {
            let bytes = flow.numel().saturating_mul(frames).saturating_mul(size_of::<f32>());
            if place == 0 && bytes > LARGEST_BYTES {
                let size = &flow.size()[1..];
                let problem = format!(
                    "has {frames} frames of {size:?}, of which the flow has {bytes} bytes; an \
                     array has at most {LARGEST_BYTES}: make pictures, or take fewer frames"
                );
                return Err(Error::data(source, problem));
            }
            flows.push(flow);
            Ok(())
        })?;
        if flows.len() < frames {
            let last = flows.last().map(Tensor::shallow_clone);
            flows.extend(last);
        }
        let array = Tensor::f_stack(&flows, -1)?.f_permute([1, 2, 0, 3])?;
        write_array(target, &array)
    }

    /// Writes two pictures for each frame but the last.
    fn pictures(&self, files: &[PathBuf], bound: f64, target: &Path) -> Result<()> {
        let folders = FOLDERS.map(|name| target.join(name));
        for folder in &folders {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        self.each(files, |place, flow| {
            let (_, height, width) = flow.size3()?;
            let name = files[place].with_extension("jpg");
            let name = name.file_name().unwrap_or_default();
            for (channel, folder) in (0..).zip(&folders) {
                let values = Vec::<f32>::try_from(flow.f_select(0, channel)?.f_reshape([-1])?)?;
                let bytes: Vec<u8> = values.iter().map(|&value| byte(value, bound)).collect();
                let file = folder.join(name);
                let mut content = Vec::new();
                JpegEncoder::new_with_quality(&mut content, QUALITY)
                    .encode(&bytes, width as u32, height as u32, ExtendedColorType::L8)
                    .map_err(|problem| Error::data(&file, format!("cannot be made: {problem}")))?;
                std::fs::write(&file, content).map_err(Error::io("write", &file))?;
            }
            Ok(())
        })
    }

    /// Gives `take` the flow from each file to the next in order, `[2, height, width]` on the CPU.
    fn each(
        &self,
        files: &[PathBuf],
        mut take: impl FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let [first, others @ ..] = files else { return Ok(()) };
        let (size, mut pixels) = grey(first)?;
        if pixels.len() > MOST_PIXELS {
            let problem = format!("has {size:?} rows and columns, at most 2^22 pixels are taken");
            return Err(Error::data(first, problem));
        }
        // A CPU is not faster with more: what has settled is computed until the last one has.
        let at_once = match self.device {
            Device::Cpu => 1,
            _ => (PIXELS_AT_ONCE / pixels.len().max(1)).max(1),
        };
        let mut place = 0;
        for files in others.chunks(at_once) {
            let mut last = Vec::new();
            for file in files {
                let (found, frame) = grey(file)?;
                if found != size {
                    let first = first.display();
                    let problem = format!("has {found:?} rows and columns, {first} has {size:?}");
                    return Err(Error::data(file, problem));
                }
                pixels.extend_from_slice(&frame);
                last = frame;
            }
            let pairs = files.len() as i64;
            let shape = [pairs + 1, size[0] as i64, size[1] as i64];
            let frames = Tensor::f_from_slice(&pixels)?.f_reshape(shape)?.f_to(self.device)?;
            let (from, to) = (frames.f_narrow(0, 0, pairs)?, frames.f_narrow(0, 1, pairs)?);
            let flow = tvl1::flow(&from, &to, &self.options)?.f_to(Device::Cpu)?;
            for pair in 0..pairs {
                take(place, flow.f_select(0, pair)?)?;
                place += 1;
            }
            pixels = last;
        }
        Ok(())
    }
}

/// The JPEGs and PNGs of a folder in order of their names; hidden ones are left out.
fn frames(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let name = entry.map_err(Error::io("list", folder))?.file_name();
        let ending = Path::new(&name).extension().unwrap_or_default();
        let is_picture = ["jpg", "jpeg", "png"].iter().any(|it| ending.eq_ignore_ascii_case(it));
        if is_picture && !name.as_encoded_bytes().starts_with(b".") {
            files.push(folder.join(name));
        }
    }
    files.sort();
    let twice = files.windows(2).find(|pair| pair[0].file_stem() == pair[1].file_stem());
    if let Some([_, second]) = twice {
        return Err(Error::data(second, "is a second picture of this frame, expected one"));
    }
    Ok(files)
}

/// Rows and columns of a picture, and its luma (ITU-R BT.601), rounded as by `OpenCV`.
pub(super) fn grey(file: &Path) -> Result<([usize; 2], Vec<f32>)> {
    let picture = picture::rgb(file)?;
    let size = [picture.height() as usize, picture.width() as usize];
    let luma = |pixel: &image::Rgb<u8>| {
        let [red, green, blue] = pixel.0.map(u32::from);
        // 0.299, 0.587 and 0.114 in parts of 2^15.
        ((9_798 * red + 19_235 * green + 3_735 * blue + (1 << 14)) >> 15) as f32
    };
    Ok((size, picture.pixels().map(luma).collect()))
}

/// A displacement as a byte.
fn byte(pixels: f32, bound: f64) -> u8 {
    (f64::from(pixels).clamp(-bound, bound) / bound * 127.5 + 127.5).round_ties_even() as u8
}

/// Writes numbers to `target` in the format of `NumPy`, the last dimension fastest.
fn write_array(target: &Path, array: &Tensor) -> Result<()> {
    /// Bytes before the header.
    const START: usize = 10;
    let sizes: Vec<String> = array.size().iter().map(|size| format!("{size}, ")).collect();
    let sizes = sizes.concat();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}");
    // The numbers start at a multiple of 64 bytes, behind the end of a line.
    let width = (START + header.len() + 1).next_multiple_of(64) - START - 1;
    let length = (width + 1) as u16;
    let start = [&b"\x93NUMPY\x01\x00"[..], &length.to_le_bytes()].concat();
    let file = File::create(target).map_err(Error::io("create", target))?;
    let mut file = BufWriter::new(file);
    file.write_all(&start).map_err(Error::io("write", target))?;
    writeln!(file, "{header:<width$}").map_err(Error::io("write", target))?;
    // Row by row: the whole array in this order would be another copy of it.
    for row in 0..array.size()[0] {
        let values = Vec::<f32>::try_from(array.f_select(0, row)?.f_reshape([-1])?)?;
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        file.write_all(&bytes).map_err(Error::io("write", target))?;
    }
    file.flush().map_err(Error::io("write", target))
}

#[cfg(test)]
mod tests {
    use super::tvl1::fixture::{HEIGHT, WIDTH, shifted, tensor};
    use super::*;
    use crate::formats::{npy, real_data};

    const WHOLE: FlowFiles = FlowFiles {
        form: FlowForm::Npy,
        span: None,
        options: Tvl1Options::DEFAULT,
        device: Device::Cpu,
    };
    const PICTURES: FlowForm = FlowForm::Pictures { bound_pixels: 20.0 };

    /// A folder of so many frames that move by 0.8 to the right and 0.5 upwards each.
    fn moving(frames: u8) -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let mut pictures = Vec::new();
        for number in 0..frames {
            let picture = shifted([0.8 * f64::from(number), -0.5 * f64::from(number)]);
            save(&folder.path().join(format!("0000{number}.png")), WIDTH, picture.clone());
            pictures.push(picture);
        }
        std::fs::write(folder.path().join("._00001.png"), "").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        (folder, pictures)
    }

    fn save(file: &Path, width: usize, pixels: Vec<u8>) {
        let height = pixels.len() / width;
        image::GrayImage::from_raw(width as u32, height as u32, pixels)
            .unwrap()
            .save(file)
            .unwrap();
    }

    /// The flow of a pair, to the right and then downwards.
    fn flow(first: &[u8], second: &[u8]) -> Vec<f32> {
        let found = tvl1::flow(&tensor(first), &tensor(second), &WHOLE.options).unwrap();
        Vec::try_from(found.reshape([-1])).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = frames(folder).unwrap().into_iter();
        names.map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn an_array_holds_the_flow_of_each_frame_and_that_of_the_last_twice() {
        let (folder, pictures) = moving(3);
        let target = folder.path().join("flow.npy");
        WHOLE.make(folder.path(), &target).unwrap();
        let array = npy::read(&target).unwrap();
        assert_eq!(array.shape, [HEIGHT, WIDTH, 2, 3]);
        let expected: Vec<_> = pictures.windows(2).map(|pair| flow(&pair[0], &pair[1])).collect();
        for (at, value) in array.values.iter().enumerate() {
            let (pixel, channel, frame) = (at / 6, at / 3 % 2, at % 3);
            let expected = expected[frame.min(1)][channel * HEIGHT * WIDTH + pixel];
            assert_eq!(value.to_bits(), expected.to_bits(), "{pixel} {channel} {frame}");
        }
        let middle = &array.values[(HEIGHT / 2 * WIDTH + WIDTH / 2) * 6..][..6];
        assert!((middle[0] - 0.8).abs() < 0.1 && (middle[3] + 0.5).abs() < 0.1, "{middle:?}");
        let content = std::fs::read(&target).unwrap();
        let numbers = HEIGHT * WIDTH * 2 * 3 * 4;
        assert_eq!((content.len() - numbers) % 64, 0);
        assert_eq!(content[content.len() - numbers - 1], b'\n');
    }

    #[test]
    fn of_a_span_the_last_frame_has_its_flow_to_the_frame_behind_it() {
        let (folder, pictures) = moving(4);
        let target = folder.path().join("flow.npy");
        FlowFiles { span: Some(1..3), ..WHOLE }.make(folder.path(), &target).unwrap();
        let array = npy::read(&target).unwrap();
        assert_eq!(array.shape, [HEIGHT, WIDTH, 2, 2]);
        for frame in 0..2 {
            let expected = flow(&pictures[frame + 1], &pictures[frame + 2]);
            assert_eq!(array.values[frame].to_bits(), expected[0].to_bits());
        }
    }

    #[test]
    fn pictures_hold_cut_displacements_as_bytes_and_are_named_after_their_frames() {
        let bytes = [0.0, 20.0, -20.0, -25.0, 1.0].map(|pixels| byte(pixels, 20.0));
        assert_eq!(bytes, [128, 255, 0, 0, 134]);
        let (folder, pictures) = moving(4);
        let target = folder.path().join("flow");
        let maker = FlowFiles { form: PICTURES, span: Some(1..4), ..WHOLE };
        maker.make(folder.path(), &target).unwrap();
        let expected = flow(&pictures[1], &pictures[2]);
        for (name, expected) in FOLDERS.iter().zip(expected.chunks(HEIGHT * WIDTH)) {
            assert_eq!(names(&target.join(name)), ["00001.jpg", "00002.jpg"]);
            let found = picture::grey(&target.join(name).join("00001.jpg")).unwrap();
            assert_eq!(found.dimensions(), (WIDTH as u32, HEIGHT as u32));
            let apart = found.as_raw().iter().zip(expected);
            let total: u32 = apart
                .map(|(byte, value)| u32::from(byte.abs_diff(super::byte(*value, 20.0))))
                .sum();
            let mean = f64::from(total) / (HEIGHT * WIDTH) as f64;
            assert!(mean < 1.0, "{name}: {mean}");
        }
    }

    #[test]
    fn colours_become_grey_as_opencv_makes_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("colours.png");
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 30], [77; 3], [255; 3]];
        let picture = image::RgbImage::from_raw(3, 2, colours.concat()).unwrap();
        picture.save(&file).unwrap();
        let (size, found) = grey(&file).unwrap();
        assert_eq!(size, [2, 3]);
        // cv2.cvtColor(_, cv2.COLOR_RGB2GRAY) of OpenCV 5.0.0.
        let expected = [76u8, 150, 29, 124, 77, 255].map(f32::from);
        assert!(found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{found:?}");
    }

    #[test]
    fn what_has_no_flow_is_refused_with_its_name() {
        let (folder, _) = moving(3);
        let target = folder.path().join("flow");
        let problem = |maker: &FlowFiles| {
            let error = maker.make(folder.path(), &target).unwrap_err().to_string();
            drop(std::fs::remove_dir_all(&target));
            error
        };
        let span = |span: Range<usize>| FlowFiles { span: Some(span), form: PICTURES, ..WHOLE };
        assert!(problem(&span(1..4)).ends_with("has 3 frames, none or not all of 1..4"));
        assert!(problem(&span(1..1)).contains("none or not all of 1..1"));
        assert!(problem(&span(2..3)).contains("one frame and none behind it"));
        let form = FlowForm::Pictures { bound_pixels: 0.0 };
        assert!(problem(&FlowFiles { form, ..WHOLE }).contains("`bound_pixels` is 0"));
        save(&folder.path().join("00002.png"), 32, vec![0; 32 * 24]);
        let error = problem(&span(0..3));
        assert!(error.contains("00002.png: has [24, 32] rows and columns"), "{error}");
        save(&folder.path().join("00001.jpg"), 32, vec![0; 32 * 24]);
        let error = problem(&WHOLE);
        assert!(error.contains("00001.png: is a second picture of this frame"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(WHOLE.make(empty.path(), &target).is_err());
        assert!(WHOLE.make(&empty.path().join("absent"), &target).is_err());
    }

    #[test]
    fn names_tell_different_preparers_apart() {
        let others = [
            FlowFiles { span: Some(2..3), ..WHOLE },
            FlowFiles { form: PICTURES, ..WHOLE },
            FlowFiles { options: Tvl1Options { warps: 2, ..Tvl1Options::DEFAULT }, ..WHOLE },
            FlowFiles { device: Device::Cuda(0), ..WHOLE },
        ];
        assert!(others.iter().all(|other| other.name() != WHOLE.name()));
    }

    #[test]
    fn frames_of_a_real_clip_get_pictures_of_their_flow() {
        let Some(folder) = real_data::folder("nvgesture_mini") else { return };
        let target = tempfile::tempdir().unwrap();
        let target = target.path().join("flow");
        let maker = FlowFiles { form: PICTURES, span: Some(0..2), ..WHOLE };
        maker.make(&folder.join("frames/class_02/subject3_r1/rgb"), &target).unwrap();
        for name in FOLDERS {
            assert_eq!(names(&target.join(name)), ["00000.jpg", "00001.jpg"]);
            let found = picture::grey(&target.join(name).join("00000.jpg")).unwrap();
            assert_eq!(found.dimensions(), (160, 120));
            // Around the hand nothing moves.
            let resting = found.as_raw().iter().filter(|byte| byte.abs_diff(128) < 4).count();
            assert!(resting > 160 * 120 / 3, "{name}: {resting}");
        }
    }
}
