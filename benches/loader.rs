//! How many samples a second one core decodes, with and without the cache, and what workers add.
//!
//! `cargo bench --bench loader`; `benches/README.md` says how to compare it with other loaders. The
//! files are made here: recordings of 2.5 s, JPEGs of 600 x 450 pixels that are like photographs,
//! 80 frames of 320 x 240, tweets of made-up sentences. Where there are real photographs
//! (`MIE_TEST_DATA`, else `../shared/data`), they are measured too. `MIE_BENCH_FILES=folder` keeps
//! the files. All of them are in the memory of the system when they are read.
//!
//! `decoded` is a sample from its file, `cached` one whose decoded half lies in the cache; both on
//! the calling thread, into memory that is there already, as in the loader. Then the whole loader
//! over 64 JPEGs, by its workers. Before the timings: the peak of memory over an epoch of 20 000
//! samples, which must not grow with them.

#![allow(missing_docs, reason = "criterion's macros write functions without documentation")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use mie_core::config::Resolved;
use mie_core::data::cache::Cache;
use mie_core::data::{Batches, DataSource, Request};
use mie_core::device::peak_memory_bytes;
use mie_core::prelude::*;
use mie_plugins as _;
use serde_json::{Value, json};

const RECORDINGS: u64 = 32;
const PHOTOGRAPHS: u64 = 64;
const FRAMES: u64 = 80;
const TWEETS: u64 = 256;

/// Real photographs that are measured, the first by name.
const REAL_PHOTOGRAPHS: usize = 64;

/// Samples after which the peak of memory is looked at.
const MEMORY_AFTER: [usize; 2] = [5_000, 20_000];

/// Bytes by which the peak may differ between them: what the allocator holds in reserve, and far
/// less than a kilobyte of every sample.
const MEMORY_GROWTH_BYTES: u64 = 5_000_000;

const EXPERIMENT: &str = r#"
name = "bench"
dataset = { name = "synthetic" }
modalities.image = { input = { name = "image" }, encoder = { name = "small_cnn" } }
run = { cache_gigabytes = 0.0 }
"#;

/// Words of the tweets that the vocabulary has whole.
const WHOLE: &str = "the is and we are at so with day never love again";
/// Words of the tweets that it has in pieces.
const BROKEN: &str = "wonderful unbelievable morning football concert terrible weather friends \
                      yesterday people tonight traffic";
const PIECES: &str = "wonder ##ful un ##believ ##able morn ##ing foot ##ball con ##cert terr \
                      ##ible wea ##ther friend ##s yester ##day peo ##ple to ##night traff ##ic";

/// Numbers that look drawn and are the same on every machine (`SplitMix64`).
struct Numbers(u64);

