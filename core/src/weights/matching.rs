//! Which tensor of a file is which of an encoder.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::config::{FirstLayer, WeightsSection};
use crate::error::Result;
use crate::family::Published;

/// Most names of a kind that a message lists.
const SHOWN: usize = 5;

/// Shapes by name.
type Shapes = BTreeMap<String, Vec<i64>>;

/// A file held against an encoder.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Matched {
    /// Names in the file, by those of the encoder: what is loaded.
    pub(super) pairs: BTreeMap<String, String>,
    /// Channels of the encoder's input, by the tensors that are adapted to them.
    pub(super) adapted: BTreeMap<String, i64>,
    /// What was done about the first layer, in words.
    pub(super) first_layer: Option<String>,
    /// Whether the first layer has another number of input channels than the file's.
    pub(super) first_layer_differs: bool,
    /// Tensors of the encoder that the file does not have.
    pub(super) missing: Vec<String>,
    /// Tensors of the file that the encoder does not have.
    pub(super) unexpected: Vec<String>,
    /// Tensors of other shapes, in words.
    pub(super) reshaped: Vec<String>,
    /// A start of names without which more of them would be known.
    pub(super) likely_prefix: Option<String>,
}

impl Matched {
    /// Whether the file is for this encoder.
    pub(super) fn fits(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.reshaped.is_empty()
            && !self.pairs.is_empty()
    }

    /// Says how file and encoder differ.
    pub(super) fn differences(&self) -> String {
        let kinds = [
            (&self.missing, "missing in it"),
            (&self.unexpected, "unknown to the encoder"),
            (&self.reshaped, "of another shape"),
        ];
        let mut parts = Vec::new();
        if self.pairs.is_empty() {
            parts.push("it has no tensor of the encoder".to_owned());
        }
        for (names, what) in kinds {
            if names.is_empty() {
                continue;
            }
            let more = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let shown = names[..names.len().min(SHOWN)].join(", ");
            parts.push(format!("{} {what} ({shown}{more})", names.len()));
        }
        parts.join("; ")
    }
}

/// Finds the tensor of the file for each of the encoder.
///
/// # Errors
/// When two tensors of the file would be the same of the encoder.
pub(super) fn matched(
    file: &Shapes,
    own: &Shapes,
    published: &Published,
    options: &WeightsSection,
) -> Result<Matched, String> {
    let mut matched = Matched::default();
    // Names in the file by those of the encoder.
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let prefix = options.prefix.as_deref().unwrap_or_default();
    for (name, shape) in file {
        // With a prefix, what has another start belongs to another part of a larger model.
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        if rest.ends_with("num_batches_tracked") {
            continue;
        }
        let spellings = spellings(rest, published);
        let Some(known) = spellings.iter().find(|spelling| own.contains_key(*spelling)) else {
            let is_unused =
                |start: &&str| spellings.iter().any(|spelling| spelling.starts_with(*start));
            if !published.unused.iter().any(is_unused) {
                matched.unexpected.push(name.clone());
            }
            continue;
        };
        if let Some(other) = seen.insert(known.clone(), name.clone()) {
            return Err(format!("both `{other}` and `{name}` would be `{known}` of the encoder"));
        }
        let expected = &own[known];
        if shape == expected || matched.adapts(known, shape, expected, published, options) {
            matched.pairs.insert(known.clone(), name.clone());
        }
    }
    matched.missing = own.keys().filter(|name| !seen.contains_key(*name)).cloned().collect();
    matched.likely_prefix = likely_prefix(&matched.missing, &matched.unexpected);
    Ok(matched)
}

impl Matched {
    /// Decides about a tensor whose shape is another one in the file: whether it is taken over.
    fn adapts(
        &mut self,
        name: &str,
        found: &[i64],
        expected: &[i64],
        published: &Published,
        options: &WeightsSection,
    ) -> bool {
        let channels = match (found, expected) {
            ([out, from, kernel @ ..], [own_out, to, own_kernel @ ..])
                if is_first(name, published) && (out, kernel) == (own_out, own_kernel) =>
            {
                Some((*from, *to)).filter(|(from, _)| *from > 0)
            }
            _ => None,
        };
        self.first_layer_differs |= channels.is_some();
        let how = match options.first_layer {
            FirstLayer::Refuse => None,
            FirstLayer::Mean => Some("mean"),
            FirstLayer::Repeat => Some("repeat"),
            FirstLayer::Random => Some("random"),
        };
        let (Some((from, to)), Some(how)) = (channels, how) else {
            self.reshaped.push(format!("{name}: {found:?} in the file, {expected:?} here"));
            return false;
        };
        self.first_layer = Some(format!("{name}: {from} channels published, {to} here: {how}"));
        if options.first_layer == FirstLayer::Random {
            return false;
        }
        self.adapted.insert(name.to_owned(), to);
        true
    }
}

