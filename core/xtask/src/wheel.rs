//! Wheels: fetched once, checked against a fixed checksum, unpacked in part.

use crate::error::{Error, Result, in_units, io_error};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::{Component, Path, PathBuf};
use zip::ZipArchive;

/// One published file, known by name and content, and what is wanted of it.
#[derive(Debug)]
pub(crate) struct Wheel {
    pub(crate) file: &'static str,
    pub(crate) sha256: &'static str,
    pub(crate) bytes: u64,
    pub(crate) picks: &'static [Pick],
}

/// Names files of a wheel and the folder they go to; both folders end with `/`.
#[derive(Debug)]
pub(crate) enum Pick {
    /// All files below a folder, with their paths from there on.
    Folder { from: &'static str, to: &'static str },
    /// The file of that name, wherever it lies.
    File { name: &'static str, to: &'static str },
}

/// Puts the file of a wheel into a folder; pip does outside of tests.
pub(crate) type Fetch<'a> = dyn Fn(&Wheel, &Path) -> Result<()> + 'a;

impl Wheel {
    /// Writes name and version as pip wants them.
    pub(crate) fn requirement(&self) -> String {
        self.file.splitn(3, '-').take(2).collect::<Vec<_>>().join("==")
    }

    /// Lists the platforms that the file is published for.
    pub(crate) fn platforms(&self) -> impl Iterator<Item = &'static str> {
        let tags = self.file.trim_end_matches(".whl").rsplit('-').next().unwrap_or_default();
        tags.split('.')
    }

    /// Errs, and deletes the file, if its content is not what was published.
    fn check(&self, path: &Path) -> Result<()> {
        let found = sha256(path)?;
        if found == self.sha256 {
            return Ok(());
        }
        fs::remove_file(path).map_err(io_error("delete", path))?;
        Err(Error::Checksum { path: path.to_owned(), expected: self.sha256, found })
    }
}

/// Makes sure that every wheel lies in `downloads` with the right content.
///
/// A wheel gets there only when it is complete and checked, so one that is there already (from
/// a set-up cut short, or put there by hand) is not fetched again.
pub(crate) fn obtain(wheels: &[Wheel], downloads: &Path, fetch: &Fetch<'_>) -> Result<()> {
    let arriving = downloads.join("arriving");
    for wheel in wheels {
        let kept = downloads.join(wheel.file);
        if kept.is_file() {
            println!("checking {}", wheel.file);
            wheel.check(&kept)?;
            continue;
        }
        println!("fetching {} ({})", wheel.file, in_units(wheel.bytes));
        remove_folder(&arriving)?;
        fs::create_dir_all(&arriving).map_err(io_error("create", &arriving))?;
        let arrived = arriving.join(wheel.file);
        fetch(wheel, &arriving).and_then(|()| require(&arrived)).map_err(|error| {
            let is_missing = |wheel: &&Wheel| !downloads.join(wheel.file).is_file();
            Error::Download {
                requirement: wheel.requirement(),
                reason: error.to_string(),
                downloads: downloads.to_owned(),
                missing: wheels.iter().filter(is_missing).map(|wheel| wheel.file).collect(),
            }
        })?;
        wheel.check(&arrived)?;
        fs::rename(&arrived, &kept).map_err(io_error("move", &arrived))?;
    }
    remove_folder(&arriving)
}

/// Unpacks the wanted files of a wheel into a folder.
pub(crate) fn unpack(wheel: &Wheel, downloads: &Path, into: &Path) -> Result<()> {
    let path = downloads.join(wheel.file);
    let unreadable = |reason: String| Error::Wheel { path: path.clone(), reason };
    let broken = |error: zip::result::ZipError| unreadable(error.to_string());

    println!("unpacking {}", wheel.file);
    let file = File::open(&path).map_err(io_error("open", &path))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let mut names = Vec::with_capacity(archive.len());
    let mut sizes = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(broken)?;
        names.push(String::from_utf8_lossy(entry.name_raw()).into_owned());
        sizes.push(entry.size());
    }
    let planned = plan(&names, wheel.picks).map_err(unreadable)?;

    let bar = progress_bar(planned.iter().map(|(index, _)| sizes[*index]).sum());
    for (index, target) in planned {
        let target = into.join(target);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        }
        let mut output = File::create(&target).map_err(io_error("create", &target))?;
        let mut entry = bar.wrap_read(archive.by_index(index).map_err(broken)?);
        io::copy(&mut entry, &mut output).map_err(io_error("unpack", &target))?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Removes a folder with all it holds; one that is not there is no error.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Errs if a file is not there or holds nothing.