impl Numbers {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.draw() % count as u64) as usize
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number in `[-1, 1)` that belongs to these numbers.
fn signed(seed: u64, numbers: [u64; 4]) -> f32 {
    let number = numbers.iter().fold(seed, |hash, &number| {
        mixed(hash.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15))
    });
    (number >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Blotches of three sizes, grain and a dozen discs, seen `moved` pixels further to the right.
fn photograph(width: u32, height: u32, seed: u64, moved: u32) -> RgbImage {
    let disc = |number: u64| [0, 1, 2, 3].map(|part| signed(seed, [9, number, part, 0]));
    let discs: Vec<[f32; 4]> = (0..12).map(disc).collect();
    RgbImage::from_fn(width, height, |x, y| {
        let place = [x + moved, y];
        let [across, down] = place.map(|at| 2.0 * at as f32 / height as f32 - 1.0);
        let light = discs
            .iter()
            .find(|&&[left, top, radius, _]| {
                (across - 2.0 * left).hypot(down - top) < 0.1 + 0.2 * radius.abs()
            })
            .map_or(0.0, |disc| 70.0 * disc[3]);
        let grain = 4.0 * signed(seed, [7, place[0].into(), y.into(), 0]);
        Rgb([0, 1, 2].map(|channel| {
            let blotches: f32 = [(128, 60.0_f32), (32, 22.0), (8, 9.0)]
                .iter()
                .map(|&(side, strength)| strength * blotch(seed, channel, side, place))
                .sum();
            (128.0 + light + blotches + grain).clamp(0.0, 255.0) as u8
        }))
    })
}

/// Numbers of a lattice with so many pixels between them, mixed linearly.
fn blotch(seed: u64, channel: u64, side: u32, place: [u32; 2]) -> f32 {
    let [[left, across], [top, down]] =
        place.map(|at| [(at / side) as f32, (at % side) as f32 / side as f32]);
    // The largest alone have colours: those of photographs change slowly.
    let hue = if side == 128 { channel } else { 0 };
    let at = |right: u64, below: u64| {
        signed(seed, [u64::from(side), hue, left as u64 + right, top as u64 + below])
    };
    let mix = |first: f32, second: f32, share: f32| first + (second - first) * share;
    mix(mix(at(0, 0), at(1, 0), across), mix(at(0, 1), at(1, 1), across), down)
}

fn save(picture: &RgbImage, file: &Path) {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(picture).unwrap();
    fs::write(file, bytes).unwrap();
}

/// Writes 2.5 s of a voice-like tone.
fn record(file: &Path, rate_hertz: u32, seed: u64) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate_hertz,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(file, spec).unwrap();
    let pitch_hertz = 130.0 + 60.0 * signed(seed, [0; 4]);
    for n in 0..rate_hertz * 5 / 2 {
        let seconds = n as f32 / rate_hertz as f32;
        let phase = std::f32::consts::TAU * pitch_hertz * seconds;
        let tones: f32 = [1.0_f32, 2.0, 3.0, 5.0, 8.0, 13.0]
            .iter()
            .map(|&times| (times * phase).sin() / times)
            .sum();
        let loudness = 0.2 + 0.1 * (5.0 * seconds).sin();
        let sample = loudness * tones + 0.01 * signed(seed, [1, n.into(), 0, 0]);
        writer.write_sample((sample.clamp(-1.0, 1.0) * 32_767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

fn tweet(numbers: &mut Numbers) -> String {
    let count = 8 + numbers.below(16);
    let known: Vec<&str> = WHOLE.split(' ').chain(BROKEN.split(' ')).collect();
    let mut words: Vec<&str> = (0..count).map(|_| known[numbers.below(known.len())]).collect();
    words.insert(0, ["RT @ user :", "#monday", "Wow !", "7 of 10 :"][numbers.below(4)]);
    words.push(["!", ".", "? ?", ":)"][numbers.below(4)]);
    words.join(" ")
}

fn vocabulary() -> String {
    let marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let signs = ('!'..='@').chain('a'..='z').map(String::from);
    let words = WHOLE.split(' ').chain(PIECES.split(' ')).map(str::to_owned);
    let others = ["user", "monday", "wow", "of", "rt"].map(str::to_owned);
    let entries: Vec<String> = marks.into_iter().chain(signs).chain(words).chain(others).collect();
    entries.join("\n") + "\n"
}

/// What is decoded.
struct Files {
    folder: PathBuf,
    recordings_16000: Vec<PathBuf>,
    recordings_22050: Vec<PathBuf>,
    photographs: Vec<PathBuf>,
    real_photographs: Vec<PathBuf>,
    frames: Vec<PathBuf>,
    tweets: Vec<String>,
}

impl Files {
    fn make(folder: PathBuf) -> Self {
        let mut numbers = Numbers(1);
        let tweets: Vec<String> = (0..TWEETS).map(|_| tweet(&mut numbers)).collect();
        let at = |name: &str| folder.join(name);
        let files = Self {
            recordings_16000: made(&at("recordings_16000"), "wav", RECORDINGS, &|file, seed| {
                record(file, 16_000, seed);
            }),
            recordings_22050: made(&at("recordings_22050"), "wav", RECORDINGS, &|file, seed| {
                record(file, 22_050, seed);
            }),
            photographs: made(&at("photographs"), "jpg", PHOTOGRAPHS, &|file, seed| {
                save(&photograph(600, 450, seed, 0), file);
            }),
            frames: made(&at("frames"), "jpg", FRAMES, &|file, number| {
                save(&photograph(320, 240, 1, 2 * number as u32), file);
            }),
            real_photographs: real_photographs(),
            tweets,
            folder,
        };
        fs::write(files.folder.join("tweets.txt"), files.tweets.join("\n") + "\n").unwrap();
        fs::write(files.folder.join("vocab.txt"), vocabulary()).unwrap();
        files
    }

    fn cases(&self) -> Vec<Case<'_>> {
        let raws = |files: &[PathBuf]| files.iter().cloned().map(Raw::File).collect::<Vec<_>>();
        let case = |name, options: Value, mode, raws| {
            let config: Box<dyn ModalityConfig> = serde_json::from_value(options).unwrap();
            let mut modality = config.build().unwrap();
            modality.open(&context(&self.folder)).unwrap();
            Case { name, modality, mode, raws }
        };
        let spectrogram = || json!({ "name": "spectrogram" });
        let word_pieces =
            json!({ "name": "word_pieces", "vocabulary": "vocab.txt", "max_words": 0 });
        let tweets = self.tweets.iter().map(|tweet| Raw::Text(tweet)).collect();
        let (training, evaluation) = (Mode::Training, Mode::Evaluation);
        let mut cases = vec![
            case(
                "spectrogram_of_16000_hertz",
                spectrogram(),
                training,
                raws(&self.recordings_16000),
            ),
            case(
                "spectrogram_of_22050_hertz",
                spectrogram(),
                training,
                raws(&self.recordings_22050),
            ),
            case("random_crop_of_600x450", picture(224), training, raws(&self.photographs)),
            case("stretched_600x450", picture(224), evaluation, raws(&self.photographs)),
            case(
                "clip_of_80_frames",
                json!({ "name": "clip" }),
                training,
                vec![Raw::Files(self.frames.clone())],
            ),
            case("word_pieces_of_tweet", word_pieces, training, tweets),
        ];
        if !self.real_photographs.is_empty() {
            let real = || raws(&self.real_photographs);
            cases.push(case("random_crop_of_real_photograph", picture(224), training, real()));
            cases.push(case("stretched_real_photograph", picture(224), evaluation, real()));
        }
        cases
    }
}

/// Makes numbered files in a folder.
fn made(folder: &Path, ending: &str, count: u64, write: &dyn Fn(&Path, u64)) -> Vec<PathBuf> {
    fs::create_dir_all(folder).unwrap();
    let make = |number: u64| {
        let file = folder.join(format!("{number:05}.{ending}"));
        write(&file, number);
        file
    };
    (0..count).map(make).collect()
}

/// Options of pictures as encoders trained on ImageNet take them.
fn picture(side: usize) -> Value {
    json!({
        "name": "image",
        "channels": "rgb",
        "height": side,
        "width": side,
        "resize": "stretch",
        "normalise": "imagenet",
        "training_crop": { "random_resized": {} },
        "flip_probability": 0.5,
    })
}

/// Pictures of real tweets, the first by name, where there are any.
fn real_photographs() -> Vec<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let root = std::env::var_os("MIE_TEST_DATA").map_or(beside, PathBuf::from);
    let found = fs::read_dir(root.join("tweet_sentiment_sample/data"));
    let mut files: Vec<PathBuf> =
        found.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "jpg"));
    files.sort();
    files.truncate(REAL_PHOTOGRAPHS);
    files
}

