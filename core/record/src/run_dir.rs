//! The layout of a run directory and who may write there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;
use crate::manifest::Manifest;
use crate::summary::Summary;

/// Names one run: the directory `<root>/<experiment>/<fingerprint>/`.
///
/// Whoever writes there holds the [`lock`](RunDir::lock); reading is always allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Creates the directory of a new run, and in it the directories of the layout.
    ///
    /// # Errors
    /// [`Error::Exists`] when it holds a manifest already; [`Error::Name`] when `experiment` is
    /// not a relative path of plain names or `fingerprint` not one plain name; [`Error::Io`] when
    /// the system refuses.
    pub fn create(root: &Path, experiment: &str, fingerprint: &str) -> Result<Self> {
        check_name("experiment", experiment, usize::MAX, "plain names with `/` between them")?;
        check_name("fingerprint", fingerprint, 1, "one plain name")?;
        let run = Self { path: root.join(experiment).join(fingerprint) };
        if files::exists(&run.manifest_path())? {
            return Err(Error::Exists { path: run.path });
        }
        for directory in [run.events_path(), run.checkpoints_path(), run.refresh_path()] {
            files::create_directory(&directory)?;
        }
        Ok(run)
    }

    /// Takes an existing directory for the run it is.
    ///
    /// # Errors
    /// [`Error::NotARun`] when it holds no manifest.
    pub fn open(path: &Path) -> Result<Self> {
        let run = Self { path: path.to_owned() };
        if files::exists(&run.manifest_path())? {
            Ok(run)
        } else {
            Err(Error::NotARun { path: run.path })
        }
    }

    /// Finds every run below `root`, `root` itself included, sorted by path.
    ///
    /// What lies inside a run belongs to that run and is not searched, and symbolic links below
    /// `root` are not followed.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be listed, `root` is missing for instance.
    pub fn list(root: &Path) -> Result<Vec<Self>> {
        let mut runs = Vec::new();
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let run = Self { path };
            if files::exists(&run.manifest_path())? {
                runs.push(run);
                continue;
            }
            for entry in fs::read_dir(&run.path).map_err(Error::io("list", &run.path))? {
                let entry = entry.map_err(Error::io("list", &run.path))?;
                if entry.file_type().map_err(Error::io("look at", &entry.path()))?.is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        runs.sort();
        Ok(runs)
    }

    /// Takes the run for this process until the guard is dropped or the process ends.
    ///
    /// The lock is the operating system's, so a killed process leaves none behind. It binds those
    /// who ask for it, on one machine and, where the file system carries locks, across machines.
    ///
    /// # Errors
    /// [`Error::Locked`], naming the holder, when another handle has it; [`Error::Io`] when the
    /// file system has no locks.
    pub fn lock(&self) -> Result<RunLock> {
        let path = self.lock_path();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        // Who only asks for the holder has it for an instant.
        let mut taken = file.try_lock();
        for _ in 0..5 {
            if !matches!(taken, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            taken = file.try_lock();
        }
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The holder may be about to write its name, and some systems forbid the reading.
                if file.read_to_string(&mut holder).is_err() || holder.is_empty() {
                    "another process".clone_into(&mut holder);
                }
                return Err(Error::Locked { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", &path)(source)),
        }
        let holder = format!("process {} on {}", std::process::id(), files::host_name());
        file.set_len(0)
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(Error::io("write", &path))?;
        Ok(RunLock { _file: file })
    }

    /// Says who holds the run now, as far as the system tells.
    pub fn holder(&self) -> Option<String> {
        let mut file = File::open(self.lock_path()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let named = file.read_to_string(&mut holder).is_ok() && !holder.is_empty();
                Some(if named { holder } else { "another process".to_owned() })
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }

    /// Removes what writes left behind that a kill cut off; only for who holds the lock.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory cannot be listed or a file not removed.
    pub fn remove_temporaries(&self) -> Result<()> {
        for directory in [self.path.clone(), self.checkpoints_path(), self.refresh_path()] {
            for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
                let path = entry.map_err(Error::io("list", &directory))?.path();
                if files::is_temporary(&path) {
                    fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// Names the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names the file of the resolved configuration.
    pub fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// Names the file of the [`Manifest`].
    pub fn manifest_path(&self) -> PathBuf {
        self.path.join("manifest.json")
    }

    /// Names the file of the [events](crate::Event).
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Names the file of the [`Summary`].
    pub fn summary_path(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// Names the directory of `TensorBoard`'s event files.
    pub fn events_path(&self) -> PathBuf {
        self.path.join("events")
    }

    /// Names the directory of the checkpoints.
    pub fn checkpoints_path(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Names the directory of what refreshes computed.
    pub fn refresh_path(&self) -> PathBuf {
        self.path.join("refresh")
    }

    /// Names the lock file; what it says counts only while it is locked.
    pub fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Writes the resolved configuration.
    pub fn write_config(&self, text: &str) -> Result<()> {
        files::atomic_write(&self.config_path(), text.as_bytes())
    }

    /// Reads the resolved configuration.
    ///
    /// # Errors
    /// [`Error::Io`] when it is missing or not UTF-8.
    pub fn read_config(&self) -> Result<String> {
        let path = self.config_path();
        fs::read_to_string(&path).map_err(Error::io("read", &path))
    }

    /// Writes the manifest, which makes the directory a run.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        files::write_json(&self.manifest_path(), manifest)
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// [`Error::Format`] when a newer program wrote it; [`Error::Json`] when it is damaged.
    pub fn read_manifest(&self) -> Result<Manifest> {
        /// Looks at the format alone: the other fields may not be what this version knows.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }

        let path = self.manifest_path();
        let Format { format: found } = files::read_json(&path)?;
        if found > Manifest::FORMAT {
            return Err(Error::Format { path, found, known: Manifest::FORMAT });
        }
        files::read_json(&path)
    }

    /// Writes the summary, which makes the run a finished one.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        files::write_json(&self.summary_path(), summary)
    }

    /// Reads the summary; none while the run has not finished.
    ///
    /// # Errors
    /// [`Error::Json`] when it is damaged.
    pub fn read_summary(&self) -> Result<Option<Summary>> {
        let path = self.summary_path();
        if files::exists(&path)? { files::read_json(&path).map(Some) } else { Ok(None) }
    }
}

/// Keeps a run for this process; dropping it lets the run go.
#[derive(Debug)]
#[must_use = "the run is let go when this is dropped"]
pub struct RunLock {
    _file: File,
}

/// Refuses a name that would lead out of the root or deeper than meant.
fn check_name(
    what: &'static str,
    name: &str,
    most_parts: usize,
    expected: &'static str,
) -> Result<()> {
    let parts: Vec<_> = Path::new(name).components().collect();
    let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    if plain && (1..=most_parts).contains(&parts.len()) {
        return Ok(());
    }
    Err(Error::Name { what, found: name.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::DataRecord;

    fn manifest(experiment: &str, fingerprint: &str) -> Manifest {
        Manifest {
            format: Manifest::FORMAT,
            experiment: experiment.to_owned(),
            fingerprint: fingerprint.to_owned(),
            settings: "2c".to_owned(),
            seed: 3,
            created_unix_seconds: 1_700_000_000,
            versions: [("mie".to_owned(), "0.1.0".to_owned())].into(),
            commit: Some("c0ffee".to_owned()),
            device: "cpu".to_owned(),
            threads: 2,
            host_os: "linux".to_owned(),
            data: vec![DataRecord {
                dataset: "cremad".to_owned(),
                split: "test".to_owned(),
                samples: 744,
                fingerprint: "77aa".to_owned(),
                skipped: vec!["1001_DFA_ANG_XX".to_owned()],
                classes: vec!["neutral".to_owned(), "happy".to_owned()],
            }],
            marks: vec![crate::SKIPPED_DATA.to_owned()],
            plugins: [("optimizer".to_owned(), vec!["sam".to_owned(), "sgd".to_owned()])].into(),
            deviations: [("selection".to_owned(), "on valid".to_owned())].into(),
            weights: [].into(),
            input_files: [].into(),
        }
    }

    /// Creates a run that has a manifest.
    fn started(root: &Path, experiment: &str, fingerprint: &str) -> RunDir {
        let run = RunDir::create(root, experiment, fingerprint).unwrap();
        run.write_manifest(&manifest(experiment, fingerprint)).unwrap();
        run
    }

    #[test]
    fn what_was_written_is_read_from_the_reopened_directory() {
        let root = tempfile::tempdir().unwrap();
        let run = started(root.path(), "cremad/mie", "5f1d");
        run.write_config("seed = 3\n").unwrap();
        assert_eq!(run.path(), root.path().join("cremad/mie/5f1d"));

        let reopened = RunDir::open(run.path()).unwrap();
        assert_eq!(reopened.read_manifest().unwrap(), manifest("cremad/mie", "5f1d"));
        assert_eq!(reopened.read_config().unwrap(), "seed = 3\n");
        assert_eq!(reopened.read_summary().unwrap(), None);
        for directory in [run.events_path(), run.checkpoints_path(), run.refresh_path()] {
            assert!(directory.is_dir(), "{}", directory.display());
        }
    }

    #[test]
    fn a_run_is_created_once_and_a_start_that_came_to_nothing_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path(), "joint", "5f1d").unwrap();
        RunDir::create(root.path(), "joint", "5f1d").unwrap();
        run.write_manifest(&manifest("joint", "5f1d")).unwrap();
        let error = RunDir::create(root.path(), "joint", "5f1d").unwrap_err().to_string();
        assert!(error.contains("this run exists already"), "{error}");
        RunDir::create(root.path(), "joint", "5f1e").unwrap();
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for experiment in ["", "/tmp", "../up", "a/../../b", "."] {
            let error = RunDir::create(root.path(), experiment, "f").unwrap_err().to_string();
            assert!(error.starts_with(&format!("experiment `{experiment}`")), "{error}");
        }
        for fingerprint in ["", "a/b", ".."] {
            let error = RunDir::create(root.path(), "a", fingerprint).unwrap_err().to_string();
            assert!(error.starts_with(&format!("fingerprint `{fingerprint}`")), "{error}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_second_handle_is_refused_and_told_the_process_until_the_first_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path(), "joint", "5f1d").unwrap();
        // A longer name left behind by an earlier holder must not show through.
        fs::write(run.lock_path(), "process 4294967295 on ".repeat(20)).unwrap();
        let lock = run.lock().unwrap();
        let error = run.lock().unwrap_err();
        let Error::Locked { path, holder } = &error else { unreachable!("{error}") };
        assert_eq!(path, &run.lock_path());
        let expected = format!("process {} on {}", std::process::id(), files::host_name());
        assert_eq!(holder, &expected);
        drop(lock);
        let _again = run.lock().unwrap();
    }

    #[test]
    fn runs_are_found_at_any_depth_sorted_and_not_inside_one_another() {
        let root = tempfile::tempdir().unwrap();
        let second = started(root.path(), "cremad/mie", "b");
        let first = started(root.path(), "cremad/mie", "a");
        let third = started(root.path(), "zero", "c");
        started(second.path(), "trial", "x");
        RunDir::create(root.path(), "cremad/mie", "never started").unwrap();
        let expected = vec![first.clone(), second, third];
        assert_eq!(RunDir::list(root.path()).unwrap(), expected);
        assert_eq!(RunDir::list(first.path()).unwrap(), vec![first]);
        let error = RunDir::list(&root.path().join("gone")).unwrap_err().to_string();
        assert!(error.starts_with("cannot list ") && error.contains("gone"), "{error}");
    }

    #[test]
    fn what_a_cut_off_write_left_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path(), "a", "b").unwrap();
        let left = [
            run.path().join(".summary.json.17.tmp"),
            run.checkpoints_path().join(".last.safetensors.17.tmp"),
            run.refresh_path().join(".phase0.safetensors.17.tmp"),
        ];
        let kept = [run.checkpoints_path().join("last.safetensors"), run.path().join(".note")];
        for file in left.iter().chain(&kept) {
            fs::write(file, b"x").unwrap();
        }
        run.remove_temporaries().unwrap();
        assert!(left.iter().all(|file| !file.exists()));
        assert!(kept.iter().all(|file| file.exists()));
    }

    #[test]
    fn a_directory_without_a_manifest_is_not_a_run() {
        let root = tempfile::tempdir().unwrap();
        let error = RunDir::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("no `manifest.json`"), "{error}");
    }

    #[test]
    fn a_newer_format_is_refused_whatever_else_the_manifest_holds() {
        let root = tempfile::tempdir().unwrap();
        let run = started(root.path(), "joint", "5f1d");
        fs::write(run.manifest_path(), r#"{"format": 2, "seeds": [1, 2]}"#).unwrap();
        let error = run.read_manifest().unwrap_err().to_string();
        assert!(error.contains("manifest.json: format 2, expected at most 1"), "{error}");
    }

    #[test]
    fn a_damaged_manifest_is_named_with_its_line() {
        let root = tempfile::tempdir().unwrap();
        let run = started(root.path(), "joint", "5f1d");
        fs::write(run.manifest_path(), "{\"format\": 1,\n").unwrap();
        let error = run.read_manifest().unwrap_err().to_string();
        assert!(error.contains("manifest.json: ") && error.contains("line 2"), "{error}");
    }
}
