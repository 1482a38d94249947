//! `cargo xtask setup`: libtorch in a folder that all clones of a user share, linked here.

use crate::error::{Error, Result, in_units, io_error};
use crate::existing::{Existing, PROJECT_LINK};
use crate::python;
use crate::recipe::{self, Recipe, TORCH_VERSION};
use crate::shell;
use crate::stamp;
use crate::wheel::{self, Fetch, remove_folder};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sets up libtorch if need be, keeping the kind that is linked already.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    let linked = fs::read_link(root.join(PROJECT_LINK)).unwrap_or_default();
    let has_cuda = linked.iter().any(|part| part == recipe::CUDA.name);
    let recipe = if has_cuda { &recipe::CUDA } else { &recipe::CPU };
    run(root, recipe, false)
}

/// Sets up libtorch after a recipe, from scratch where `force` says so.
pub(crate) fn run(root: &Path, recipe: &Recipe, force: bool) -> Result<()> {
    require_compiler()?;
    if let Some(existing) = Existing::requested(root) {
        existing.verify()?;
        println!("libtorch {TORCH_VERSION}: using {} as it is", existing.place());
        return Ok(());
    }
    require_platform(env::consts::OS, env::consts::ARCH)?;
    let cache = cache_folder(|name| env::var_os(name).filter(|value| !value.is_empty()))?;
    let folder = cache.join(recipe.name);
    if force || stamp::check(&folder, recipe.name).is_err() {
        fs::create_dir_all(&cache).map_err(io_error("create", &cache))?;
        let _lock = lock(&cache)?;
        // Another set-up may have finished while this one waited for the lock.
        let state = stamp::check(&folder, recipe.name);
        if let Err(reason) = &state
            && folder.exists()
        {
            println!("`{}` is built anew: {reason}", folder.display());
        }
        if force || state.is_err() {
            build(&cache, recipe, &python::fetch)?;
        }
    }
    let home: PathBuf = folder.join(recipe.home).components().collect();
    link(root, &home)?;
    println!("libtorch {TORCH_VERSION} is ready in `{}`", home.display());
    Ok(())
}

/// Fetches and unpacks into a neighbouring folder, which gets its name when it is finished.
fn build(cache: &Path, recipe: &Recipe, fetch: &Fetch<'_>) -> Result<()> {
    let downloads = cache.join("downloads");
    let finished = cache.join(recipe.name);
    let growing = cache.join(format!("{}.partial", recipe.name));
    remove_folder(&growing)?;
    let is_there = |wheel: &&wheel::Wheel| downloads.join(wheel.file).is_file();
    let there_bytes: u64 = recipe.wheels.iter().filter(is_there).map(|wheel| wheel.bytes).sum();
    require_room(cache, recipe.needed_bytes.saturating_sub(there_bytes))?;
    fs::create_dir_all(&downloads).map_err(io_error("create", &downloads))?;
    wheel::obtain(recipe.wheels, &downloads, fetch)?;
    // Only now: a set-up that could not fetch must not cost the copy that worked.
    remove_folder(&finished)?;
    if let Err(error) = assemble(recipe, &downloads, &growing) {
        remove_folder(&growing)?;
        return Err(error);
    }
    fs::rename(&growing, &finished).map_err(io_error("move", &growing))?;
    remove_folder(&downloads)
}

fn assemble(recipe: &Recipe, downloads: &Path, into: &Path) -> Result<()> {
    for wheel in recipe.wheels {
        wheel::unpack(wheel, downloads, into)?;
    }
    for (name, target) in recipe.links {
        let name = into.join(name);
        symlink(target, &name).map_err(io_error("link", &name))?;
    }
    // The bindings' build script compares this file with the version that it wants.
    let version = into.join(recipe.home).join("build-version");
    fs::write(&version, TORCH_VERSION).map_err(io_error("write", &version))?;
    for file in recipe.expected {
        wheel::require(&into.join(file))?;
    }
    stamp::write(into, recipe.name)
}

/// Points the repository's link to a folder, replacing an older link in one move.
fn link(root: &Path, target: &Path) -> Result<()> {
    let link = root.join(PROJECT_LINK);
    match fs::symlink_metadata(&link) {
        Ok(found) if !found.is_symlink() => return Err(Error::NotALink { path: link }),
        Ok(_) if fs::read_link(&link).is_ok_and(|current| current == target) => return Ok(()),
        _ => {}
    }
    let fresh = root.join(format!("{PROJECT_LINK}.{}", std::process::id()));
    symlink(target, &fresh).map_err(io_error("link", &fresh))?;
    fs::rename(&fresh, &link).map_err(io_error("replace", &link))
}

