//! NVIDIA's gestures of drivers: colour, depth and optical flow.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mie_core::prelude::*;
use serde_json::{Map, Value, json};

use super::clips::{ClipLists, expect_videos};
use super::util::{no_folder, no_modality, no_sample};
use crate::formats;
use crate::formats::ffmpeg::{Every, Frames};
use crate::formats::flow_files::{FlowFiles, FlowForm};
use crate::formats::lists;
use crate::formats::tvl1::Tvl1Options;
use crate::modality::clip::{Channels, ClipConfig, Normalisation};
use crate::modality::flow::FlowConfig;

/// Reads NVIDIA's dynamic hand gestures: colour, depth and optical flow of a driver's hand.
///
/// 25 classes of gestures; 1050 clips of 12 people for training, 482 of 6 others for testing. Of
/// each clip, 240 frames or so, the list names the 80 in which the gesture happens.
///
/// The files cannot be fetched: NVIDIA gives the videos for research on request. Lists are at
/// <https://github.com/breadbread1984/R3DCNN>. The frames of `sk_color.avi` and `sk_depth.avi` are
/// expected as pictures, JPEG or PNG, in a folder for each clip and stream, with their numbers at
/// the end of their names; `mie data prepare nvgesture` makes them, and the flow, of the videos in
/// `NVGesture/Video_data`:
///
/// ```text
/// NVGesture/nvgesture_train_correct_cvpr2016_v2.lst
/// NVGesture/nvgesture_test_correct_cvpr2016_v2.lst
/// NVGesture/frames/class_01/subject3_r0/{rgb,depth}/00000.jpg
/// NVGesture/frames/class_01/subject3_r0/flow/{flow_x,flow_y}/00000.jpg layout = "frames"
/// NVGesture/Video_data/flow_data/{train,test}/0.npy                   layout = "flow_arrays"
/// ```
///
/// How MIE's authors made their flow is not published. As pictures, number `n` holds the flow from
/// frame `n` to the next, so that the last frame may have none. An array is named after the place
/// of the clip in its list, from 0. A line of a list:
///
/// ```text
/// path:./Video_data/class_01/subject3_r0 depth:sk_depth:146:226 color:sk_color:146:226 … label:1
/// ```
///
/// The label is that of `label:`, less 1, even where the folder has another number: so it is in 15
/// training and 8 test lines of version 2, which looks like corrections. The numbers behind a
/// stream are its first frame and the one after its last; flow has those of colour. Clips are named
/// after their folders, as `class_01/subject3_r0`.
///
/// A mirrored clip of classes 0, 1, 4, 5, 19 or 20 shows another class, 1, 0, 5, 4, 20 or 19: no
/// flips in training.
///
/// Modalities: `rgb` and `depth`, the frames in order; `flow`, all pictures of the flow to the
/// right in order and then as many of the flow downwards, or one array.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NvgestureConfig {
    /// Folder of the dataset, relative to the data folder. Default `NVGesture`.
    pub root: PathBuf,
    /// Lists of the clips of each split.
    pub lists: NvgestureLists,
    /// Where the optical flow lies. Default `frames`.
    pub layout: NvgestureLayout,
    /// Folder of the clips' folders, relative to `root`. Default `frames`.
    pub frames: PathBuf,
    /// Names of the streams' folders in the folder of a clip.
    pub streams: NvgestureStreams,
    /// Folder of the clips' folders of videos, relative to `root`, of which `mie data prepare` makes
    /// frames and flow. Default `Video_data`.
    pub videos: PathBuf,
    /// Folder of the arrays of flow, relative to `root`. Default `Video_data/flow_data`.
    pub flow_arrays: PathBuf,
    /// Which frames of a folder belong to a clip. Default `listed`.
    pub span: NvgestureSpan,
    /// Number that the first frame of a video has in its name, for `span = "listed"`. Default 0.
    pub first_frame: usize,
    /// Fewest frames of a stream, at least 1; with fewer it counts as missing. When absent, the
    /// default, those that the list names, or 1 for `span = "whole"`. The released code takes black
    /// frames for missing ones.
    pub min_frames: Option<usize>,
}

/// Files that list the clips of each split, relative to `root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NvgestureLists {
    /// Training clips. Default `nvgesture_train_correct_cvpr2016_v2.lst`.
    pub train: PathBuf,
    /// Validation clips; no list is published. When absent, the default, `data.validation_share`
    /// splits some off the training clips.
    pub valid: Option<PathBuf>,
    /// Test clips. Default `nvgesture_test_correct_cvpr2016_v2.lst`.
    pub test: PathBuf,
}

/// Names of the streams' folders in the folder of a clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NvgestureStreams {
    /// Colour. Default `rgb`.
    pub rgb: PathBuf,
    /// Depth. Default `depth`.
    pub depth: PathBuf,
    /// Flow to the right. Default `flow/flow_x`.
    pub flow_x: PathBuf,
    /// Flow downwards. Default `flow/flow_y`.
    pub flow_y: PathBuf,
}