fn context(folder: &Path) -> OpenContext {
    OpenContext { base: folder.to_owned(), seed: Seed(0) }
}

/// A modality with what it decodes.
struct Case<'a> {
    name: &'static str,
    modality: Box<dyn Modality>,
    mode: Mode,
    raws: Vec<Raw<'a>>,
}

impl Case<'_> {
    fn raw(&self, turn: usize) -> &Raw<'_> {
        &self.raws[turn % self.raws.len()]
    }

    fn decoded(&self, turn: usize, out: &mut Tensors) {
        let (raw, draw) = (self.raw(turn), draw(turn));
        out.filled(|out| self.modality.load(raw, self.mode, &draw, out)).unwrap();
    }

    /// As the loader does it with a cache.
    fn cached(&self, decode: &dyn Decode, cache: &Cache, turn: usize, out: &mut Tensors) {
        let (raw, draw) = (self.raw(turn), draw(turn));
        cache
            .with(
                &decode.recipe(self.mode),
                raw,
                || decode.decode(raw, self.mode),
                |decoded| out.filled(|out| decode.finish(decoded, self.mode, &draw, out)),
            )
            .unwrap();
    }
}

fn draw(turn: usize) -> Draw<'static> {
    Draw { seed: Seed(0), modality: "bench", epoch: 0, sample: turn as u64 }
}