/// Keeps a second set-up waiting until this one is done or dead.
fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("setup.lock");
    let file = File::create(&path).map_err(io_error("create", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            println!("waiting for another set-up, which holds `{}`", path.display());
            file.lock().map_err(io_error("lock", &path))?;
        }
        Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
    }
    Ok(file)
}

/// Finds the folder for what is fetched once a user, from variables that are set and not empty.
fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let folder = |name: &str| variable(name).map(PathBuf::from);
    if let Some(named) = folder("MIE_CACHE_DIR") {
        return std::path::absolute(&named).map_err(io_error("resolve", &named));
    }
    // The specification of XDG_CACHE_HOME wants relative values ignored.
    let shared = folder("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
    let shared = shared.or_else(|| folder("HOME").map(|home| home.join(".cache")));
    shared.map(|folder| folder.join("mie")).ok_or(Error::NoCacheFolder)
}

fn require_platform(os: &'static str, arch: &'static str) -> Result<()> {
    if (os, arch) == ("linux", "x86_64") { Ok(()) } else { Err(Error::Platform { os, arch }) }
}

/// Errs early if the bindings, which are partly C++, could not be built later.
fn require_compiler() -> Result<()> {
    // CXX may be several words, such as `ccache g++`.
    let named = env::var("CXX").unwrap_or_default();
    let mut words = named.split_whitespace();
    let program = words.next().unwrap_or("c++");
    match shell::capture(Command::new(program).args(words).arg("--version")) {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Error::Missing {
            tool: format!("the C++ compiler `{program}`"),
            help: "install one with `apt install g++` or `dnf install gcc-c++`, or name one for \
                   C++17 in CXX",
        }),
    }
}

fn require_room(folder: &Path, needed_bytes: u64) -> Result<()> {
    let output = shell::capture(Command::new("df").arg("-Pk").arg(folder));
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // Where room cannot be told, the write that fails will.
    match text.ok().as_deref().and_then(available_bytes) {
        Some(free_bytes) if free_bytes < needed_bytes => Err(Error::LittleRoom {
            path: folder.to_owned(),
            free: in_units(free_bytes),
            needed: in_units(needed_bytes),
        }),
        _ => Ok(()),
    }
}