/// Where the optical flow lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NvgestureLayout {
    /// As pictures, in folders beside those of the frames.
    #[default]
    Frames,
    /// As an array for each line of a list, `<flow_arrays>/<split>/<line from 0>.npy`.
    FlowArrays,
}

/// Which frames of a folder belong to a clip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NvgestureSpan {
    /// Those of the numbers that the list names: the folder holds the whole video.
    #[default]
    Listed,
    /// All of them: the folder holds no more than the gesture.
    Whole,
}

impl Default for NvgestureConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("NVGesture"),
            lists: NvgestureLists::default(),
            layout: NvgestureLayout::default(),
            frames: PathBuf::from("frames"),
            streams: NvgestureStreams::default(),
            videos: PathBuf::from("Video_data"),
            flow_arrays: PathBuf::from("Video_data/flow_data"),
            span: NvgestureSpan::default(),
            first_frame: 0,
            min_frames: None,
        }
    }
}

impl Default for NvgestureLists {
    fn default() -> Self {
        Self {
            train: PathBuf::from("nvgesture_train_correct_cvpr2016_v2.lst"),
            valid: None,
            test: PathBuf::from("nvgesture_test_correct_cvpr2016_v2.lst"),
        }
    }
}

impl Default for NvgestureStreams {
    fn default() -> Self {
        Self {
            rgb: PathBuf::from("rgb"),
            depth: PathBuf::from("depth"),
            flow_x: PathBuf::from("flow/flow_x"),
            flow_y: PathBuf::from("flow/flow_y"),
        }
    }
}

/// Names of the classes as `mmpose` has them, in label order.
const CLASSES: [&str; 25] = [
    "five fingers right",
    "five fingers left",
    "five fingers up",
    "five fingers down",
    "two fingers right",
    "two fingers left",
    "two fingers up",
    "two fingers down",
    "click",
    "beckon",
    "stretch hand",
    "shake hand",
    "one",
    "two",
    "three",
    "lift up",
    "press down",
    "push",
    "shrink",
    "levorotation",
    "dextrorotation",
    "two fingers prod",
    "grab",
    "thumbs up",
    "OK",
];

/// Classes that a horizontal flip turns into each other.
const FLIP_PAIRS: [[usize; 2]; 3] = [[0, 1], [4, 5], [19, 20]];

/// Clips of each class in version 2 of the lists.
const PUBLISHED: [(Split, [usize; 25]); 2] = [
    (
        Split::Train,
        [
            40, 50, 43, 41, 42, 44, 39, 44, 41, 43, 43, 42, 39, 43, 42, 44, 42, 40, 36, 47, 41, 43,
            43, 40, 38,
        ],
    ),
    (
        Split::Test,
        [
            18, 22, 20, 21, 20, 20, 20, 19, 22, 19, 20, 19, 18, 20, 16, 19, 20, 19, 19, 21, 15, 18,
            20, 19, 18,
        ],
    ),
];

/// Names, by split, that lists have elsewhere: in the released code of MIE, and version 1.
const ELSEWHERE: [(Split, &str); 5] = [
    (Split::Train, "nvgesture_train_correct_v2.lst"),
    (Split::Train, "nvgesture_train_correct_cvpr2016.lst"),
    (Split::Valid, "nvgesture_valid_correct_v2.lst"),
    (Split::Test, "nvgesture_test_correct_v2.lst"),
    (Split::Test, "nvgesture_test_correct_cvpr2016.lst"),
];

const GUIDE: &str = "ask NVIDIA for the videos (Molchanov et al. 2016), take the lists from \
                     https://github.com/breadbread1984/R3DCNN; lay them out as \
                     NVGesture/nvgesture_{train,test}_correct_cvpr2016_v2.lst and \
                     NVGesture/Video_data/class_01/subject3_r0/{sk_color,sk_depth}.avi in the data \
                     folder, which MIE_DATA_DIR names, and `mie data prepare nvgesture` makes of \
                     them the frames and their flow, \
                     NVGesture/frames/class_01/subject3_r0/{rgb,depth,flow/flow_x,flow/flow_y}/00000.jpg";

#[typetag::serde(name = "nvgesture")]
impl DatasetConfig for NvgestureConfig {
    fn validate(&self) -> Result<()> {
        let least = self.min_frames.unwrap_or(1);
        ensure_range("min_frames", "at least 1", least, least >= 1)
    }

    fn class_count(&self) -> Option<usize> {
        Some(CLASSES.len())
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        self.validate()?;
        let root = context.resolve(&self.root);
        let parts = self.parts(&root)?;
        let (frames, flow) = (root.join(&self.frames), root.join(&self.flow_arrays));
        let classes = CLASSES.map(str::to_owned).to_vec();
        Ok(Box::new(Nvgesture { config: self.clone(), classes, frames, flow, parts }))
    }