/// The tensors of a sample.
struct Tensors(Vec<Column>);

enum Column {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Tensors {
    fn of(layouts: &[TensorLayout]) -> Self {
        let column = |layout: &TensorLayout| match layout.element {
            Element::F32 => Column::F32(vec![0.0; layout.len()]),
            Element::I64 => Column::I64(vec![0; layout.len()]),
        };
        Self(layouts.iter().map(column).collect())
    }

    /// Lends them as the loader does.
    fn filled(&mut self, fill: impl FnOnce(&mut SampleBuffers<'_>) -> Result<()>) -> Result<()> {
        let buffers = self.0.iter_mut().map(|column| match column {
            Column::F32(values) => Buffer::F32(values),
            Column::I64(values) => Buffer::I64(values),
        });
        let mut out = SampleBuffers::new(buffers.collect());
        fill(&mut out)?;
        out.finish();
        Ok(())
    }
}

/// Training samples that are these files over and over.
#[derive(Debug, Serialize, Deserialize)]
struct FilesConfig {
    files: Vec<PathBuf>,
    samples: usize,
}

#[typetag::serde(name = "files_of_the_bench")]
impl DatasetConfig for FilesConfig {
    fn open(&self, _context: &OpenContext) -> Result<Box<dyn Dataset>> {
        let sample = |index: usize| Sample { id: index.to_string(), label: index % 2 };
        Ok(Box::new(Repeated {
            classes: ["even", "odd"].map(str::to_owned).to_vec(),
            samples: (0..self.samples).map(sample).collect(),
            files: self.files.clone(),
        }))
    }
}

struct Repeated {
    classes: Vec<String>,
    samples: Vec<Sample>,
    files: Vec<PathBuf>,
}

impl Dataset for Repeated {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        if split == Split::Train { &self.samples } else { &[] }
    }

    fn modalities(&self) -> Vec<String> {
        vec!["image".to_owned()]
    }

    fn raw(&self, _split: Split, index: usize, _modality: &str) -> Result<Raw<'_>> {
        Ok(Raw::File(self.files[index % self.files.len()].clone()))
    }
}

/// Opens `samples` pictures for the loader, without a cache.
fn source(files: &[PathBuf], samples: usize, side: usize) -> Arc<DataSource> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.toml");
    let method = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/base/methods/joint_concat");
    let extends = format!("extends = [\"{}.toml\"]\n", method.display());
    fs::write(&file, extends + EXPERIMENT).unwrap();
    let mut experiment = Resolved::read(&file, &[]).unwrap().experiment;
    experiment.dataset = Box::new(FilesConfig { files: files.to_vec(), samples });
    let input = serde_json::from_value(picture(side)).unwrap();
    experiment.modalities.get_mut("image").unwrap().input = input;
    Arc::new(DataSource::open(&experiment, &context(folder.path())).unwrap())
}

/// Goes through an epoch as training does; `after` gets the number of samples so far.
fn epoch(
    source: &Arc<DataSource>,
    workers: usize,
    batch_size: usize,
    mut after: impl FnMut(usize),
) {
    let request = Request {
        split: Split::Train,
        mode: Mode::Training,
        shuffled: true,
        epoch: 0,
        batch_size,
        drop_last: false,
        modalities: vec!["image".to_owned()],
        start: 0,
        workers,
        prefetch: 4,
        access: None,
    };
    let mut batches = Batches::start(source, request).unwrap();
    let mut seen = 0;
    while let Some(host) = batches.next_batch().unwrap() {
        seen += host.to_device(Device::Cpu).unwrap().indices.len();
        batches.recycle(host);
        after(seen);
    }
    assert_eq!(seen, source.len(Split::Train));
}

