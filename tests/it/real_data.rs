//! Short runs on real files.

use crate::support::{data, finished, root};
use mie_core::config::Resolved;

fn short(config: &str) -> Option<mie_record::Summary> {
    data()?;
    let file = root().join("configs/experiments/av_digits").join(config);
    let assignments = ["strategy.epochs=[8, 4]", "strategy.repeat=1", "data.train_per_class=60"]
        .map(str::to_owned);
    Some(finished(&Resolved::read(&file, &assignments).unwrap()).0)
}

#[test]
fn mie_trains_on_real_recordings_and_pictures() {
    let Some(summary) = short("mie.toml") else { return };
    let test = &summary.outputs["test"];
    eprintln!("{test:?} {:?}", summary.cost);
    assert_eq!(test["fused"].samples, 300);
    // Ten classes: chance is 0.1.
    assert!(test["audio"].accuracy > 0.15, "{}", test["audio"].accuracy);
    assert!(test["fused"].accuracy > 0.2, "{}", test["fused"].accuracy);
}
