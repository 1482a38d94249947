//! Every configuration of the project is one that runs.

use std::path::PathBuf;

use mie_core::config::Resolved;
use mie_core::engine::plan;

use crate::support::root;

fn experiments() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("configs/experiments")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() >= 10);
    found
}

#[test]
fn every_experiment_is_read_and_dry_run() {
    for file in experiments() {
        let resolved = Resolved::read(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
        let plan = plan(&resolved.experiment, 10, None)
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(plan.outputs.contains(&"fused".to_owned()), "{}", file.display());
        // What is written into a run directory is the same experiment.
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("config.toml");
        std::fs::write(&copy, resolved.to_toml().unwrap()).unwrap();
        let again = Resolved::read(&copy, &[]).unwrap();
        assert_eq!(again.fingerprint().unwrap(), resolved.fingerprint().unwrap());
        assert_eq!(again.experiment.name, resolved.experiment.name);
    }
}

#[test]
fn every_experiment_starts_with_what_it_claims_and_how_to_run_it() {
    for file in experiments() {
        let text = std::fs::read_to_string(&file).unwrap();
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        let header = header.join("\n");
        let path = file.strip_prefix(root()).unwrap().display().to_string();
        assert!(header.contains(&format!("mie train {path}")), "{path} lacks its command");
        assert!(header.lines().count() >= 2, "{path} does not say what it is");
    }
}

#[test]
fn the_four_cells_of_the_ablation_differ_in_nothing_but_the_two_parts() {
    for dataset in ["av_digits", "synthetic"] {
        let read = |cell: &str| {
            let file = root().join(format!("configs/experiments/{dataset}/{cell}.toml"));
            let resolved = Resolved::read(&file, &[]).unwrap();
            let mut tree = serde_json::to_value(&resolved.experiment).unwrap();
            let table = tree.as_object_mut().unwrap();
            table.remove("name");
            let optimizer = table.remove("optimizer").unwrap();
            let modifiers = table.remove("gradient_modifiers").unwrap();
            (optimizer, modifiers, tree)
        };
        let (sam, flat, rest) = read("mie");
        let (sgd, none, baseline) = read("baseline");
        assert_eq!(sam["base"], sgd, "{dataset}: the step is made by the same optimizer");
        assert_eq!(rest, baseline);
        let (optimizer, modifiers, other) = read("sam_only");
        assert_eq!((&optimizer, &modifiers, &other), (&sam, &none, &rest));
        let (optimizer, modifiers, other) = read("gm_only");
        assert_eq!((&optimizer, &modifiers, &other), (&sgd, &flat, &rest));
    }
}
