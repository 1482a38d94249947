//! Short runs on real files.

use mie_core::config::Resolved;
use mie_record::Event;

use crate::support::{data, finished, root};

fn short(config: &str, further: &[&str]) -> Option<(mie_record::Summary, Vec<Event>)> {
    data()?;
    let file = root().join("configs/experiments/av_digits").join(config);
    let assignments: Vec<String> = ["strategy.repeat=1", "run.workers=1"]
        .iter()
        .chain(further)
        .map(|text| (*text).to_owned())
        .collect();
    let (summary, _, events) = finished(&Resolved::read(&file, &assignments).unwrap());
    Some((summary, events))
}

#[test]
fn mie_learns_from_real_recordings_and_pictures() {
    let further = ["strategy.epochs=[6, 4]"];
    let Some((summary, _)) = short("mie.toml", &further) else { return };
    let test = &summary.outputs["test"];
    assert_eq!(test["fused"].samples, 300);
    // Ten classes: chance is 0.1.
    for output in ["audio", "image", "fused"] {
        assert!(test[output].accuracy > 0.25, "{output}: {}", test[output].accuracy);
    }
}

#[test]
fn convolutions_of_encoders_are_modified_by_their_patches() {
    let further = [
        "strategy.epochs=[1, 1]",
        "data.train_per_class=12",
        "gradient_modifiers.0.scope={ share = 1.0 }",
    ];
    let Some((_, events)) = short("gm_only.toml", &further) else { return };
    let report = events
        .into_iter()
        .find_map(|event| match event {
            Event::Refresh { report, .. } => Some(report),
            _ => None,
        })
        .unwrap();
    let layers: Vec<(&str, i64)> = report[0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| (layer["layer"].as_str().unwrap(), layer["width"].as_i64().unwrap()))
        .collect();
    let expected = [
        ("encoder.image.conv1", 9),
        ("encoder.image.conv2", 16 * 9),
        ("encoder.image.conv3", 32 * 9),
        ("head.image.fc1", 1024),
        ("head.image.fc2", 256),
        ("head.image.fc3", 64),
    ];
    assert_eq!(layers, expected);
    assert_eq!(report[0]["unpaired"], serde_json::json!([]));
}

/// A copy of the digits, by links, without one recording; gives its data folder.
fn without_one_recording() -> Option<tempfile::TempDir> {
    use std::os::unix::fs::symlink;
    let from = data()?.join("avdigits").canonicalize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("avdigits");
    std::fs::create_dir_all(to.join("fsdd/recordings")).unwrap();
    for name in ["mnist", "pairs_train.tsv", "pairs_valid.tsv", "pairs_test.tsv"] {
        symlink(from.join(name), to.join(name)).unwrap();
    }
    for entry in std::fs::read_dir(from.join("fsdd/recordings")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if name != "3_theo_37.wav" {
            symlink(&path, to.join("fsdd/recordings").join(name)).unwrap();
        }
    }
    Some(folder)
}

#[test]
fn a_missing_file_is_refused_by_name_or_skipped_and_recorded() {
    let Some(folder) = without_one_recording() else { return };
    let file = root().join("configs/experiments/av_digits/unimodal_audio.toml");
    let open = |assignments: &[&str]| {
        let assignments: Vec<String> = assignments.iter().map(|text| (*text).to_owned()).collect();
        let resolved = Resolved::read(&file, &assignments).unwrap();
        mie_core::engine::open_data(&resolved.experiment, folder.path())
    };
    let error = open(&[]).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("is incomplete: 1 file cannot be read"), "{error}");
    assert!(error.contains("fsdd/recordings/3_theo_37.wav (not found)"), "{error}");
    assert!(error.contains("data.on_missing = \"skip\""), "{error}");
    let source = open(&["data.on_missing=skip"]).unwrap();
    let skipped: Vec<String> =
        source.records().into_iter().flat_map(|record| record.skipped).collect();
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0].starts_with("3_theo_37"), "{skipped:?}");
    // Leaving a sample out by name needs no file.
    let id = skipped[0].split(':').next().unwrap();
    let source = open(&[&format!("data.exclude=[\"{id}\"]")]).unwrap();
    assert!(source.records().iter().any(|record| record.skipped.len() == 1));
}
