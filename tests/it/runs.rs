//! `mie runs`.

use serde_json::Value;

use crate::desk::Desk;
use crate::support::MIE;

#[test]
fn runs_are_listed_wherever_they_stand_and_damaged_ones_are_named() {
    let desk = Desk::new();
    let none = desk.run(&["runs", "list"], 2).err;
    assert!(none.contains("there is no folder `runs`"), "{none}");
    let finished = desk.trained(&[], None);
    let stopped = desk.trained(&["seed=1"], Some(25));
    let damaged = desk.trained(&["seed=2"], Some(5));
    std::fs::write(damaged.manifest_path(), "{").unwrap();

    let ran = desk.run(&["runs", "list"], 0);
    let lines: Vec<Vec<&str>> =
        ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["run", "seed", "state", "epochs", "accuracy", "%", "took", "changed"]);
    assert_eq!(lines[3][..4], [&desk.shown(finished.path()), "0", "finished", "5"]);
    assert_eq!(lines[4][..4], [&desk.shown(stopped.path()), "1", "stopped", "2"]);
    let left_out = format!("warning: left out: {}", desk.shown(damaged.path()));
    assert!(ran.err.starts_with(&left_out), "{}", ran.err);

    let lock = stopped.lock().unwrap();
    let json: Value = serde_json::from_str(&desk.run(&["runs", "list", "--json"], 0).out).unwrap();
    assert_eq!(json["runs"][0]["state"], "finished");
    let holder = json["runs"][1]["state"]["running"].as_str().unwrap();
    assert!(holder.starts_with("process "), "{holder}");
    assert_eq!(json["unreadable"].as_array().unwrap().len(), 1);
    drop(lock);
}

#[test]
fn runs_are_compared_by_scores_costs_and_what_differs() {
    let desk = Desk::new();
    let plain = desk.trained(&[], None);
    let other_seed = desk.trained(&["seed=1"], None);
    let method = desk.trained(&[MIE], None);
    let shown = [&plain, &other_seed].map(|run| desk.shown(run.path()));
    let out = desk.run(&["runs", "compare", &shown[0], &shown[1]], 0).out;
    let (_, differs) = out.split_once("what differs").unwrap();
    let rows: Vec<&str> = differs.lines().filter(|line| line.starts_with(' ')).collect();
    assert!(rows[1].starts_with(" seed ") && rows.len() == 2, "{differs}");
    for part in ["test fused", "1 stage 1: strong: fused", "wall time", "norm head.strong"] {
        assert!(out.contains(&format!("\n {part} ")), "{part}: {out}");
    }

    let method = desk.shown(method.path());
    let arguments = ["runs", "compare", &shown[0], &method, "--json"];
    let json: Value = serde_json::from_str(&desk.run(&arguments, 0).out).unwrap();
    let named = |name: &str| {
        let all = json["differences"].as_array().unwrap();
        all.iter().find(|row| row["name"] == name).unwrap()["values"].clone()
    };
    assert_eq!(named("optimizer.name"), serde_json::json!(["\"sgd\"", "\"sam\""]));
    // What the modifier acted on, phase by phase.
    let refreshes = json["runs"][1]["refreshes"].as_array().unwrap();
    assert!(refreshes.iter().all(|refresh| refresh["plugin"] == "gradient modifier `svd_flat`"));
    assert!(!refreshes.is_empty());

    let one = desk.run(&["runs", "compare", &shown[0]], 2).err;
    assert!(one.contains("2 values required"), "{one}");
    let nowhere = desk.run(&["runs", "compare", &shown[0], "nowhere"], 2).err;
    assert!(nowhere.contains("nowhere"), "{nowhere}");
}
