//! From raw media to the files that loaders read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::name_of_its_own;
use crate::error::{Error, Result, guarded};
use crate::family::Preparation;

/// Start of the names of what is being made; what was left behind by a killed run is removed.
const UNFINISHED: &str = ".unfinished-";

/// Age from which something unfinished is taken for left behind.
const A_DAY: Duration = Duration::from_hours(24);

/// What came of a preparation.
#[derive(Debug, Default, Serialize)]
pub struct PrepareReport {
    /// Made now.
    pub made: usize,
    /// There already.
    pub present: usize,
    /// What could not be made.
    pub failures: Vec<Failure>,
    /// Whether it was ended before all was tried.
    pub interrupted: bool,
}

impl PrepareReport {
    /// Each raw thing of which something could not be made, and why not, in order.
    ///
    /// What could not be made because what it is made of could not be made either stands there.
    pub fn failures_by_source(&self) -> Vec<(&Path, String)> {
        let unmade: BTreeSet<&Path> = self.failures.iter().map(|it| it.target.as_path()).collect();
        let mut places: BTreeMap<&Path, usize> = BTreeMap::new();
        let mut found: Vec<(&Path, Vec<&str>)> = Vec::new();
        for Failure { source, reason, .. } in &self.failures {
            if unmade.contains(source.as_path()) {
                continue;
            }
            let place = *places.entry(source.as_path()).or_insert(found.len());
            if place == found.len() {
                found.push((source.as_path(), Vec::new()));
            }
            let reasons = &mut found[place].1;
            if !reasons.contains(&reason.as_str()) {
                reasons.push(reason);
            }
        }
        found.into_iter().map(|(source, reasons)| (source, reasons.join("; "))).collect()
    }
}

/// Something that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What it was to be made from.
    pub source: PathBuf,
    /// What was to be made.
    pub target: PathBuf,
    /// Why not.
    pub reason: String,
}