    fn preparations(&self, context: &OpenContext) -> Result<Vec<Preparation>> {
        self.validate()?;
        if self.first_frame != 0 {
            return Err(Error::refused(
                "frames are numbered from 0 when they are prepared",
                "leave out dataset.first_frame",
            ));
        }
        let root = context.resolve(&self.root);
        let every: Arc<dyn Preparer> = Arc::new(Frames(Every::Frame));
        let (mut made, mut flows) = (Vec::new(), Vec::new());
        for (split, part) in self.parts(&root)? {
            for (index, (sample, spans)) in part.samples.iter().zip(&part.spans).enumerate() {
                let clip = root.join(&self.frames).join(&sample.id);
                let videos = root.join(&self.videos).join(&sample.id);
                let streams = &self.streams;
                for (stream, video) in
                    [(&streams.rgb, "sk_color.avi"), (&streams.depth, "sk_depth.avi")]
                {
                    made.push(Preparation {
                        source: videos.join(video),
                        target: clip.join(stream),
                        by: every.clone(),
                    });
                }
                let (form, target) = match self.layout {
                    NvgestureLayout::Frames => {
                        (FlowForm::Pictures { bound_pixels: 20.0 }, clip.join(self.flow_folder()?))
                    }
                    NvgestureLayout::FlowArrays => {
                        let folder = root.join(&self.flow_arrays).join(split.name());
                        (FlowForm::Npy, folder.join(format!("{index}.npy")))
                    }
                };
                let span = (self.span == NvgestureSpan::Listed).then(|| spans.color.clone());
                let device = Device::cuda_if_available();
                let by = FlowFiles { form, span, options: Tvl1Options::DEFAULT, device };
                let source = clip.join(&streams.rgb);
                flows.push(Preparation { source, target, by: Arc::new(by) });
            }
        }
        expect_videos(&made, &root.join(&self.videos), GUIDE)?;
        made.extend(flows);
        Ok(made)
    }
}

impl NvgestureConfig {
    /// Reads the lists.
    fn parts(&self, root: &Path) -> Result<BTreeMap<Split, Part>> {
        let NvgestureLists { train, valid, test } = self.lists.clone();
        let files = ClipLists { train, valid, test }.files(root, &ELSEWHERE, GUIDE)?;
        files.into_iter().map(|(split, file)| Ok((split, read_list(&file)?))).collect()
    }

    /// The folder, in that of a clip, of both folders of flow.
    fn flow_folder(&self) -> Result<&Path> {
        let NvgestureStreams { flow_x, flow_y, .. } = &self.streams;
        match (flow_x.parent(), flow_y.parent()) {
            (Some(folder), Some(other))
                if folder == other
                    && !folder.as_os_str().is_empty()
                    && flow_x.ends_with("flow_x")
                    && flow_y.ends_with("flow_y") =>
            {
                Ok(folder)
            }
            _ => Err(Error::refused(
                "the pictures of the flow have no folder of their own",
                "set dataset.streams.flow_x = \"flow/flow_x\" and flow_y = \"flow/flow_y\"",
            )),
        }
    }
}
register!(
    dataset::<NvgestureConfig>,
    source = "Molchanov et al. 2016 (CVPR); lists: \
              https://github.com/breadbread1984/R3DCNN; layout of the arrays: \
              https://github.com/njustkmg/IJCAI25-IGM"
);

/// Clips of a split; their places are the names of their arrays of flow.
#[derive(Debug, Default)]
struct Part {
    samples: Vec<Sample>,
    spans: Vec<Spans>,
}

/// Frames of a clip in which the gesture happens, of each sensor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spans {
    color: Range<usize>,
    depth: Range<usize>,
}

fn read_list(file: &Path) -> Result<Part> {
    let expected = "`path:…/class_NN/clip`, `depth:` and `color:stem:start:end` and `label:` from \
                    1 to 25, separated by blanks";
    let mut part = Part::default();
    for (number, line) in lists::lines(file)? {
        let (sample, spans) =
            parse_line(&line).ok_or_else(|| lists::fault(file, number, &line, expected))?;
        part.samples.push(sample);
        part.spans.push(spans);
    }
    Ok(part)
}

fn parse_line(line: &str) -> Option<(Sample, Spans)> {
    let mut fields = BTreeMap::new();
    for field in line.split_whitespace() {
        let (key, value) = field.split_once(':')?;
        if fields.insert(key, value).is_some() {
            return None;
        }
    }
    let label = fields.get("label")?.parse::<usize>().ok()?.checked_sub(1);
    let label = label.filter(|&label| label < CLASSES.len())?;
    let spans = Spans { color: span(fields.get("color")?)?, depth: span(fields.get("depth")?)? };
    Some((Sample { id: clip_name(fields.get("path")?)?, label }, spans))
}

/// The last two folders of a path, if they are names of folders.
fn clip_name(path: &str) -> Option<String> {
    let mut folders = path.rsplit('/');
    let (clip, class) = (folders.next()?, folders.next()?);
    let is_name = |name: &str| !["", ".", ".."].contains(&name) && !name.contains(['\\', '\0']);
    (is_name(clip) && is_name(class)).then(|| format!("{class}/{clip}"))
}

