//! `mie new plugin`; what it writes is built and run by `cargo xtask test`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::desk::Desk;
use crate::support::root;

/// Files below a folder, relative to it.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.insert(path.strip_prefix(folder).unwrap().display().to_string());
        }
    }
    found
}

#[test]
fn a_package_is_written_and_takes_further_plugins() {
    let desk = Desk::new();
    let mie = root().display().to_string();
    let new = |family, name, package| {
        ["new", "plugin", family, name, "--package", package, "--mie", &mie].map(str::to_owned)
    };
    let run = |arguments: [String; 8], status| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        desk.run(&arguments, status)
    };
    let first = run(new("gradient_modifier", "my_method", "my-package"), 0).out;
    assert!(first.contains("\nnext  cd my-package\n      cargo test\n"), "{first}");
    run(new("encoder", "my_encoder", "my-package"), 0);
    let package = desk.path("my-package");
    let expected = [
        ".cargo/config.toml",
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
        "base.toml",
        "build.rs",
        "experiments/my_encoder.toml",
        "experiments/my_method.toml",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "src/lib.rs",
        "src/main.rs",
        "src/my_encoder.rs",
        "src/my_method.rs",
        "tests/conformance.rs",
    ];
    assert_eq!(files(&package), expected.map(str::to_owned).into());
    let read = |name: &str| fs::read_to_string(package.join(name)).unwrap();
    assert!(read("src/lib.rs").ends_with("pub mod my_encoder;\npub mod my_method;\n"));
    assert!(read("src/my_method.rs").contains("pub struct MyMethodConfig"));
    for file in expected.iter().filter(|name| **name != "Cargo.lock") {
        for placeholder in ["TemplateName", "template_name", "PACKAGE"] {
            assert!(!read(file).contains(placeholder), "{file} has {placeholder}");
        }
    }

    let before = files(desk.path("").as_path());
    let again = run(new("encoder", "my_encoder", "my-package"), 2).err;
    assert!(again.contains("my-package/src/my_encoder.rs exists already"), "{again}");
    fs::create_dir(desk.path("theirs")).unwrap();
    desk.write("theirs/Cargo.toml", "");
    let theirs = run(new("encoder", "my_encoder", "theirs"), 2).err;
    assert!(theirs.contains("theirs is no package that `mie new plugin` wrote"), "{theirs}");
    let name = run(new("encoder", "my_encoder", "core"), 2).err;
    assert!(name.contains("`core` cannot name a package"), "{name}");
    fs::remove_dir_all(desk.path("theirs")).unwrap();
    assert_eq!(files(desk.path("").as_path()), before);
}

#[test]
fn a_plugin_goes_into_the_sources_with_its_line_in_the_folder() {
    let desk = Desk::new();
    let sources = desk.path("mie");
    for folder in ["core/conformance", "plugins/src/gradient"] {
        fs::create_dir_all(sources.join(folder)).unwrap();
    }
    fs::write(sources.join("core/conformance/Cargo.toml"), "").unwrap();
    let modules = sources.join("plugins/src/gradient/mod.rs");
    fs::copy(root().join("plugins/src/gradient/mod.rs"), &modules).unwrap();
    let arguments =
        ["new", "plugin", "gradient_modifier", "my_method", "--in-tree", "--mie", "mie"];
    let ran = desk.run(&arguments, 0);
    assert!(ran.out.contains("\nnext  cargo xtask gen "), "{}", ran.out);
    let text = fs::read_to_string(modules).unwrap();
    assert!(
        text.contains("pub mod mmpareto;\npub mod my_method;\npub mod null_space;\n"),
        "{text}"
    );
    assert!(sources.join("plugins/src/gradient/my_method.rs").is_file());
    let nowhere = desk.run(&["new", "plugin", "encoder", "x", "--mie", "runs"], 2).err;
    assert!(nowhere.contains("runs does not hold the sources of mie"), "{nowhere}");
}
