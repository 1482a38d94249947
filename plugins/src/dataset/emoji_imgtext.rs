//! Emoji: small pictures with their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mie_core::prelude::*;
use serde_json::Map;

use super::text_image::{Part, TextImage, complete, picture_name, stem};
use crate::formats::lists;

/// Reads pictures of emoji with their English names: a small set under open licences.
///
/// Eight classes, the groups of Unicode; 1629 pairs of a picture, 72 x 72 pixels with transparency,
/// and a name such as `grinning face`, without flags and skin tones. Real but easy: the name says
/// much by itself. Good for trying out image and text on a small machine.
///
/// The pictures are those of Noto Emoji, <https://github.com/googlefonts/noto-emoji>, folder
/// `png/72`, commit b3e3051a (Apache-2.0 and OFL-1.1); names and groups are of
/// <https://unicode.org/Public/emoji/15.1/emoji-test.txt>. They are expected as
///
/// ```text
/// emoji_imgtext/train.tsv
/// emoji_imgtext/valid.tsv
/// emoji_imgtext/test.tsv
/// emoji_imgtext/images/emoji_u1f600.png
/// ```
///
/// A list starts with the line `image text group subgroup label` and holds these for each picture,
/// separated by tabs; `label` is the number of the group, from 0. The SHA-1 of a picture's file
/// name as a fraction of the largest decides its split, which makes 1125, 240 and 264 pairs:
///
/// ```text
/// train  below 0.70        valid  below 0.85        test  the others
/// ```
///
/// Modalities: `image`, a PNG file; `text`, the name.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmojiImgtextConfig {
    /// Folder of the dataset, relative to the data folder. Default `emoji_imgtext`.
    pub root: PathBuf,
}

impl Default for EmojiImgtextConfig {
    fn default() -> Self {
        Self { root: PathBuf::from("emoji_imgtext") }
    }
}

/// The groups of Unicode, in label order. Flags are left out, so there is no ninth.
const GROUPS: [&str; 8] = [
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
];

/// Pairs of each class.
const COUNTS: [(Split, [usize; 8]); 3] = [
    (Split::Train, [129, 241, 103, 98, 159, 52, 187, 156]),
    (Split::Valid, [19, 64, 28, 17, 24, 20, 39, 29]),
    (Split::Test, [20, 80, 22, 20, 35, 13, 36, 38]),
];

const HEADER: &str = "image\ttext\tgroup\tsubgroup\tlabel";

const GUIDE: &str = "take the pictures from https://github.com/googlefonts/noto-emoji (png/72), \
                     names and groups from https://unicode.org/Public/emoji/15.1/emoji-test.txt; \
                     lay them out as emoji_imgtext/images/<picture>.png and \
                     emoji_imgtext/{train,valid,test}.tsv (`mie plugins emoji_imgtext` says how \
                     they are written and split) in the data folder, which MIE_DATA_DIR names";