/// The frames of a sensor, of which the list has `stem:start:end`.
fn span(value: &str) -> Option<Range<usize>> {
    let parts: Vec<&str> = value.split(':').collect();
    let [_, start, end] = parts[..] else { return None };
    let span: Range<usize> = start.parse().ok()?..end.parse().ok()?;
    (!span.is_empty()).then_some(span)
}

/// The number of the class's folder, from 1, where a clip's name has one.
fn folder_number(id: &str) -> Option<usize> {
    id.strip_prefix("class_")?.split('/').next()?.parse().ok()
}

struct Nvgesture {
    config: NvgestureConfig,
    classes: Vec<String>,
    /// Folder of the clips' folders.
    frames: PathBuf,
    /// Folder of the arrays of flow.
    flow: PathBuf,
    parts: BTreeMap<Split, Part>,
}

impl Nvgesture {
    /// The frames of a stream of a clip in order, with their numbers.
    ///
    /// Fewer than `least` are the same as none: the error is that of files which are not there.
    fn stream(
        &self,
        id: &str,
        stream: &Path,
        span: &Range<usize>,
        least: usize,
    ) -> Result<Vec<(usize, PathBuf)>> {
        let folder = self.frames.join(id).join(stream);
        let entries = std::fs::read_dir(&folder).map_err(Error::io("list", &folder))?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("list", &folder))?.file_name();
            let Some(number) = frame_number(&name) else { continue };
            let frame = number.checked_sub(self.config.first_frame);
            if self.config.span == NvgestureSpan::Whole
                || frame.is_some_and(|frame| span.contains(&frame))
            {
                found.push((number, folder.join(name)));
            }
        }
        found.sort();
        if let Some([_, (number, second)]) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let problem = format!("is a second picture of frame {number}, expected one");
            return Err(Error::data(second, problem));
        }
        if found.len() >= least {
            return Ok(found);
        }
        let among = match self.config.span {
            NvgestureSpan::Listed => format!(" among {} to {}", span.start, span.end - 1),
            NvgestureSpan::Whole => String::new(),
        };
        let problem = format!("it has {} frames{among}, at least {least} are needed", found.len());
        Err(Error::io("use", &folder)(io::Error::new(ErrorKind::NotFound, problem)))
    }

    /// Fewest frames of a stream with this span.
    fn least(&self, span: &Range<usize>) -> usize {
        self.config.min_frames.unwrap_or(match self.config.span {
            NvgestureSpan::Listed => span.len(),
            NvgestureSpan::Whole => 1,
        })
    }

    fn frames(&self, id: &str, stream: &Path, span: &Range<usize>) -> Result<Raw<'_>> {
        let found = self.stream(id, stream, span, self.least(span))?;
        Ok(Raw::Files(found.into_iter().map(|(_, file)| file).collect()))
    }

    /// The pictures of the flow to the right, then as many of that downwards.
    fn flow(&self, id: &str, span: &Range<usize>) -> Result<Raw<'_>> {
        // From the last frame of a video there is no flow.
        let listed = || self.least(span).saturating_sub(1).max(1);
        let least = self.config.min_frames.unwrap_or_else(listed);
        let streams = &self.config.streams;
        let right = self.stream(id, &streams.flow_x, span, least)?;
        let down = self.stream(id, &streams.flow_y, span, least)?;
        if !right.iter().map(|(number, _)| number).eq(down.iter().map(|(number, _)| number)) {
            let problem = format!(
                "has other frames than {}: {} and {}",
                streams.flow_x.display(),
                down.len(),
                right.len()
            );
            return Err(Error::data(self.frames.join(id).join(&streams.flow_y), problem));
        }
        Ok(Raw::Files(right.into_iter().chain(down).map(|(_, file)| file).collect()))
    }
}

/// The number at the end of a picture's name; `None` for other files and hidden ones.
fn frame_number(name: &OsStr) -> Option<usize> {
    let name = Path::new(name);
    let (stem, ending) = (name.file_stem()?.to_str()?, name.extension()?);
    let is_picture = ["jpg", "jpeg", "png"].iter().any(|it| ending.eq_ignore_ascii_case(it));
    if !is_picture || stem.starts_with('.') {
        return None;
    }
    let start = stem.trim_end_matches(|character: char| character.is_ascii_digit()).len();
    stem[start..].parse().ok()
}

impl Dataset for Nvgesture {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn samples(&self, split: Split) -> &[Sample] {
        self.parts.get(&split).map_or(&[], |part| part.samples.as_slice())
    }

    fn modalities(&self) -> Vec<String> {
        ["depth", "flow", "rgb"].map(str::to_owned).to_vec()
    }

