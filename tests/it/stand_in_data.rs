//! Made-up data in the layouts and lists of published datasets, and made-up weights.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use mie_core::prelude::*;
use serde_json::Value;

/// Writes a file and the folders above it.
pub(crate) fn write(file: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

/// Writes a square wave of a quarter of a second: a header of 44 bytes, then samples of 16 bits.
fn write_recording(file: &Path, number: usize) {
    const RATE_HERTZ: u32 = 16_000;
    let half_period = 20 + number % 50;
    let samples: Vec<u8> = (0..4_000_usize)
        .map(|at| if (at / half_period).is_multiple_of(2) { 8_000_i16 } else { -8_000 })
        .flat_map(i16::to_le_bytes)
        .collect();
    let bytes = samples.len() as u32;
    let mut content = b"RIFF".to_vec();
    content.extend((36 + bytes).to_le_bytes());
    content.extend(b"WAVEfmt ");
    content.extend(16_u32.to_le_bytes());
    // Plain samples of one channel; bytes a second, bytes and bits a sample.
    content.extend(1_u16.to_le_bytes());
    content.extend(1_u16.to_le_bytes());
    content.extend(RATE_HERTZ.to_le_bytes());
    content.extend((2 * RATE_HERTZ).to_le_bytes());
    content.extend(2_u16.to_le_bytes());
    content.extend(16_u16.to_le_bytes());
    content.extend(b"data");
    content.extend(bytes.to_le_bytes());
    content.extend(samples);
    write(file, content);
}

fn shade(x: u32, y: u32, channel: u32, number: usize) -> u8 {
    ((3 * x + 5 * channel * y + 40 * (number as u32 % 1_000)) % 256) as u8
}

/// Writes a colour picture, as its name's ending says.
fn write_picture(file: &Path, number: usize) {
    let colours = |x: u32, y: u32| Rgb([0, 1, 2].map(|channel| shade(x, y, channel, number)));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    RgbImage::from_fn(40, 32, colours).save(file).unwrap();
}

/// Writes a grey picture, as its name's ending says.
fn write_grey_picture(file: &Path, number: usize) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let grey = |x: u32, y: u32| Luma([shade(x, y, 1, number)]);
    GrayImage::from_fn(40, 32, grey).save(file).unwrap();
}

/// Lays out 4 training and 2 test clips of each emotion of CREMA-D, two frames each.
pub(crate) fn cremad(data: &Path) {
    let root = data.join("CREMAD");
    for (split, first, clips) in [("train", 0, 4), ("test", 4, 2)] {
        let mut list = String::new();
        for (class, emotion) in ["NEU", "HAP", "SAD", "FEA", "DIS", "ANG"].into_iter().enumerate() {
            for number in first..first + clips {
                let clip = format!("{}_IEO_{emotion}_XX", 1001 + 10 * class + number);
                writeln!(list, "{clip},{emotion}").unwrap();
                let seed = 7 * class + number;
                write_recording(&root.join(format!("AudioWAV/{clip}.wav")), seed);
                for frame in [0, 30] {
                    let name = format!("Image-01-FPS/{clip}/{frame:05}.jpg");
                    write_picture(&root.join(name), seed + frame);
                }
            }
        }
        write(&root.join(format!("annotations/{split}.csv")), list);
    }
}

/// Lays out 4 training and 2 test clips of three classes of Kinetics-Sounds, four frames each.
pub(crate) fn kinetics_sounds(data: &Path) {
    let root = data.join("kinetics_sound");
    for (split, clips) in [("train", 4), ("test", 2)] {
        let mut list = String::new();
        for class in [2, 10, 30] {
            for number in 0..clips {
                let clip = format!("{split}-{class:02}-{number}_000001_000011");
                writeln!(list, "{clip},10,{class}").unwrap();
                let seed = class + number;
                write_recording(&root.join(format!("{split}_wav/{clip}.wav")), seed);
                for frame in [0, 30, 60, 90] {
                    let name = format!("{split}_img/Image-01-FPS/{clip}/{frame:05}.jpg");
                    write_picture(&root.join(name), seed + frame);
                }
            }
        }
        write(&root.join(format!("annotations/{split}.csv")), list);
    }
}

/// Words of the made-up tweets.
const MOODS: [&str; 3] = ["sad", "plain", "happy"];

/// Lays out 4 training, 2 validation and 2 test samples of each class of Twitter2015.
pub(crate) fn twitter2015(data: &Path) {
    let root = data.join("Twitter15");
    let mut index = 0;
    // The header of the published test list lacks a name.
    let full = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String";
    let short = "index\t#1 ImageID\t#2 String\t#2 String";
    for (split, header, samples) in [("train", full, 4), ("dev", full, 2), ("test", short, 2)] {
        let mut list = format!("{header}\n");
        for (class, mood) in MOODS.iter().enumerate() {
            for _ in 0..samples {
                index += 1;
                let tweet = format!("RT @ $T$ is so {mood} today !");
                writeln!(list, "{index}\t{class}\t{index}.jpg\t{tweet}\tMiami").unwrap();
                write_picture(&root.join(format!("twitter2015_images/{index}.jpg")), index);
            }
        }
        write(&root.join(format!("annotations/{split}.tsv")), list);
    }
}