pub(crate) fn require(path: &Path) -> Result<()> {
    let found = fs::metadata(path).map_err(io_error("find", path))?;
    if found.len() == 0 {
        return Err(Error::Wheel { path: path.to_owned(), reason: "it is empty".to_owned() });
    }
    Ok(())
}

/// Says which entries to unpack and where; errs with the pick that names none.
fn plan(names: &[String], picks: &[Pick]) -> std::result::Result<Vec<(usize, PathBuf)>, String> {
    let mut planned = Vec::new();
    for pick in picks {
        let before = planned.len();
        for (index, name) in names.iter().enumerate() {
            let Some((to, rest)) = pick.destination(name) else {
                continue;
            };
            let target = Path::new(to).join(rest);
            if !target.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(format!("its entry `{name}` leads out of the folder it goes to"));
            }
            planned.push((index, target));
        }
        if planned.len() == before {
            let (Pick::Folder { from: wanted, .. } | Pick::File { name: wanted, .. }) = pick;
            return Err(format!("it holds no `{wanted}`"));
        }
    }
    Ok(planned)
}

impl Pick {
    /// Splits the target of an entry into folder and path in it; none if it is not picked.
    fn destination<'a>(&self, entry: &'a str) -> Option<(&'static str, &'a str)> {
        if entry.ends_with('/') {
            return None;
        }
        match *self {
            Self::Folder { from, to } => entry.strip_prefix(from).map(|rest| (to, rest)),
            Self::File { name, to } => {
                let last = entry.rsplit('/').next()?;
                (last == name).then_some((to, last))
            }
        }
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(io_error("read", path))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let mut hexadecimal = String::with_capacity(64);
    for byte in hasher.finalize() {
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    Ok(hexadecimal)
}

/// Shows bytes done of all; shows nothing where output is not a terminal.
fn progress_bar(total_bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("  [{bar:40}] {bytes}/{total_bytes}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total_bytes).with_style(style)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::{Cursor, Write as _};
    use tempfile::tempdir;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    /// Makes a small wheel, and the bytes that an index would serve for it.
    pub(crate) fn small_wheel(
        entries: &[(&str, &str)],
        picks: &'static [Pick],
    ) -> (Wheel, Vec<u8>) {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        let content = writer.finish().unwrap().into_inner();
        let folder = tempdir().unwrap();
        let path = folder.path().join("wheel");
        fs::write(&path, &content).unwrap();
        let wheel = Wheel {
            file: "small-1.0-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: sha256(&path).unwrap().leak(),
            bytes: content.len() as u64,
            picks,
        };
        (wheel, content)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_file_name_tells_requirement_and_platforms() {
        let (wheel, _) = small_wheel(&[], &[]);
        assert_eq!(wheel.requirement(), "small==1.0");
        let platforms: Vec<_> = wheel.platforms().collect();
        assert_eq!(platforms, ["manylinux2014_x86_64", "manylinux_2_17_x86_64"]);
    }

    #[test]
    fn folders_keep_their_paths_and_single_files_lose_theirs() {
        let names =
            names(&["torch/include/", "torch/include/a/b.h", "x/y/libc10.so", "x/other.so"]);
        let picks = [
            Pick::Folder { from: "torch/include/", to: "include/" },
            Pick::File { name: "libc10.so", to: "lib/" },
        ];
        let planned = plan(&names, &picks).unwrap();
        let expected = [(1, PathBuf::from("include/a/b.h")), (2, PathBuf::from("lib/libc10.so"))];
        assert_eq!(planned, expected);
    }

    #[test]
    fn a_file_that_the_wheel_lacks_is_named() {
        let picks = [Pick::File { name: "libc10.so", to: "lib/" }];
        let reason = plan(&names(&["lib/notlibc10.so"]), &picks).unwrap_err();
        assert_eq!(reason, "it holds no `libc10.so`");
    }

    #[test]
    fn an_entry_that_leads_elsewhere_is_refused() {
        let picks = [Pick::Folder { from: "a/", to: "b/" }];
        for entry in ["a/../../c", "a//etc/c"] {
            let reason = plan(&names(&[entry]), &picks).unwrap_err();
            assert!(reason.contains(entry), "{reason}");
        }
    }

    #[test]
    fn a_wheel_is_unpacked_as_planned() {
        static PICKS: [Pick; 1] = [Pick::Folder { from: "lib/", to: "out/lib/" }];
        let (wheel, content) = small_wheel(&[("lib/a", "first"), ("other/b", "second")], &PICKS);
        let folder = tempdir().unwrap();
        fs::write(folder.path().join(wheel.file), content).unwrap();
        unpack(&wheel, folder.path(), folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("out/lib/a")).unwrap(), "first");
        assert!(!folder.path().join("other").exists());
    }

    #[test]
    fn a_wheel_that_is_there_is_checked_and_not_fetched() {
        let (wheel, content) = small_wheel(&[("a", "text")], &[]);
        let folder = tempdir().unwrap();
        let path = folder.path().join(wheel.file);
        fs::write(&path, content).unwrap();
        let wheels = [wheel];
        let fetches = Cell::new(0);
        let fetch = |_: &Wheel, _: &Path| -> Result<()> {
            fetches.set(fetches.get() + 1);
            Ok(())
        };
        obtain(&wheels, folder.path(), &fetch).unwrap();
        assert_eq!(fetches.get(), 0);

        fs::write(&path, "something else").unwrap();
        let message = obtain(&wheels, folder.path(), &fetch).unwrap_err().to_string();
        assert!(message.contains(wheels[0].sha256), "{message}");
        assert!(!path.exists(), "a wrong file is deleted");
        assert_eq!(fetches.get(), 0);
    }

    #[test]
    fn a_truncated_download_is_refused_and_not_kept() {
        let (wheel, content) = small_wheel(&[("a", "some text")], &[]);
        let wheels = [wheel];
        let folder = tempdir().unwrap();
        let truncated = |wheel: &Wheel, into: &Path| -> Result<()> {
            fs::write(into.join(wheel.file), &content[..content.len() / 2]).unwrap();
            Ok(())
        };
        let error = obtain(&wheels, folder.path(), &truncated).unwrap_err();
        assert!(matches!(error, Error::Checksum { .. }), "{error}");
        assert!(!folder.path().join(wheels[0].file).exists());

        let whole = |wheel: &Wheel, into: &Path| -> Result<()> {
            fs::write(into.join(wheel.file), &content).unwrap();
            Ok(())
        };
        obtain(&wheels, folder.path(), &whole).unwrap();
        assert!(folder.path().join(wheels[0].file).exists());
    }

    #[test]
    fn without_a_network_the_files_to_put_there_by_hand_are_named() {
        let (wheel, _) = small_wheel(&[("a", "text")], &[]);
        let wheels = [wheel];
        let folder = tempdir().unwrap();
        let offline = |_: &Wheel, _: &Path| -> Result<()> {
            Err(Error::Missing { tool: "the network".to_owned(), help: "none" })
        };
        let message = obtain(&wheels, folder.path(), &offline).unwrap_err().to_string();
        for part in ["small==1.0", wheels[0].file, &folder.path().display().to_string()] {
            assert!(message.contains(part), "{message}");
        }
    }
}