/// Whether a tensor is the weight of the first layer; both ways of naming it are understood.
fn is_first(name: &str, published: &Published) -> bool {
    published
        .first_layer
        .is_some_and(|first| name == first || name.strip_suffix(".weight") == Some(first))
}

/// Names that a tensor of a file may have in the encoder, the likeliest first.
fn spellings(name: &str, published: &Published) -> Vec<String> {
    let stripped = published.prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
    let mut spellings = Vec::new();
    for name in stripped.into_iter().chain([name]) {
        let renamed = published
            .renames
            .iter()
            .fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
        spellings.push(renamed);
        spellings.push(name.to_owned());
    }
    spellings
}

/// Finds what stands before the name of something missing in names that are unknown.
fn likely_prefix(missing: &[String], unexpected: &[String]) -> Option<String> {
    let name = missing.first()?;
    let prefixes = unexpected.iter().filter_map(|found| found.strip_suffix(name.as_str()));
    prefixes
        .filter(|prefix| prefix.ends_with('.'))
        .min_by_key(|prefix| prefix.len())
        .map(Into::into)
}

/// Takes the weights `[out, published, …]` of a first layer over to another number of channels.
///
/// ```text
/// mean:    w'[o, c] = (published / channels) * mean over p of w[o, p]
/// repeat:  w'[o, c] = (published / channels) * w[o, c mod published]
/// ```
///
/// An input whose channels are all equal gives what it gave before: with `mean` for any number of
/// channels, with `repeat` for multiples of the published one.
pub(super) fn adapt(weights: &Tensor, channels: i64, how: FirstLayer) -> Result<Tensor> {
    let published = weights.size().get(1).copied().unwrap_or(1).max(1);
    let scale = published as f64 / channels.max(1) as f64;
    let spread = if how == FirstLayer::Mean {
        let mean = weights.f_mean_dim(1i64, true, None::<Kind>)?;
        mean.f_index_select(1, &Tensor::f_zeros([channels], (Kind::Int64, mean.device()))?)?
    } else {
        let order: Vec<i64> = (0..channels).map(|channel| channel % published).collect();
        let order = Tensor::f_from_slice(&order)?.f_to_device(weights.device())?;
        weights.f_index_select(1, &order)?
    };
    Ok(spread.f_mul_scalar(scale)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(all: &[(&str, &[i64])]) -> Shapes {
        all.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    }

    fn options() -> WeightsSection {
        serde_json::from_value(serde_json::json!({ "file": "a" })).unwrap()
    }

    const PUBLISHED: Published = Published {
        prefixes: &["model.", "net.model."],
        unused: &["head.", "pooler."],
        renames: &[("gamma", "weight"), ("beta", "bias")],
        first_layer: Some("conv1.weight"),
    };

    #[test]
    fn prefixes_old_spellings_and_unused_tensors_are_known() {
        let own = shapes(&[("norm.weight", &[2]), ("norm.bias", &[2]), ("out.weight", &[2, 2])]);
        let file = shapes(&[
            ("model.norm.gamma", &[2]),
            ("model.norm.beta", &[2]),
            ("out.weight", &[2, 2]),
            ("model.head.weight", &[9]),
            ("pooler.bias", &[9]),
            ("model.norm.num_batches_tracked", &[]),
        ]);
        let found = matched(&file, &own, &PUBLISHED, &options()).unwrap();
        assert!(found.fits(), "{found:?}");
        assert_eq!(found.pairs["norm.weight"], "model.norm.gamma");
        assert_eq!(found.pairs["out.weight"], "out.weight");
        assert_eq!(found.pairs.len(), 3);
    }

    #[test]
    fn a_prefix_chooses_one_part_of_a_larger_model() {
        let own = shapes(&[("a", &[1]), ("b", &[2])]);
        let file =
            shapes(&[("audio.a", &[1]), ("audio.b", &[2]), ("video.a", &[3]), ("fusion.c", &[4])]);
        let plain = matched(&file, &own, &PUBLISHED, &options()).unwrap();
        assert_eq!(plain.missing, ["a", "b"]);
        assert_eq!(plain.unexpected.len(), 4);
        assert!(plain.likely_prefix.as_deref().is_some_and(|prefix| prefix.ends_with('.')));
        let chosen = WeightsSection { prefix: Some("audio.".to_owned()), ..options() };
        let found = matched(&file, &own, &PUBLISHED, &chosen).unwrap();
        assert!(found.fits(), "{found:?}");
        assert_eq!(found.pairs["b"], "audio.b");
    }

    #[test]
    fn two_tensors_for_one_place_are_refused() {
        let file = shapes(&[("a", &[1]), ("model.a", &[1])]);
        let error = matched(&file, &shapes(&[("a", &[1])]), &PUBLISHED, &options()).unwrap_err();
        assert_eq!(error, "both `a` and `model.a` would be `a` of the encoder");
    }

    #[test]
    fn another_number_of_input_channels_is_what_the_option_says() {
        let own = shapes(&[("conv1.weight", &[8, 1, 3, 3]), ("conv2.weight", &[8, 1, 3, 3])]);
        let file = shapes(&[("conv1.weight", &[8, 3, 3, 3]), ("conv2.weight", &[8, 1, 3, 3])]);
        let with = |first_layer| {
            let options = WeightsSection { first_layer, ..options() };
            matched(&file, &own, &PUBLISHED, &options).unwrap()
        };
        let refused = with(FirstLayer::Refuse);
        assert!(refused.first_layer_differs && !refused.fits());
        assert_eq!(refused.reshaped, ["conv1.weight: [8, 3, 3, 3] in the file, [8, 1, 3, 3] here"]);
        let mean = with(FirstLayer::Mean);
        assert!(mean.fits(), "{mean:?}");
        assert_eq!((mean.adapted["conv1.weight"], mean.pairs.len()), (1, 2));
        let random = with(FirstLayer::Random);
        assert!(random.fits() && random.adapted.is_empty(), "{random:?}");
        assert!(!random.pairs.contains_key("conv1.weight"));
        assert!(random.first_layer.unwrap().ends_with("3 channels published, 1 here: random"));
        // Another kernel is another layer, and another layer is not the first.
        for file in [
            [("conv1.weight", &[8, 3, 5, 5][..]), ("conv2.weight", &[8, 1, 3, 3])],
            [("conv1.weight", &[8, 1, 3, 3]), ("conv2.weight", &[8, 3, 3, 3])],
        ] {
            let options = WeightsSection { first_layer: FirstLayer::Mean, ..options() };
            let found = matched(&shapes(&file), &own, &PUBLISHED, &options).unwrap();
            assert_eq!((found.reshaped.len(), found.first_layer), (1, None));
        }
    }

    #[test]
    fn weights_for_other_channels_keep_the_size_of_activations() {
        let weights = Tensor::from_slice(&[3.0f32, 6.0, 9.0]).view([1, 3, 1]);
        let adapted = |channels, how| {
            let tensor = adapt(&weights, channels, how).unwrap();
            assert_eq!(tensor.size(), [1, channels, 1]);
            Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap()
        };
        assert_eq!(adapted(1, FirstLayer::Mean), [18.0]);
        assert_eq!(adapted(6, FirstLayer::Mean), [3.0; 6]);
        assert_eq!(adapted(4, FirstLayer::Repeat), [2.25, 4.5, 6.75, 2.25]);
        assert_eq!(adapted(1, FirstLayer::Repeat), [9.0]);
    }

    #[test]
    fn differences_are_counted_and_the_first_of_them_named() {
        let missing: Vec<String> = (0..7).map(|number| format!("layer{number}")).collect();
        let matched = Matched { missing, unexpected: vec!["x".to_owned()], ..Matched::default() };
        assert_eq!(
            matched.differences(),
            "it has no tensor of the encoder; 7 missing in it (layer0, layer1, layer2, layer3, \
             layer4 and 2 more); 1 unknown to the encoder (x)"
        );
    }
}