/// Makes what is missing, `jobs` things at a time; a failure does not end the others.
///
/// Everything is made under a name of its own and renamed when whole, so what is there is finished
/// and a broken-off run goes on with what is missing. `progress` gets the number of things done and
/// of all, from several threads in turn; when it gives `false`, no further thing is begun.
///
/// # Errors
/// When a program is missing, or two things go to one place.
pub fn run(
    preparations: &[Preparation],
    jobs: usize,
    progress: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Result<PrepareReport> {
    let preparations = distinct(preparations)?;
    let mut report = PrepareReport::default();
    let (present, missing): (Vec<&Preparation>, Vec<&Preparation>) =
        preparations.iter().partition(|preparation| preparation.target.exists());
    report.present = present.len();
    let kinds: BTreeMap<String, &Preparation> =
        missing.iter().map(|preparation| (preparation.by.name(), *preparation)).collect();
    for (name, preparation) in kinds {
        guarded(&name, || preparation.by.ready())?;
    }
    // What is made from something that is made itself comes after it.
    let targets: BTreeSet<&Path> = missing.iter().map(|it| it.target.as_path()).collect();
    let (second, first): (Vec<&Preparation>, Vec<&Preparation>) =
        missing.iter().partition(|it| targets.contains(it.source.as_path()));
    let mut failures = Vec::new();
    let mut tried = 0;
    for round in [first, second] {
        let before = report.present + tried;
        let (done, failed) =
            make_all(&round, jobs, &|done| progress(before + done, preparations.len()));
        tried += done;
        failures.extend(failed);
        if done < round.len() {
            break;
        }
    }
    report.made = tried - failures.len();
    report.failures = failures;
    report.interrupted = tried < missing.len();
    Ok(report)
}

/// Makes things that do not depend on each other; gives how many were tried, and what failed.
fn make_all(
    missing: &[&Preparation],
    jobs: usize,
    progress: &(dyn Fn(usize) -> bool + Sync),
) -> (usize, Vec<Failure>) {
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while !stopped.load(Ordering::Relaxed) {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(preparation) = missing.get(position) else { return };
            if let Err(error) = make(preparation) {
                let failure = Failure {
                    source: preparation.source.clone(),
                    target: preparation.target.clone(),
                    reason: error.to_string(),
                };
                failures.lock().unwrap_or_else(PoisonError::into_inner).push((position, failure));
            }
            let so_far = done.fetch_add(1, Ordering::Relaxed) + 1;
            if !progress(so_far) {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.min(missing.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|(position, _)| *position);
    (done.into_inner(), failures.into_iter().map(|(_, failure)| failure).collect())
}

/// Leaves out what is listed again, as a clip that stands in a list twice is.
fn distinct(preparations: &[Preparation]) -> Result<Vec<&Preparation>> {
    let mut targets: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut distinct = Vec::with_capacity(preparations.len());
    for preparation in preparations {
        match targets.insert(&preparation.target, &preparation.source) {
            None => distinct.push(preparation),
            Some(other) if other == preparation.source => {}
            Some(other) => {
                let (one, two) = (other.display(), preparation.source.display());
                let problem = format!("would be made from {one} and from {two}");
                return Err(Error::data(&preparation.target, problem));
            }
        }
    }
    Ok(distinct)
}

fn make(preparation: &Preparation) -> Result<()> {
    let Preparation { source, target, by } = preparation;
    fs::metadata(source).map_err(Error::io("read", source))?;
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::Bug(format!("{} cannot be made", target.display())));
    };
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let name = name.to_string_lossy();
    remove_leftovers(parent, &name);
    // Another process may be making the same: each has a name of its own.
    let unfinished = parent.join(format!("{UNFINISHED}{}-{name}", name_of_its_own()));
    let made = guarded(&by.name(), || by.make(source, &unfinished)).and_then(|()| {
        match fs::rename(&unfinished, target) {
            // The other one was faster.
            Err(_) if target.exists() => remove(&unfinished),
            renamed => renamed.map_err(Error::io("rename", &unfinished)),
        }
    });
    if made.is_err() {
        // The error at hand is the one to report.
        drop(remove(&unfinished));
    }
    made
}

/// Removes what killed processes left of a thing; what is a day old belongs to no living one.
fn remove_leftovers(folder: &Path, name: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let unfinished = file.strip_prefix(UNFINISHED).and_then(|rest| rest.split_once('-'));
        let age = entry.metadata().and_then(|found| found.modified()).ok();
        let age = age.and_then(|modified| modified.elapsed().ok());
        if unfinished.is_some_and(|(_, of)| of == name) && age.is_some_and(|age| age > A_DAY) {
            // Only tidiness: a failure does not matter.
            drop(remove(&entry.path()));
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::family::Preparer;

    /// Copies files in capitals; what is broken is written by half, and then an error or a panic.
    struct Capitals {
        there: bool,
    }

    impl Preparer for Capitals {
        fn name(&self) -> String {
            "capitals".to_owned()
        }

        fn ready(&self) -> Result<()> {
            let missing = || Error::refused("the program `capitals` is not there", "install it");
            self.there.then_some(()).ok_or_else(missing)
        }

        fn make(&self, source: &Path, target: &Path) -> Result<()> {
            let text = fs::read_to_string(source).map_err(Error::io("read", source))?;
            fs::write(target, text.to_uppercase()).map_err(Error::io("write", target))?;
            assert!(!text.contains("panics"), "no such letter");
            if text.contains("broken") {
                return Err(Error::data(source, "ends in the middle"));
            }
            Ok(())
        }
    }

    fn preparations(folder: &Path, names: &[&str], there: bool) -> Vec<Preparation> {
        let by: Arc<dyn Preparer> = Arc::new(Capitals { there });
        names
            .iter()
            .map(|name| {
                if !name.starts_with("absent") {
                    fs::write(folder.join(name), name).unwrap();
                }
                Preparation {
                    source: folder.join(name),
                    target: folder.join("made").join(name),
                    by: by.clone(),
                }
            })
            .collect()
    }

    #[test]
    fn what_is_missing_is_made_whole_and_failures_are_listed_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a", "broken", "b", "absent", "panics", "c"];
        for jobs in [1, 4] {
            let wanted = preparations(folder.path(), &names, true);
            drop(fs::remove_dir_all(folder.path().join("made")));
            let report = run(&wanted, jobs, &|_, total| total == 6).unwrap();
            assert_eq!((report.made, report.present, report.interrupted), (3, 0, false));
            let reasons: Vec<&str> = report.failures.iter().map(|it| &*it.reason).collect();
            assert!(reasons[0].contains("broken: ends in the middle"), "{reasons:?}");
            assert!(reasons[1].contains("absent"), "{reasons:?}");
            assert!(reasons[2].contains("no such letter"), "{reasons:?}");
            let mut made: Vec<_> = fs::read_dir(folder.path().join("made"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            made.sort();
            assert_eq!(made, ["a", "b", "c"], "nothing half made is left");
            assert_eq!(fs::read_to_string(folder.path().join("made/b")).unwrap(), "B");
        }
    }

    #[test]
    fn a_second_run_makes_only_what_is_missing_and_removes_what_was_left_behind_long_ago() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = preparations(folder.path(), &["a", "b", "c"], true);
        let report = run(&wanted, 1, &|done, _| done < 1).unwrap();
        assert_eq!((report.made, report.interrupted), (1, true));
        let [old, new] =
            ["made/.unfinished-1-b", "made/.unfinished-2-b"].map(|name| folder.path().join(name));
        for file in [&old, &new] {
            fs::write(file, "half").unwrap();
        }
        let days_ago = SystemTime::now() - 3 * A_DAY;
        fs::File::options().append(true).open(&old).unwrap().set_modified(days_ago).unwrap();
        let report = run(&wanted, 2, &|_, _| true).unwrap();
        assert_eq!((report.made, report.present, report.interrupted), (2, 1, false));
        assert!(!old.exists() && new.exists(), "the new one may be another process's");
        let report = run(&preparations(folder.path(), &["a"], false), 2, &|_, _| true).unwrap();
        assert_eq!((report.made, report.present), (0, 1), "nothing to make needs no program");
    }

    /// Makes a folder of two files, while a neighbour makes it too.
    struct Halves {
        neighbour: Option<Preparation>,
    }

    impl Preparer for Halves {
        fn name(&self) -> String {
            "halves".to_owned()
        }

        fn make(&self, source: &Path, target: &Path) -> Result<()> {
            fs::create_dir(target).map_err(Error::io("create", target))?;
            for half in ["first", "second"] {
                let file = target.join(half);
                fs::copy(source, &file).map_err(Error::io("write", &file))?;
                if let Some(neighbour) = &self.neighbour {
                    make(neighbour)?;
                }
            }
            Ok(())
        }
    }

    #[test]
    fn a_neighbour_with_the_same_process_number_leaves_a_half_made_folder_alone() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("clip");
        fs::write(&source, "frames").unwrap();
        let made = folder.path().join("made");
        let preparation = |neighbour| {
            let by: Arc<dyn Preparer> = Arc::new(Halves { neighbour });
            Preparation { source: source.clone(), target: made.join("clip"), by }
        };
        make(&preparation(Some(preparation(None)))).unwrap();
        for half in ["first", "second"] {
            assert_eq!(fs::read_to_string(made.join("clip").join(half)).unwrap(), "frames");
        }
        assert_eq!(fs::read_dir(&made).unwrap().count(), 1, "nothing half made is left");
        // A name that a killed process of this number may have used is somebody else's.
        fs::remove_dir_all(made.join("clip")).unwrap();
        let other = made.join(format!("{UNFINISHED}{}-clip", std::process::id()));
        fs::write(&other, "half").unwrap();
        make(&preparation(None)).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "half");
    }

    #[test]
    fn a_missing_program_is_said_before_anything_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = preparations(folder.path(), &["a"], false);
        let error = run(&wanted, 1, &|_, _| true).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("install it"), "{error}");
        assert!(!folder.path().join("made").exists());
    }

    #[test]
    fn failures_are_summed_up_by_what_things_were_to_be_made_of() {
        let failure = |source: &str, target: &str, reason: &str| Failure {
            source: PathBuf::from(source),
            target: PathBuf::from(target),
            reason: reason.to_owned(),
        };
        let report = PrepareReport {
            failures: vec![
                failure("b.avi", "b/frames", "has no frame"),
                failure("a.mp4", "a/frames", "is broken"),
                failure("a.mp4", "a.wav", "has no sound"),
                failure("c.mp4", "c/frames", "is broken"),
                failure("c.mp4", "c.wav", "is broken"),
                failure("b/frames", "b/flow", "is not there"),
            ],
            ..PrepareReport::default()
        };
        let found = report.failures_by_source();
        let expected = [
            ("b.avi", "has no frame"),
            ("a.mp4", "is broken; has no sound"),
            ("c.mp4", "is broken"),
        ];
        let expected = expected.map(|(source, reason)| (Path::new(source), reason.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn two_sources_of_one_target_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut wanted = preparations(folder.path(), &["a", "b"], true);
        let twice = [wanted.clone(), wanted.clone()].concat();
        assert_eq!(run(&twice, 2, &|_, total| total == 2).unwrap().made, 2, "each once");
        wanted[1].target = wanted[0].target.clone();
        let error = run(&wanted, 1, &|_, _| true).unwrap_err().to_string();
        assert!(error.contains("would be made from"), "{error}");
    }
}
