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