#[typetag::serde(name = "emoji_imgtext")]
impl DatasetConfig for EmojiImgtextConfig {
    fn class_count(&self) -> Option<usize> {
        Some(GROUPS.len())
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Dataset>> {
        let root = context.resolve(&self.root);
        let mut parts = BTreeMap::new();
        for split in Split::ALL {
            let file = root.join(format!("{}.tsv", split.name()));
            if !file.is_file() {
                return Err(Error::data(file, format!("there is no such list; {GUIDE}")));
            }
            parts.insert(split, read_list(&file)?);
        }
        Ok(Box::new(TextImage {
            dataset: "emoji_imgtext",
            classes: GROUPS.map(str::to_owned).to_vec(),
            parts,
            folder: root.join("images"),
            guide: GUIDE,
            expected: complete(&COUNTS),
            remarks: Vec::new(),
            facts: Map::new(),
        }))
    }
}
register!(
    dataset::<EmojiImgtextConfig>,
    source = "https://github.com/googlefonts/noto-emoji; Unicode emoji-test 15.1; split: ours"
);

fn read_list(file: &Path) -> Result<Part> {
    let lines = lists::lines(file)?;
    let (number, header) = lines.first().map_or((1, ""), |(number, line)| (*number, line));
    if header != HEADER {
        let expected = "the header image, text, group, subgroup, label, separated by tabs";
        return Err(lists::fault(file, number, header, expected));
    }
    let mut part = Part::default();
    for (number, line) in &lines[1..] {
        let expected = "a picture, its name, its group, a subgroup and the number of the group \
                        from 0 to 7, separated by tabs";
        let (sample, text, picture) =
            parse_line(line).ok_or_else(|| lists::fault(file, *number, line, expected))?;
        part.add(sample, text, picture);
    }
    Ok(part)
}

fn parse_line(line: &str) -> Option<(Sample, String, PathBuf)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [image, text, group, _, label] = fields[..] else { return None };
    let picture = picture_name(image)?;
    let label = label.trim().parse::<usize>().ok()?;
    if GROUPS.get(label) != Some(&group) {
        return None;
    }
    let sample = Sample { id: stem(picture).to_owned(), label };
    Some((sample, text.to_owned(), PathBuf::from(picture)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::super::clips::fixture::{context, write};
    use super::super::text_image::fixture::{counted, names, picture, text};
    use super::*;
    use crate::formats::real_data;

    /// A pair of each split, and one of its three pictures.
    fn made_up() -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("emoji_imgtext");
        for (split, row) in [
            ("train", "emoji_u1f603.png\tgrinning face\tSmileys & Emotion\tface-smiling\t0"),
            ("valid", "emoji_u1f422.png\tturtle\tAnimals & Nature\tanimal-reptile\t2"),
            ("test", "emoji_u1f51f.png\tkeycap: 10\tSymbols\tkeycap\t7"),
        ] {
            write(&root.join(format!("{split}.tsv")), &format!("{HEADER}\n{row}\n"));
        }
        write(&root.join("images/emoji_u1f603.png"), "a picture");
        base
    }

    #[test]
    fn a_small_copy_gives_names_and_pictures() {
        let base = made_up();
        let dataset = EmojiImgtextConfig::default().open(&context(base.path())).unwrap();
        assert_eq!(dataset.classes()[7], "Symbols");
        let sample = Sample { id: "emoji_u1f422".to_owned(), label: 2 };
        assert_eq!(dataset.samples(Split::Valid), [sample]);
        assert_eq!(text(dataset.as_ref(), Split::Test, 0), "keycap: 10");
        let file = base.path().join("emoji_imgtext/images/emoji_u1f603.png");
        assert_eq!(picture(dataset.as_ref(), Split::Train, 0), file);
    }

    #[test]
    fn a_group_that_its_number_contradicts_and_other_broken_lines_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = |line: &str| {
            std::fs::write(file.path(), format!("{HEADER}\r\n\r\n{line}\r\n")).unwrap();
            read_list(file.path()).map(|_| ()).unwrap_err().to_string()
        };
        for line in [
            "a.png\ta\tSymbols\tkeycap\t6",
            "a.png\ta\tFlags\tflag\t8",
            "a.png\ta\tSymbols\tkeycap",
            "\ta\tSymbols\tkeycap\t7",
            "a.png\ta\tSymbols\tkeycap\t7\tmore",
        ] {
            let error = refusal(line);
            assert!(error.contains(": line 3: found \"") && error.contains("expected a picture"));
        }
        std::fs::write(file.path(), "image\ttext\tlabel\n").unwrap();
        let error = read_list(file.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("line 1: found \"image\\ttext\\tlabel\", expected the header"));
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_is_to_be_had() {
        let base = made_up();
        let config = EmojiImgtextConfig::default();
        std::fs::remove_file(base.path().join("emoji_imgtext/valid.tsv")).unwrap();
        let error = config.open(&context(base.path())).err().unwrap().to_string();
        assert!(error.contains("valid.tsv: there is no such list; take the pictures"), "{error}");
    }

    #[test]
    fn the_real_lists_have_the_numbers_and_every_picture_is_there() {
        let Some(root) = real_data::folder("emoji_imgtext") else { return };
        let dataset = EmojiImgtextConfig { root }.open(&context(Path::new(""))).unwrap();
        let dataset = dataset.as_ref();
        assert_eq!(counted(dataset), dataset.expected().classes);
        let expected = [(Split::Train, 1125), (Split::Valid, 240), (Split::Test, 264)];
        assert_eq!(dataset.expected().samples, BTreeMap::from(expected));
        assert_eq!(names(dataset).len(), 1629);
        for split in Split::ALL {
            for index in 0..dataset.samples(split).len() {
                assert!(picture(dataset, split, index).is_file());
                assert!(!text(dataset, split, index).is_empty());
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
        fn any_list_names_pictures_in_their_folder_or_is_refused_with_its_line(
            headed in 0usize..8,
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "a.png\ta\tSymbols\tkeycap\t7\n", "x/b.png\t\tObjects\t\t6\r\n",
                    "c\tc\tFlags\tflag\t8\n", "\n", "\t", "..", "/", "\0", "é", "Symbols", "7",
                ]),
                0..5,
            ),
            bytes in prop::collection::vec(any::<u8>(), 0..3),
        ) {
            let base = tempfile::tempdir().unwrap();
            let root = base.path().join("emoji_imgtext");
            std::fs::create_dir_all(root.join("images")).unwrap();
            let start = if headed > 0 { format!("{HEADER}\n") } else { String::new() };
            let content = [start.as_bytes(), pieces.concat().as_bytes(), bytes.as_slice()].concat();
            std::fs::write(root.join("train.tsv"), content).unwrap();
            for name in ["valid.tsv", "test.tsv"] {
                write(&root.join(name), HEADER);
            }
            match EmojiImgtextConfig::default().open(&context(base.path())) {
                Ok(dataset) => {
                    for (index, sample) in dataset.samples(Split::Train).iter().enumerate() {
                        prop_assert!(sample.label < GROUPS.len());
                        let file = picture(dataset.as_ref(), Split::Train, index);
                        let images = root.join("images");
                        prop_assert_eq!(file.parent(), Some(images.as_path()));
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains("train.tsv: line "), "{}", error);
                }
            }
        }
    }
}