    fn raw(&self, split: Split, index: usize, modality: &str) -> Result<Raw<'_>> {
        let clip = self
            .parts
            .get(&split)
            .and_then(|part| Some((&part.samples.get(index)?.id, part.spans.get(index)?)));
        let (id, spans) = clip.ok_or_else(|| no_sample("nvgesture", split, index))?;
        match (modality, self.config.layout) {
            ("depth", _) => self.frames(id, &self.config.streams.depth, &spans.depth),
            ("rgb", _) => self.frames(id, &self.config.streams.rgb, &spans.color),
            ("flow", NvgestureLayout::Frames) => self.flow(id, &spans.color),
            ("flow", NvgestureLayout::FlowArrays) => {
                let folder = self.flow.join(split.name());
                Ok(Raw::File(folder.join(format!("{index}.npy"))))
            }
            (other, _) => Err(no_modality("nvgesture", other, &self.modalities())),
        }
    }

    fn expected(&self) -> Expected {
        let NvgestureLists { train, valid, test } = &self.config.lists;
        if self.config.lists != NvgestureLists::default() {
            // The first version lists the same clips; some have other labels there.
            let first = train.ends_with("nvgesture_train_correct_cvpr2016.lst")
                && valid.is_none()
                && test.ends_with("nvgesture_test_correct_cvpr2016.lst");
            let samples = [(Split::Train, 1050), (Split::Test, 482)];
            let samples = if first { samples.into() } else { BTreeMap::new() };
            return Expected { samples, classes: BTreeMap::new() };
        }
        let counts = PUBLISHED.iter();
        Expected {
            samples: counts.clone().map(|(split, counts)| (*split, counts.iter().sum())).collect(),
            classes: counts.map(|(split, counts)| (*split, counts.to_vec())).collect(),
        }
    }

    fn reachable(&self, modality: &str) -> Result<()> {
        let arrays = self.config.layout == NvgestureLayout::FlowArrays && modality == "flow";
        let (folder, guide) = if arrays {
            let guide = "`mie data prepare nvgesture --set dataset.layout=flow_arrays` makes its \
                         arrays of the frames";
            (&self.flow, guide)
        } else {
            (&self.frames, GUIDE)
        };
        if folder.is_dir() {
            return Ok(());
        }
        Err(no_folder(folder, guide))
    }

    fn inspect(&self, _modality: &str, raw: &Raw<'_>) -> Result<()> {
        match raw {
            Raw::File(file) => formats::npy::inspect(file),
            Raw::Files(files) => files.iter().try_for_each(|file| formats::picture::inspect(file)),
            _ => Ok(()),
        }
    }

    fn mirrored_classes(&self) -> Vec<[usize; 2]> {
        FLIP_PAIRS.to_vec()
    }

    fn inputs(&self) -> BTreeMap<String, Box<dyn ModalityConfig>> {
        let depth = ClipConfig {
            channels: Channels::Grey,
            normalise: Normalisation::Scale,
            ..ClipConfig::default()
        };
        [
            ("depth".to_owned(), Box::new(depth) as Box<dyn ModalityConfig>),
            ("flow".to_owned(), Box::new(FlowConfig::default())),
            ("rgb".to_owned(), Box::new(ClipConfig::default())),
        ]
        .into()
    }

    fn facts(&self) -> Map<String, Value> {
        let differ = |part: &Part| {
            let differs =
                |it: &&Sample| folder_number(&it.id).is_some_and(|number| number != it.label + 1);
            part.samples.iter().filter(differs).count()
        };
        let differing: Map<String, Value> = self
            .parts
            .iter()
            .map(|(split, part)| (split.name().to_owned(), Value::from(differ(part))))
            .collect();
        let mut facts = Map::new();
        facts.insert("flip_pairs".to_owned(), json!(FLIP_PAIRS));
        facts.insert("labels_other_than_folder".to_owned(), Value::Object(differing));
        facts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::super::clips::fixture::{context, write};
    use super::super::text_image::fixture::{counted, names};
    use super::*;
    use crate::formats::real_data;

    const LINE: &str = "path:./Video_data/class_01/subject3_r0 depth:sk_depth:2:5 \
                        color:sk_color:3:6 duo_left:duo_left:170:263 label:2 ";

    fn open(config: &NvgestureConfig, base: &Path) -> Box<dyn Dataset> {
        config.open(&context(base)).unwrap()
    }

    fn raw(dataset: &dyn Dataset, modality: &str) -> Raw<'static> {
        match dataset.raw(Split::Train, 0, modality).unwrap() {
            Raw::File(file) => Raw::File(file),
            Raw::Files(files) => Raw::Files(files),
            other => panic!("{other:?}"),
        }
    }

    fn problem(dataset: &dyn Dataset, modality: &str) -> String {
        dataset.raw(Split::Train, 0, modality).unwrap_err().to_string()
    }

    /// One clip to train with, of six frames, and one to test with, of none.
    fn made_up() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("NVGesture");
        let lists = NvgestureLists::default();
        write(&root.join(lists.train), &format!("{LINE}\n"));
        write(&root.join(lists.test), &LINE.replace("subject3", "subject5"));
        let folder = root.join("frames/class_01/subject3_r0");
        for number in 0..6 {
            write(&folder.join(format!("rgb/0000{number}.jpg")), "");
            write(&folder.join(format!("depth/img{number}.png")), "");
        }
        for number in 0..5 {
            write(&folder.join(format!("flow/flow_x/{number}.jpg")), "");
            write(&folder.join(format!("flow/flow_y/{number}.jpg")), "");
        }
        write(&folder.join("rgb/notes.txt"), "");
        write(&folder.join("rgb/._00003.jpg"), "");
        base
    }

    /// Files of the only training clip.
    fn files(base: &Path, names: &[&str]) -> Raw<'static> {
        let folder = base.join("NVGesture/frames/class_01/subject3_r0");
        Raw::Files(names.iter().map(|name| folder.join(name)).collect())
    }

    #[test]
    fn a_small_copy_gives_the_listed_frames_of_each_stream() {
        let base = made_up();
        let dataset = open(&NvgestureConfig::default(), base.path());
        let dataset = dataset.as_ref();
        let sample = |id: &str| Sample { id: id.to_owned(), label: 1 };
        assert_eq!(dataset.samples(Split::Train), [sample("class_01/subject3_r0")]);
        assert_eq!(dataset.samples(Split::Test), [sample("class_01/subject5_r0")]);
        assert!(dataset.samples(Split::Valid).is_empty());
        let listed = |names: &[&str]| files(base.path(), names);
        let rgb = listed(&["rgb/00003.jpg", "rgb/00004.jpg", "rgb/00005.jpg"]);
        assert_eq!(raw(dataset, "rgb"), rgb);
        let depth = listed(&["depth/img2.png", "depth/img3.png", "depth/img4.png"]);
        assert_eq!(raw(dataset, "depth"), depth);
        // From the last frame there is no flow.
        let flow = listed(&[
            "flow/flow_x/3.jpg",
            "flow/flow_x/4.jpg",
            "flow/flow_y/3.jpg",
            "flow/flow_y/4.jpg",
        ]);
        assert_eq!(raw(dataset, "flow"), flow);
        assert!(problem(dataset, "audio").contains("no modality `audio`, but [\"depth\", "));
        let facts = dataset.facts();
        assert_eq!(facts["labels_other_than_folder"], json!({ "train": 1, "test": 1 }));
        assert_eq!(facts["flip_pairs"], json!([[0, 1], [4, 5], [19, 20]]));
        assert!(matches!(
            dataset.raw(Split::Test, 0, "rgb").unwrap_err(),
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound
        ));
    }

    #[test]
    fn classes_that_a_mirror_swaps_go_to_opposite_sides() {
        let base = made_up();
        let dataset = open(&NvgestureConfig::default(), base.path());
        let swapped: Vec<[&str; 2]> = dataset
            .mirrored_classes()
            .iter()
            .map(|pair| pair.map(|class| dataset.classes()[class].as_str()))
            .collect();
        assert_eq!(
            swapped,
            [
                ["five fingers right", "five fingers left"],
                ["two fingers right", "two fingers left"],
                ["levorotation", "dextrorotation"],
            ]
        );
    }

    #[test]
    fn frames_may_be_numbered_from_one_or_be_no_more_than_the_gesture() {
        let base = made_up();
        let config = NvgestureConfig { first_frame: 1, ..NvgestureConfig::default() };
        let found = problem(open(&config, base.path()).as_ref(), "rgb");
        assert!(found.ends_with("it has 2 frames among 3 to 5, at least 3 are needed"), "{found}");
        let depth = files(base.path(), &["depth/img3.png", "depth/img4.png", "depth/img5.png"]);
        assert_eq!(raw(open(&config, base.path()).as_ref(), "depth"), depth);
        let config = NvgestureConfig { min_frames: Some(2), ..config };
        let rgb = files(base.path(), &["rgb/00004.jpg", "rgb/00005.jpg"]);
        assert_eq!(raw(open(&config, base.path()).as_ref(), "rgb"), rgb);
        let config = NvgestureConfig { span: NvgestureSpan::Whole, ..NvgestureConfig::default() };
        let Raw::Files(all) = raw(open(&config, base.path()).as_ref(), "flow") else { panic!() };
        assert_eq!(all.len(), 10);
        let config = NvgestureConfig { min_frames: Some(0), ..config };
        assert!(config.open(&context(base.path())).is_err());
    }

    #[test]
    fn flow_may_be_an_array_named_after_the_line() {
        let base = made_up();
        let list = base.path().join("NVGesture/nvgesture_test_correct_cvpr2016_v2.lst");
        let other = LINE.replace("subject3", "subject8");
        write(&list, &format!("{}\n\n{other}", LINE.replace("subject3", "subject5")));
        let layout = NvgestureLayout::FlowArrays;
        let config = NvgestureConfig { layout, ..NvgestureConfig::default() };
        let dataset = open(&config, base.path());
        let arrays = base.path().join("NVGesture/Video_data/flow_data");
        assert_eq!(raw(dataset.as_ref(), "flow"), Raw::File(arrays.join("train/0.npy")));
        let second = dataset.raw(Split::Test, 1, "flow").unwrap();
        assert_eq!(second, Raw::File(arrays.join("test/1.npy")));
    }

    #[test]
    fn halves_of_the_flow_that_do_not_fit_and_double_frames_are_refused() {
        let base = made_up();
        let folder = base.path().join("NVGesture/frames/class_01/subject3_r0");
        let dataset = open(&NvgestureConfig::default(), base.path());
        write(&folder.join("flow/flow_y/5.jpg"), "");
        let found = problem(dataset.as_ref(), "flow");
        assert!(found.ends_with("flow_y: has other frames than flow/flow_x: 3 and 2"), "{found}");
        write(&folder.join("rgb/4.png"), "");
        let found = problem(dataset.as_ref(), "rgb");
        assert!(found.ends_with("is a second picture of frame 4, expected one"), "{found}");
    }

    #[test]
    fn broken_lines_are_refused_with_file_and_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (part, instead) in [
            ("label:2", "label:0"),
            ("label:2", "label:26"),
            ("label:2", "label:two"),
            ("label:2", ""),
            ("label:2", "label:2 label:2"),
            ("label:2", "label:2 more"),
            ("color:sk_color:3:6", "color:sk_color:3"),
            ("color:sk_color:3:6", "color:sk_color:6:6"),
            ("depth:sk_depth:2:5", "depth:sk_depth:-2:5"),
            ("class_01/subject3_r0", "class_01/.."),
            ("./Video_data/class_01/subject3_r0", "subject3_r0"),
        ] {
            let broken = LINE.replace(part, instead);
            std::fs::write(file.path(), format!("{LINE}\r\n\r\n{broken}\r\n")).unwrap();
            let error = read_list(file.path()).unwrap_err().to_string();
            assert!(error.contains(": line 3: found \"path:"), "{error}");
            assert!(error.contains("`label:` from 1 to 25"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_is_to_be_had() {
        let base = made_up();
        let root = base.path().join("NVGesture");
        let config = NvgestureConfig::default();
        let refusal = || config.open(&context(base.path())).err().unwrap().to_string();
        let unprepared = config.preparations(&context(base.path())).err().unwrap().to_string();
        let missing = "NVGesture/Video_data: there is no such folder of videos; ask NVIDIA";
        assert!(unprepared.contains(missing), "{unprepared}");
        std::fs::rename(root.join("frames"), root.join("other")).unwrap();
        let ask = "ask NVIDIA for the videos";
        let make = "`mie data prepare nvgesture --set dataset.layout=flow_arrays` makes";
        for (layout, modality, folder, remedy) in [
            (NvgestureLayout::Frames, "depth", "NVGesture/frames", ask),
            (NvgestureLayout::Frames, "flow", "NVGesture/frames", ask),
            (NvgestureLayout::FlowArrays, "flow", "NVGesture/Video_data/flow_data", make),
        ] {
            let config = NvgestureConfig { layout, ..config.clone() };
            let error = open(&config, base.path()).reachable(modality).unwrap_err().to_string();
            let missing = format!("{folder}: there is no such folder; {remedy}");
            assert!(error.contains(&missing), "{error}");
        }
        let list = root.join(NvgestureLists::default().test);
        std::fs::rename(list, root.join("nvgesture_test_correct_v2.lst")).unwrap();
        let error = refusal();
        let hint = "set dataset.lists.test = \"nvgesture_test_correct_v2.lst\"";
        assert!(error.contains(hint), "{error}");
    }

    #[test]
    fn the_real_lists_have_the_published_numbers() {
        let Some(splits) = real_data::folder("splits") else { return };
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("frames")).unwrap();
        for (names_of, folder, differing) in [
            (["train_correct_cvpr2016_v2", "test_correct_cvpr2016_v2"], "nvgesture", [15, 8]),
            (["train_correct_cvpr2016", "test_correct_cvpr2016"], "nvgesture/v1", [0, 0]),
        ] {
            let [train, test] =
                names_of.map(|name| splits.join(folder).join(format!("nvgesture_{name}.lst")));
            let config = NvgestureConfig {
                root: base.path().to_owned(),
                lists: NvgestureLists { train, valid: None, test },
                ..NvgestureConfig::default()
            };
            let dataset = open(&config, Path::new(""));
            let dataset = dataset.as_ref();
            let expected = json!({ "train": differing[0], "test": differing[1] });
            assert_eq!(dataset.facts()["labels_other_than_folder"], expected);
            assert_eq!(names(dataset).len(), 1050 + 482);
            let counts = counted(dataset);
            let sums =
                [Split::Train, Split::Test].map(|split| counts[&split].iter().sum::<usize>());
            assert_eq!(sums, [1050, 482]);
            if differing == [15, 8] {
                let published = PUBLISHED.iter().map(|(split, counts)| (*split, counts.to_vec()));
                assert_eq!(counts, published.collect::<BTreeMap<_, _>>());
            }
        }
    }

    #[test]
    fn the_real_spans_have_eighty_frames_and_the_people_of_the_splits_differ() {
        let Some(splits) = real_data::folder("splits") else { return };
        let mut people = Vec::new();
        let mut others = Vec::new();
        for name in ["train", "test"] {
            let file = format!("nvgesture/nvgesture_{name}_correct_cvpr2016_v2.lst");
            let part = read_list(&splits.join(file)).unwrap();
            let all = part.spans.iter().flat_map(|spans| [&spans.color, &spans.depth]);
            assert!(all.clone().all(|span| span.len() == 80));
            others.push(part.spans.iter().filter(|spans| spans.color != spans.depth).count());
            let person = |sample: &Sample| {
                let clip = sample.id.split_once('/').unwrap().1;
                let number = clip.strip_prefix("subject").unwrap().split_once('_').unwrap().0;
                number.parse::<u32>().unwrap()
            };
            people.push(part.samples.iter().map(person).collect::<BTreeSet<u32>>());
        }
        assert_eq!(others, [4, 0]);
        assert_eq!(people[0], BTreeSet::from([1, 2, 3, 4, 6, 7, 11, 12, 15, 16, 17, 18]));
        assert_eq!(people[1], BTreeSet::from([5, 8, 9, 13, 14, 20]));
    }

    #[test]
    fn the_numbers_belong_to_the_default_lists() {
        let base = made_up();
        let dataset = open(&NvgestureConfig::default(), base.path());
        let samples = BTreeMap::from([(Split::Train, 1050), (Split::Test, 482)]);
        assert_eq!(dataset.expected().samples, samples);
        let list = NvgestureLists::default().train;
        let lists = NvgestureLists { valid: Some(list), ..NvgestureLists::default() };
        let config = NvgestureConfig { lists, ..NvgestureConfig::default() };
        assert_eq!(open(&config, base.path()).expected(), Expected::default());
    }

    #[test]
    fn the_real_clips_of_the_small_set_have_twenty_frames_of_each_stream() {
        let Some(root) = real_data::folder("nvgesture_mini") else { return };
        let list = |name: &str| PathBuf::from(format!("mini_{name}.lst"));
        let config = NvgestureConfig {
            root,
            lists: NvgestureLists { train: list("train"), valid: None, test: list("test") },
            span: NvgestureSpan::Whole,
            streams: NvgestureStreams {
                flow_x: PathBuf::from("flow_x"),
                flow_y: PathBuf::from("flow_y"),
                ..NvgestureStreams::default()
            },
            ..NvgestureConfig::default()
        };
        let dataset = open(&config, Path::new(""));
        let dataset = dataset.as_ref();
        let counts = counted(dataset);
        assert_eq!(counts[&Split::Train], [1; 25]);
        let tested: Vec<usize> = (0..25).map(|class| usize::from(class != 19)).collect();
        assert_eq!(counts[&Split::Test], tested);
        assert_eq!(names(dataset).len(), 49);
        for split in [Split::Train, Split::Test] {
            for index in 0..dataset.samples(split).len() {
                for (modality, count) in [("rgb", 20), ("depth", 20), ("flow", 40)] {
                    let Raw::Files(files) = dataset.raw(split, index, modality).unwrap() else {
                        panic!("{modality} is no pictures");
                    };
                    assert_eq!(files.len(), count);
                    assert!(files.iter().all(|file| file.is_file()));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_list_names_folders_of_classes_or_is_refused_with_its_line(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    LINE, "\n", "\r\n", "path:x/class_09/a ", "depth:d:0:80 ",
                    "color:c:0:18446744073709551615 ", "label:25 ", "label:2 ", "path:../.. ",
                    "path:a/b:c ", "path:class_18446744073709551615/a ", ":", "é", "\0",
                    "color:c:9:8 ",
                ]),
                0..12,
            ),
            bytes in prop::collection::vec(any::<u8>(), 0..3),
            whole in any::<bool>(),
        ) {
            let base = tempfile::tempdir().unwrap();
            let root = base.path().join("NVGesture");
            std::fs::create_dir_all(root.join("frames")).unwrap();
            let span = if whole { NvgestureSpan::Whole } else { NvgestureSpan::Listed };
            let config = NvgestureConfig { span, ..NvgestureConfig::default() };
            write(&root.join(&config.lists.test), "");
            let content = [pieces.concat().as_bytes(), bytes.as_slice()].concat();
            std::fs::write(root.join(&config.lists.train), content).unwrap();
            match config.open(&context(base.path())) {
                Ok(dataset) => {
                    prop_assert_eq!(dataset.facts().len(), 2);
                    for (index, sample) in dataset.samples(Split::Train).iter().enumerate() {
                        prop_assert!(sample.label < CLASSES.len());
                        let folders: Vec<&str> = sample.id.split('/').collect();
                        prop_assert!(folders.len() == 2 && !folders.contains(&".."));
                        for modality in dataset.modalities() {
                            prop_assert!(dataset.raw(Split::Train, index, &modality).is_err());
                        }
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains(".lst: line "), "{}", error);
                }
            }
        }

        #[test]
        fn any_line_of_four_fields_has_spans_that_are_not_empty(
            start in any::<usize>(),
            end in any::<usize>(),
            label in 0usize..30,
        ) {
            let line = format!("path:v/c/d depth:s:{start}:{end} color:s:0:1 label:{label}");
            let found = parse_line(&line);
            prop_assert_eq!(found.is_some(), start < end && (1..=25).contains(&label));
        }
    }
}
