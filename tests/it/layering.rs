//! Dependencies point one way, and the engine names no plugin.

use std::process::Command;

use mie_core::catalogue::plugins;

use crate::support::root;

#[test]
fn packages_depend_on_each_other_only_in_the_direction_of_the_design() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = |package: &str| -> &[&str] {
        match package {
            "mie-record" | "xtask" => &[],
            "mie-report" | "mie-core" => &["mie-record"],
            "mie-plugins" => &["mie-conformance", "mie-core"],
            "mie-conformance" => &["mie-core", "mie-record"],
            "mie-cli" => &["mie-core", "mie-record", "mie-report"],
            "mie" => &["mie-cli", "mie-conformance", "mie-core", "mie-plugins", "mie-record"],
            other => unreachable!("package {other} has no place in the design"),
        }
    };
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), 8);
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            if dependency == "mie" || dependency.starts_with("mie-") {
                assert!(allowed(name).contains(&dependency), "{name} depends on {dependency}");
            }
            if name == "mie-report" || name == "mie-record" {
                assert_ne!(dependency, "tch", "{name} must build without libtorch");
            }
        }
    }
}

#[test]
fn core_names_no_plugin() {
    let mut files = vec![root().join("core")];
    let names: Vec<&str> = plugins().iter().map(|row| (row.name)()).collect();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            // The set-up tool runs the demonstration by the path of its configuration.
            if !path.ends_with("xtask") {
                files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let code: String = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                // What a message advises may name plugins; what code compares may not.
                .filter(|line| !line.contains('`'))
                .collect();
            for name in &names {
                assert!(
                    !code.contains(&format!("\"{name}\"")),
                    "{} names the plugin {name}",
                    path.display()
                );
            }
        }
    }
}
