//! Short runs on real files.

use std::sync::Arc;

use mie_core::config::Resolved;
use mie_core::data::{Batches, Request};
use mie_core::prelude::*;
use mie_record::Event;

use crate::support::{data, finished, root};

fn short(config: &str, further: &[&str]) -> Option<(mie_record::Summary, Vec<Event>)> {
    data()?;
    let file = root().join("configs/experiments/av_digits").join(config);
    let assignments: Vec<String> = ["strategy.repeat=1", "run.workers=1", "run.cache_gigabytes=0"]
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

#[test]
fn a_broken_file_stops_the_run_with_its_sample_and_the_way_to_leave_it_out() {
    let Some(folder) = without_one_recording() else { return };
    let file = folder.path().join("avdigits/fsdd/recordings/3_theo_37.wav");
    std::fs::write(&file, "no sound").unwrap();
    let config = root().join("configs/experiments/av_digits/unimodal_audio.toml");
    let train = |further: &str| {
        let mut assignments: Vec<String> =
            ["strategy.epochs=1", "run.workers=2"].map(str::to_owned).into();
        assignments.extend((!further.is_empty()).then(|| further.to_owned()));
        let resolved = Resolved::read(&config, &assignments).unwrap();
        let experiment = &resolved.experiment;
        let source = Arc::new(mie_core::engine::open_data(experiment, folder.path())?);
        let request = Request {
            split: Split::Train,
            mode: Mode::Training,
            shuffled: true,
            epoch: 0,
            batch_size: 32,
            drop_last: false,
            modalities: vec!["audio".to_owned()],
            start: 0,
            workers: 2,
            prefetch: 2,
            access: None,
        };
        let mut batches = Batches::start(&source, request)?;
        while batches.next_batch()?.is_some() {}
        Ok::<_, Error>(source.len(Split::Train))
    };
    let all = "data.train_per_class=240";
    let error = train(all).unwrap_err().to_string();
    for part in
        ["sample `3_theo_37-", "train split", "modality `audio`", "3_theo_37.wav", "data.exclude"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    let exclude = error.split_once("data.exclude = ").unwrap().1.split_once(';').unwrap().0;
    assert_eq!(
        train(&format!("data={{ exclude = {exclude}, train_per_class = 239 }}")).unwrap(),
        2390
    );
}

#[test]
fn a_class_that_lost_all_its_training_samples_is_refused() {
    let Some(_) = data() else { return };
    let experiment = |exclude: &str| {
        let file = root().join("configs/experiments/av_digits/unimodal_audio.toml");
        Resolved::read(&file, &[format!("data.exclude={exclude}")]).unwrap().experiment
    };
    let source = mie_core::engine::open_data(&experiment("[]"), &data().unwrap()).unwrap();
    assert_eq!(source.classes().len(), 10);
    let lists = std::fs::read_to_string(data().unwrap().join("avdigits/pairs_train.tsv")).unwrap();
    let nines: Vec<String> = lists
        .lines()
        .skip(1)
        .filter(|line| line.ends_with("\t9"))
        .map(|line| {
            let mut cells = line.split('\t');
            let wav = cells.next().unwrap().rsplit('/').next().unwrap().replace(".wav", "");
            format!("\"{wav}-{}{}\"", cells.next().unwrap(), cells.next().unwrap())
        })
        .collect();
    assert_eq!(nines.len(), 240);
    let exclude = format!("[{}]", nines.join(", "));
    let error = mie_core::engine::open_data(&experiment(&exclude), &data().unwrap());
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("class `9`") && error.contains("no training sample left"), "{error}");
}