/// Lays out 4 training, 2 validation and 2 test tweets of each class of MMSD, and a training tweet
/// that gives the answer away.
pub(crate) fn sarcasm(data: &Path) {
    let root = data.join("sarcasm");
    let mut id = 860_000_000_000_000_000_usize;
    for (split, tweets) in [("train", 4), ("valid2", 2), ("test2", 2)] {
        let mut list = String::new();
        for (class, mood) in [(0, "plain"), (1, "happy")] {
            for _ in 0..tweets {
                id += 1;
                // Before the label that a person gave stands the one by hashtag.
                let labels =
                    if split == "train" { format!("{class}") } else { format!("0, {class}") };
                writeln!(list, "['{id}', 'so {mood} # monday <user>', {labels}]").unwrap();
                write_picture(&root.join(format!("images/{id}.jpg")), id);
            }
        }
        if split == "train" {
            list.push_str("['860000000000000000', 'so plain # sarcasm', 1]\n");
        }
        write(&root.join(format!("annotations/{split}.txt")), list);
    }
}

/// Writes a picture with a number.
type Writer = fn(&Path, usize);

/// Lays out 4 training clips and a test clip of three gestures of `NVGesture`: 8 frames of a longer
/// video, depth one frame earlier than colour.
pub(crate) fn nvgesture(data: &Path) {
    let root = data.join("NVGesture");
    let streams: [(&str, Writer); 4] = [
        ("rgb", write_picture),
        ("depth", write_grey_picture),
        ("flow/flow_x", write_grey_picture),
        ("flow/flow_y", write_grey_picture),
    ];
    for (split, people) in [("train", &[3, 4, 6, 7][..]), ("test", &[5][..])] {
        let mut list = String::new();
        for class in 1..=3 {
            for &person in people {
                let clip = format!("class_{class:02}/subject{person}_r0");
                writeln!(
                    list,
                    "path:./Video_data/{clip} depth:sk_depth:1:9 color:sk_color:2:10 \
                     duo_left:duo_left:3:12 label:{class} "
                )
                .unwrap();
                for (stream, write_frame) in streams {
                    for frame in 0..11 {
                        let name = format!("frames/{clip}/{stream}/{frame:05}.jpg");
                        write_frame(&root.join(name), 7 * class + person + frame);
                    }
                }
            }
        }
        write(&root.join(format!("nvgesture_{split}_correct_cvpr2016_v2.lst")), list);
    }
}

/// Where configurations look for the vocabulary of word pieces.
const VOCABULARY: &str = "weights/bert-base-uncased/vocab.txt";

/// Writes a vocabulary that can spell every word of ASCII, and has some words of the made-up
/// tweets; gives the number of its entries.
pub(crate) fn vocabulary(data: &Path) -> usize {
    let marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let characters: Vec<char> = ('!'..='~').filter(|it| !it.is_ascii_uppercase()).collect();
    let pieces = characters.iter().filter(|it| it.is_ascii_alphanumeric());
    let entries: Vec<String> = marks
        .iter()
        .chain(&MOODS)
        .map(|&word| word.to_owned())
        .chain(characters.iter().map(char::to_string))
        .chain(pieces.map(|it| format!("##{it}")))
        .collect();
    write(&data.join(VOCABULARY), entries.join("\n") + "\n");
    entries.len()
}

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// Tensors of an encoder as they start from some seed, under `prefix` and the encoder's names.
///
/// Without `input` it is built for the sizes that it gives as an example.
pub(crate) fn weights(encoder: Value, input: Option<&[i64]>, prefix: &str) -> Tensors {
    let config: Box<dyn EncoderConfig> = serde_json::from_value(encoder).unwrap();
    let input = input.map_or_else(|| config.example_input(), TensorLayout::value);
    let store = RefCell::new(Parameters::default());
    let group = GroupId::Encoder("any".to_owned());
    config.build(&input, &Builder::new(&store, Seed(77), Device::Cpu, group)).unwrap();
    let tensors = store.into_inner().export().unwrap();
    tensors
        .into_iter()
        .map(|(path, tensor)| {
            let name = path.strip_prefix("encoder.any.").unwrap();
            (format!("{prefix}{name}"), tensor)
        })
        .collect()
}

/// Writes tensors into a file of safetensors, whatever its name.
pub(crate) fn write_tensors(file: &Path, tensors: &Tensors) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let tensors: Vec<(&str, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Tensor::write_safetensors(&tensors, file).unwrap();
}