/// Looks at the peak of memory early and late in an epoch: must run before what needs more.
fn memory() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..16)
        .map(|seed| {
            let file = folder.path().join(format!("{seed}.jpg"));
            save(&photograph(160, 120, seed, 0), &file);
            file
        })
        .collect();
    let [early, late] = MEMORY_AFTER;
    let source = source(&files, late, 64);
    let mut peaks = Vec::new();
    epoch(&source, 2, 50, |seen| {
        if MEMORY_AFTER.contains(&seen) {
            peaks.extend(peak_memory_bytes());
        }
    });
    match peaks[..] {
        [first, last] => {
            // The system counts roughly, and may come to less later.
            let growth = last.saturating_sub(first);
            let [first_megabytes, last_megabytes] = [first, last].map(|bytes| bytes as f64 / 1e6);
            println!(
                "peak memory of an epoch with 2 workers: {first_megabytes:.1} MB after {early} \
                 samples, {last_megabytes:.1} MB after {late}, {:.0} bytes for each sample between",
                growth as f64 / (late - early) as f64,
            );
            assert!(
                growth <= MEMORY_GROWTH_BYTES,
                "the loader's memory grows with the samples: {first_megabytes:.1} MB after \
                 {early}, {last_megabytes:.1} MB after {late}, expected at most {:.0} MB more",
                MEMORY_GROWTH_BYTES as f64 / 1e6,
            );
        }
        _ => println!("peak memory: the system does not tell"),
    }
}

/// Times each case from its files and from the cache.
fn samples(c: &mut Criterion, files: &Files, cache: &Cache) {
    let cases = files.cases();
    let mut group = c.benchmark_group("sample");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    for case in &cases {
        let mut out = Tensors::of(&case.modality.layout());
        let mut turn = 0;
        group.bench_function(BenchmarkId::new(case.name, "decoded"), |b| {
            b.iter(|| {
                case.decoded(turn, &mut out);
                turn += 1;
            });
        });
        let Some(decode) = case.modality.cacheable() else { continue };
        let started = Instant::now();
        for turn in 0..case.raws.len() {
            case.cached(decode, cache, turn, &mut out);
        }
        let rate = case.raws.len() as f64 / started.elapsed().as_secs_f64();
        println!("sample/{}/first pass, which fills the cache: {rate:.1} samples/s", case.name);
        let missed = cache.counts().1;
        group.bench_function(BenchmarkId::new(case.name, "cached"), |b| {
            b.iter(|| {
                case.cached(decode, cache, turn, &mut out);
                turn += 1;
            });
        });
        assert_eq!(cache.counts().1, missed, "{}: {:?}", case.name, cache.stopped());
    }
    group.finish();
}

/// Times an epoch of the whole loader, whose consumer does nothing but take.
fn workers(c: &mut Criterion, files: &Files) {
    let source = source(&files.photographs, files.photographs.len(), 224);
    let mut group = c.benchmark_group("epoch_of_64_jpegs");
    group.throughput(Throughput::Elements(PHOTOGRAPHS)).sample_size(10);
    for count in [0, 1, 2] {
        group.bench_function(BenchmarkId::new("workers", count), |b| {
            b.iter(|| epoch(&source, count, 8, |_| {}));
        });
    }
    group.finish();
}

fn loader(c: &mut Criterion) {
    tch::set_num_threads(1);
    memory();
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("MIE_BENCH_FILES").map(PathBuf::from);
    let files = Files::make(kept.unwrap_or_else(|| temporary.path().join("files")));
    println!(
        "{} real photographs, {} generated files in {}",
        files.real_photographs.len(),
        2 * RECORDINGS + PHOTOGRAPHS + FRAMES,
        files.folder.display()
    );
    let cache = Cache::new(temporary.path().join("cache"), 1 << 33);
    samples(c, &files, &cache);
    workers(c, &files);
}

criterion_group!(benches, loader);
criterion_main!(benches);