/// Reads the room left from `df -Pk`: the number before the one in per cent.
///
/// It is found by its neighbour, since names of disks and folders may hold spaces.
fn available_bytes(df: &str) -> Option<u64> {
    let words: Vec<_> = df.lines().nth(1)?.split_whitespace().collect();
    let percent = words.iter().position(|word| word.ends_with('%'))?;
    let kibibytes: u64 = words.get(percent.checked_sub(1)?)?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheel::tests::small_wheel;
    use crate::wheel::{Pick, Wheel};
    use tempfile::{TempDir, tempdir};

    /// Makes a recipe of one small wheel, and what fetches it.
    fn small_recipe() -> (Recipe, impl Fn(&Wheel, &Path) -> Result<()>) {
        static PICKS: [Pick; 1] = [Pick::Folder { from: "torch/lib/", to: "lib/" }];
        let (wheel, content) = small_wheel(&[("torch/lib/libgomp.so.1", "library")], &PICKS);
        let recipe = Recipe {
            name: "small",
            home: "",
            wheels: Vec::leak(vec![wheel]),
            links: &[("lib/libgomp.so", "libgomp.so.1")],
            expected: &["lib/libgomp.so"],
            needed_bytes: 1000,
        };
        let fetch = move |wheel: &Wheel, into: &Path| -> Result<()> {
            fs::write(into.join(wheel.file), &content).unwrap();
            Ok(())
        };
        (recipe, fetch)
    }

    fn names_in(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_set_up_ends_with_a_stamped_folder_and_nothing_else() {
        let cache = tempdir().unwrap();
        let (recipe, fetch) = small_recipe();
        build(cache.path(), &recipe, &fetch).unwrap();
        let folder = cache.path().join("small");
        assert_eq!(stamp::check(&folder, "small"), Ok(()));
        assert_eq!(fs::read_to_string(folder.join("lib/libgomp.so")).unwrap(), "library");
        assert_eq!(fs::read_to_string(folder.join("build-version")).unwrap(), "2.11.0");
        assert_eq!(names_in(&cache), ["small"]);
    }

    #[test]
    fn what_a_killed_set_up_left_is_replaced() {
        let cache = tempdir().unwrap();
        let (recipe, fetch) = small_recipe();
        for left in ["small/lib", "small.partial/lib", "downloads/arriving"] {
            fs::create_dir_all(cache.path().join(left)).unwrap();
            fs::write(cache.path().join(left).join("libgomp.so.1"), "libr").unwrap();
        }
        build(cache.path(), &recipe, &fetch).unwrap();
        assert_eq!(stamp::check(&cache.path().join("small"), "small"), Ok(()));
        assert_eq!(names_in(&cache), ["small"]);
    }

    #[test]
    fn a_set_up_that_cannot_fetch_keeps_the_copy_that_works() {
        let cache = tempdir().unwrap();
        let (recipe, fetch) = small_recipe();
        build(cache.path(), &recipe, &fetch).unwrap();
        let offline = |_: &Wheel, _: &Path| -> Result<()> { Err(Error::NoCacheFolder) };
        let error = build(cache.path(), &recipe, &offline).unwrap_err();
        assert!(matches!(error, Error::Download { .. }), "{error}");
        assert_eq!(stamp::check(&cache.path().join("small"), "small"), Ok(()));
    }

    #[test]
    fn a_wheel_without_an_expected_file_gives_no_folder() {
        let cache = tempdir().unwrap();
        let (mut recipe, fetch) = small_recipe();
        recipe.expected = &["lib/libtorch.so"];
        let message = build(cache.path(), &recipe, &fetch).unwrap_err().to_string();
        assert!(message.contains("lib/libtorch.so"), "{message}");
        assert_eq!(names_in(&cache), ["downloads"]);
    }

    #[test]
    fn too_little_room_is_said_before_anything_is_fetched() {
        let cache = tempdir().unwrap();
        let (mut recipe, fetch) = small_recipe();
        recipe.needed_bytes = u64::MAX;
        let error = build(cache.path(), &recipe, &fetch).unwrap_err();
        assert!(matches!(error, Error::LittleRoom { .. }), "{error}");
        assert!(names_in(&cache).is_empty());
    }

    #[test]
    fn the_link_follows_its_target_and_never_replaces_a_folder() {
        let root = tempdir().unwrap();
        let path = root.path().join(PROJECT_LINK);
        for target in ["/first", "/second", "/second"] {
            link(root.path(), Path::new(target)).unwrap();
            assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
        }
        assert_eq!(names_in(&root), [PROJECT_LINK]);

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = link(root.path(), Path::new("/first")).unwrap_err();
        assert!(matches!(error, Error::NotALink { .. }), "{error}");
    }

    #[test]
    fn a_second_set_up_waits_for_the_first() {
        let cache = tempdir().unwrap();
        let held = lock(cache.path()).unwrap();
        let other = File::create(cache.path().join("setup.lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        assert!(other.try_lock().is_ok());
    }

    #[test]
    fn the_cache_is_where_the_user_says_then_where_desktops_do() {
        let with = |pairs: &[(&str, &str)]| {
            let find = |name: &str| pairs.iter().find(|pair| pair.0 == name);
            cache_folder(|name| find(name).map(|pair| OsString::from(pair.1)))
        };
        let home = ("HOME", "/home/a");
        assert_eq!(with(&[home]).unwrap(), Path::new("/home/a/.cache/mie"));
        let shared = ("XDG_CACHE_HOME", "/var/a");
        assert_eq!(with(&[home, shared]).unwrap(), Path::new("/var/a/mie"));
        assert_eq!(
            with(&[home, ("XDG_CACHE_HOME", "a")]).unwrap(),
            Path::new("/home/a/.cache/mie")
        );
        assert_eq!(with(&[home, shared, ("MIE_CACHE_DIR", "/big")]).unwrap(), Path::new("/big"));
        assert!(matches!(with(&[]), Err(Error::NoCacheFolder)));
    }

    #[test]
    fn room_is_read_past_names_with_spaces() {
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                  //host/my share 264000000 14000000 81000 15% /mnt/my share\n";
        assert_eq!(available_bytes(df), Some(81_000 * 1024));
        assert_eq!(available_bytes("df: no such file"), None);
    }

    #[test]
    fn other_platforms_are_refused_by_name() {
        require_platform("linux", "x86_64").unwrap();
        let message = require_platform("macos", "aarch64").unwrap_err().to_string();
        assert!(message.contains("macos on aarch64"), "{message}");
    }
}
