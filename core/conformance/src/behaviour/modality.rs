//! Modalities: a decoder is a pure function of what it is given.

use std::cell::Cell;
use std::path::Path;

use mie_core::catalogue::Plugin;
use mie_core::error::guarded;
use mie_core::prelude::*;

use super::{FINITE, REPEATS, SHAPES, WORKS, config};
use crate::Findings;

/// Fills the memory of a sample.
type Load<'a> = dyn Fn(&Draw<'_>, &mut SampleBuffers<'_>) -> Result<()> + 'a;

/// What decoding in two halves must give.
const HALVES: &str = "`finish` makes of what `decode` gives what `load` makes of the whole";

pub(crate) fn check(plugin: &Plugin, findings: &mut Findings) -> Result<()> {
    let config: Box<dyn ModalityConfig> = config((plugin.example)())?;
    let decoder = config.build()?;
    let layouts = decoder.layout();
    let sized = !layouts.is_empty() && layouts.iter().all(|layout| !layout.is_empty());
    findings.expect(SHAPES, sized, || format!("the layout is {layouts:?}"));

    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..layouts[0].len()).map(|index| (index as f32).sin()).collect();
    let [height, width] = sides(&layouts[0].shape);
    let pixels: Vec<u8> = (0..width * height).map(|index| (index * 37 % 256) as u8).collect();
    let (sound, picture) = (folder.path().join("one.wav"), folder.path().join("one.pnm"));
    std::fs::write(&sound, wave()).unwrap();
    std::fs::write(&picture, grey(width, height, &pixels)).unwrap();
    let candidates = [
        Raw::Values(&values),
        Raw::Grey { width, height, pixels: &pixels },
        Raw::Text("a small text, to be read"),
        Raw::File(sound),
        Raw::File(picture.clone()),
        Raw::Files(vec![picture; 4]),
    ];
    // Every time something else is left in the memory, first of all what is no number.
    let leftovers = Cell::new(f32::NAN);
    let filled = |epoch, load: &Load<'_>| {
        let mut out = Filled::with(&layouts, leftovers.get());
        let next = if leftovers.get().is_nan() { 1.0 } else { leftovers.get() + 1.0 };
        leftovers.set(next);
        let draw = Draw { seed: Seed(5), modality: "made_up", epoch, sample: 11 };
        let mut buffers = out.buffers();
        guarded("the modality", || load(&draw, &mut buffers))?;
        buffers.finish();
        Ok::<_, Error>(out)
    };
    let decode =
        |raw: &Raw<'_>, epoch, mode| filled(epoch, &|draw, out| decoder.load(raw, mode, draw, out));
    // As the cache has it.
    let in_halves = |raw: &Raw<'_>, epoch, mode| {
        filled(epoch, &|draw, out| match decoder.cacheable() {
            Some(halves) => halves.finish(halves.decode(raw, mode)?.view(), mode, draw, out),
            None => decoder.load(raw, mode, draw, out),
        })
    };
    let mut refusals = Vec::new();
    let mut decoded = false;
    for raw in &candidates {
        leftovers.set(f32::NAN);
        match decode(raw, 0, Mode::Evaluation) {
            Ok(found) => {
                decoded = true;
                findings.expect(FINITE, found.is_finite(), || format!("of {}", raw.kind()));
                let same = decode(raw, 0, Mode::Evaluation)?.bits() == found.bits();
                findings.expect(REPEATS, same, || format!("{} differ", raw.kind()));
                let later = decode(raw, 7, Mode::Evaluation)?.bits() == found.bits();
                findings.expect("evaluation is the same in every epoch", later, || {
                    format!("{} differ", raw.kind())
                });
                let augmented = decode(raw, 7, Mode::Training)?.bits();
                let same = decode(raw, 7, Mode::Training)?.bits() == augmented;
                findings.expect(REPEATS, same, || format!("{} differ in training", raw.kind()));
                if decoder.cacheable().is_some() {
                    let same = in_halves(raw, 0, Mode::Evaluation)?.bits() == found.bits()
                        && in_halves(raw, 7, Mode::Training)?.bits() == augmented;
                    findings.expect(HALVES, same, || format!("{} differ", raw.kind()));
                }
            }
            Err(error) => refusals.push(format!("{}: {error}", raw.kind())),
        }
    }
    // A vocabulary that the example names is the user's to bring.
    let lacks_file = refusals.iter().any(|refusal| refusal.contains("there is no such file"));
    findings.expect(WORKS, decoded || lacks_file, || {
        format!("it decodes nothing of what was tried: {}", refusals.join("; "))
    });
    let absent = decode(&Raw::File(Path::new("/no/such/file").to_owned()), 0, Mode::Evaluation);
    findings.expect("an absent file is an error", absent.is_err(), || {
        "`/no/such/file` is decoded".to_owned()
    });
    Ok(())
}

/// Height and width of a picture in this layout.
fn sides(shape: &[i64]) -> [usize; 2] {
    match shape {
        [.., height, width] => [*height as usize, *width as usize],
        _ => [8, 8],
    }
}

/// Half a second of a tone: 16-bit WAVE of one channel at 16 kHz.
fn wave() -> Vec<u8> {
    let samples: Vec<i16> =
        (0..8_000).map(|index| (8_000.0 * (f64::from(index) * 0.17).sin()) as i16).collect();
    let length = (2 * samples.len()) as u32;
    let mut bytes = Vec::new();
    bytes.extend(b"RIFF");
    bytes.extend((36 + length).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    for field in [1u16, 1] {
        bytes.extend(field.to_le_bytes());
    }
    for field in [16_000u32, 32_000] {
        bytes.extend(field.to_le_bytes());
    }
    for field in [2u16, 16] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(b"data");
    bytes.extend(length.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}

/// A picture in PNM.
fn grey(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = format!("P5 {width} {height} 255\n").into_bytes();
    bytes.extend(pixels);
    bytes
}

/// Room for a sample.
struct Filled(Vec<Column>);

enum Column {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Filled {
    fn with(layouts: &[TensorLayout], leftover: f32) -> Self {
        let column = |layout: &TensorLayout| match layout.element {
            Element::F32 => Column::F32(vec![leftover; layout.len()]),
            Element::I64 => Column::I64(vec![leftover as i64 - 1; layout.len()]),
        };
        Self(layouts.iter().map(column).collect())
    }

    fn buffers(&mut self) -> SampleBuffers<'_> {
        let columns = self.0.iter_mut().map(|column| match column {
            Column::F32(values) => Buffer::F32(values),
            Column::I64(values) => Buffer::I64(values),
        });
        SampleBuffers::new(columns.collect())
    }

    fn bits(&self) -> Vec<Vec<u64>> {
        let bits = |column: &Column| match column {
            Column::F32(values) => values.iter().map(|value| u64::from(value.to_bits())).collect(),
            Column::I64(values) => values.iter().map(|value| *value as u64).collect(),
        };
        self.0.iter().map(bits).collect()
    }

    fn is_finite(&self) -> bool {
        self.0.iter().all(|column| match column {
            Column::F32(values) => values.iter().all(|value| value.is_finite()),
            Column::I64(_) => true,
        })
    }
}
