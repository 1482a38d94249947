//! Decoded arrays on disk, so that only the first epoch decodes files.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::family::{Decoded, DecodedView, Raw, Values, ValuesView};
use crate::hash::hex;
use crate::system::MappedFile;

/// First bytes of a file of the cache; the number is that of its layout.
const MAGIC: &[u8; 16] = b"mie array 1\0\0\0\0\0";

/// Bytes before the values: magic, kind, rank, shape, checksum. A multiple of 64, so that mapped
/// values are aligned.
const HEADER_BYTES: usize = 128;

/// Most dimensions of an array.
const MOST_DIMENSIONS: usize = 8;

/// Bytes of the header before its checksum.
const CHECKED_BYTES: usize = 16 + 8 * (2 + MOST_DIMENSIONS);

/// File that says in words what a folder of the cache holds; its age is that of the last use.
const RECIPE_FILE: &str = "recipe.txt";

/// End of the names of files that are being written.
const UNFINISHED: &str = ".tmp";

/// Age from which such a file is taken for one that a killed process left.
const A_DAY: Duration = Duration::from_hours(24);

/// Folder of the cache: `MIE_CACHE_DIR`, or else `mie/decoded` in the user's cache folder
/// (`XDG_CACHE_HOME`, `~/.cache`).
pub fn cache_dir() -> PathBuf {
    let from = |key| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("MIE_CACHE_DIR")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("mie/decoded")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/mie/decoded")))
        .unwrap_or_else(|| PathBuf::from("mie-decoded"))
}

/// A store of decoded arrays that several processes may share.
///
/// An array lies in a file of its own, named by the recipe that decoded it and by path, size and
/// time of the files it came from, so a changed file or recipe is never answered by an old array.
/// Files appear whole, by renaming, and carry a checksum, which a process looks at when it first
/// reads them; one that is damaged counts as absent. When the limit is reached, recipes that no run
/// has used for longest make room; when none is left but those in use, nothing more is kept.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit_bytes: u64,
    /// Arrays found, and arrays looked for in vain.
    found: AtomicU64,
    missed: AtomicU64,
    /// Numbers temporary files.
    written: AtomicU64,
    keeping: Mutex<Keeping>,
    checked: Checked,
}

/// What the writing side knows.
#[derive(Debug, Default)]
struct Keeping {
    /// Bytes in the folder when last counted, and what was written since; absent before that.
    bytes: Option<u64>,
    /// Folders of recipes that this process has used.
    recipes: BTreeSet<String>,
    /// Why nothing more is written.
    stopped: Option<String>,
}

impl Cache {
    /// Uses `folder`, which need not exist, for at most `limit_bytes`.
    ///
    /// What killed processes left half written there is removed.
    pub fn new(folder: PathBuf, limit_bytes: u64) -> Self {
        remove_left_over(&folder);
        Self {
            folder,
            limit_bytes,
            found: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            keeping: Mutex::default(),
            checked: Checked::default(),
        }
    }

    /// How often an array was found, and how often not.
    pub fn counts(&self) -> (u64, u64) {
        (self.found.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }

    /// Why nothing more is kept, once that is so.
    pub fn stopped(&self) -> Option<String> {
        self.lock().stopped.clone()
    }

    /// Looks for the array of `raw`, or decodes and keeps it; hands it to `then`.
    ///
    /// What is not in files is decoded every time. A cache that cannot be written is no error.
    ///
    /// # Errors
    /// Those of `decode` and `then`.
    pub fn with<T>(
        &self,
        recipe: &str,
        raw: &Raw<'_>,
        decode: impl FnOnce() -> Result<Decoded>,
        then: impl FnOnce(DecodedView<'_>) -> Result<T>,
    ) -> Result<T> {
        let Some(place) = self.place(recipe, raw) else { return then(decode()?.view()) };
        if let Some(stored) = Stored::open(&place.file, &self.checked) {
            self.found.fetch_add(1, Ordering::Relaxed);
            self.note_use(&place);
            return then(stored.view()?);
        }
        self.missed.fetch_add(1, Ordering::Relaxed);
        let decoded = decode()?;
        self.keep(&place, recipe, &decoded);
        then(decoded.view())
    }

    /// Where the array of `raw` lies; `None` for what is not in files that can be told apart.
    fn place(&self, recipe: &str, raw: &Raw<'_>) -> Option<Place> {
        let files = match raw {
            Raw::File(file) => std::slice::from_ref(file),
            Raw::Files(files) => files.as_slice(),
            _ => return None,
        };
        let mut hash = Sha256::new();
        for file in files {
            let found = fs::metadata(file).ok()?;
            let age = found.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let path = std::path::absolute(file).ok()?;
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update([0]);
            hash.update(found.len().to_le_bytes());
            hash.update(age.as_nanos().to_le_bytes());
        }
        let name = hex(&hash.finalize()[..16]);
        let recipe = hex(&Sha256::digest(recipe.as_bytes())[..8]);
        let folder = self.folder.join(&recipe);
        let file = folder.join(&name[..2]).join(&name[2..]);
        Some(Place { recipe, folder, file })
    }

    /// Remembers once a process that a recipe is in use.
    fn note_use(&self, place: &Place) {
        let mut keeping = self.lock();
        if keeping.recipes.insert(place.recipe.clone()) {
            // Only a hint for making room: failing to leave it does no harm.
            let marker = File::options().append(true).open(place.folder.join(RECIPE_FILE));
            drop(marker.and_then(|file| file.set_modified(SystemTime::now())));
        }
    }

    /// Writes an array, unless the cache is full or cannot be written.
    fn keep(&self, place: &Place, recipe: &str, decoded: &Decoded) {
        let Some(header) = header(decoded) else { return };
        let bytes = (HEADER_BYTES + values_bytes(decoded).len()) as u64;
        {
            let mut keeping = self.lock();
            if keeping.stopped.is_some() {
                return;
            }
            keeping.recipes.insert(place.recipe.clone());
            let held = keeping.bytes.unwrap_or_else(|| usage(&self.folder).0);
            let held = if held + bytes <= self.limit_bytes {
                held
            } else {
                make_room(&self.folder, &keeping.recipes, held, bytes, self.limit_bytes)
            };
            keeping.bytes = Some(held + bytes);
            if held + bytes > self.limit_bytes {
                keeping.bytes = Some(held);
                keeping.stopped = Some(format!(
                    "the cache of decoded files is full ({:.1} of {:.1} GB): what does not fit is \
                     decoded every epoch; run.cache_gigabytes is its size, `mie data cache --clear` \
                     empties it",
                    held as f64 / 1e9,
                    self.limit_bytes as f64 / 1e9
                ));
                return;
            }
        }
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = write(place, recipe, &header, values_bytes(decoded), number) {
            let folder = self.folder.display();
            self.lock().stopped = Some(format!(
                "decoded files cannot be kept in {folder}: {error}; every epoch decodes them \
                 again (MIE_CACHE_DIR names another folder, run.cache_gigabytes = 0 does without)"
            ));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an array lies.
struct Place {
    recipe: String,
    folder: PathBuf,
    file: PathBuf,
}

/// Files whose checksum was right when this process first read them: it is computed once, since
/// that needs all of a file, and a crop only a part. Each is a hash of path, size and time.
#[derive(Debug, Default)]
struct Checked(Mutex<BTreeSet<u64>>);

impl Checked {
    /// Whether the file is whole: it was so before, or `right` says so now.
    fn whole(&self, path: &Path, file: &File, right: impl FnOnce() -> bool) -> bool {
        let stamp = file.metadata().ok().and_then(|found| {
            let mut hash = DefaultHasher::new();
            (path, found.len(), found.modified().ok()?).hash(&mut hash);
            Some(hash.finish())
        });
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.is_some_and(|stamp| lock().contains(&stamp)) {
            return true;
        }
        let whole = right();
        if whole {
            lock().extend(stamp);
        }
        whole
    }
}

/// An array in a mapped file.
struct Stored {
    file: MappedFile,
    shape: Vec<usize>,
    floats: bool,
}

impl Stored {
    /// Opens a file that is whole; `None` for one that is absent or damaged.
    fn open(path: &Path, checked: &Checked) -> Option<Self> {
        let opened = File::open(path).ok()?;
        let file = MappedFile::open(&opened).ok()?;
        let header = file.get(..HEADER_BYTES)?;
        let word = |index: usize| -> Option<u64> {
            let at = 16 + 8 * index;
            Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?))
        };
        let rank = usize::try_from(word(1)?).ok().filter(|&rank| rank <= MOST_DIMENSIONS)?;
        let shape: Vec<usize> =
            (0..rank).map(|axis| usize::try_from(word(2 + axis)?).ok()).collect::<Option<_>>()?;
        let floats = word(0)? == 1;
        let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side))?;
        let bytes = count.checked_mul(if floats { 4 } else { 1 })?;
        let values = file.get(HEADER_BYTES..)?;
        let whole = header.get(..16)? == MAGIC
            && values.len() == bytes
            && checked.whole(path, &opened, || {
                word(2 + MOST_DIMENSIONS) == Some(checksum(&header[..CHECKED_BYTES], values))
            });
        whole.then_some(Self { file, shape, floats })
    }

    fn view(&self) -> Result<DecodedView<'_>> {
        let bytes = &self.file[HEADER_BYTES..];
        let values = if self.floats {
            let floats = bytemuck::try_cast_slice(bytes)
                .map_err(|error| Error::Bug(format!("a cached array is not aligned: {error}")))?;
            ValuesView::F32(floats)
        } else {
            ValuesView::U8(bytes)
        };
        Ok(DecodedView { shape: &self.shape, values })
    }
}

/// Checksum of what stands before it in the header, and of the values.
fn checksum(header: &[u8], values: &[u8]) -> u64 {
    u64::from(crc32c::crc32c_append(crc32c::crc32c(values), header))
}

fn values_bytes(decoded: &Decoded) -> &[u8] {
    match &decoded.values {
        Values::U8(values) => values,
        Values::F32(values) => bytemuck::cast_slice(values),
    }
}

/// The bytes before the values; `None` for an array of more dimensions than are kept.
fn header(decoded: &Decoded) -> Option<Vec<u8>> {
    if decoded.shape.len() > MOST_DIMENSIONS {
        return None;
    }
    let mut header = MAGIC.to_vec();
    let mut shape = decoded.shape.clone();
    shape.resize(MOST_DIMENSIONS, 0);
    let kind = u64::from(matches!(decoded.values, Values::F32(_)));
    header.extend(kind.to_le_bytes());
    header.extend((decoded.shape.len() as u64).to_le_bytes());
    for side in shape {
        header.extend((side as u64).to_le_bytes());
    }
    header.extend(checksum(&header, values_bytes(decoded)).to_le_bytes());
    header.resize(HEADER_BYTES, 0);
    Some(header)
}

/// Writes under a name of this process alone, then renames.
///
/// Nothing is synced: after a power cut the checksum finds what is missing.
fn write(
    place: &Place,
    recipe: &str,
    header: &[u8],
    values: &[u8],
    number: u64,
) -> std::io::Result<()> {
    let marker = place.folder.join(RECIPE_FILE);
    if !marker.exists() {
        fs::create_dir_all(&place.folder)?;
        fs::write(&marker, format!("{recipe}\n"))?;
    }
    let temporary = place.folder.join(format!(".{}-{number}{UNFINISHED}", std::process::id()));
    if let Some(parent) = place.file.parent() {
        fs::create_dir_all(parent)?;
    }
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(header).and_then(|()| file.write_all(values)))
        .and_then(|()| fs::rename(&temporary, &place.file));
    if written.is_err() {
        // The error at hand is the one to report.
        drop(fs::remove_file(&temporary));
    }
    written
}

/// Whether a file of the cache is one that is being written, by its name.
fn is_unfinished(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(UNFINISHED.as_bytes())
}

/// Removes files that were begun more than a day ago and never finished.
fn remove_left_over(folder: &Path) {
    for recipe in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Other folders are none of the cache.
        if !recipe.path().join(RECIPE_FILE).is_file() {
            continue;
        }
        for file in fs::read_dir(recipe.path()).into_iter().flatten().flatten() {
            let changed = file.metadata().and_then(|found| found.modified()).ok();
            let age = changed.and_then(|changed| changed.elapsed().ok());
            if is_unfinished(&file.file_name()) && age.is_some_and(|age| age > A_DAY) {
                // Another process may have removed it by now.
                drop(fs::remove_file(file.path()));
            }
        }
    }
}

/// Bytes and files below a folder, without those that are being written; what cannot be read
/// counts as nothing.
fn usage(folder: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if is_unfinished(&entry.file_name()) {
            continue;
        }
        let (bytes, files) = if kind.is_dir() {
            usage(&entry.path())
        } else {
            (entry.metadata().map_or(0, |found| found.len()), 1)
        };
        sum = (sum.0 + bytes, sum.1 + files);
    }
    sum
}

/// Removes recipes that are not in use, the longest unused first, until `bytes` more fit; gives the
/// bytes that are left.
fn make_room(
    folder: &Path,
    in_use: &BTreeSet<String>,
    held: u64,
    bytes: u64,
    limit_bytes: u64,
) -> u64 {
    let mut held = held;
    let mut idle: Vec<_> =
        entries(folder).into_iter().filter(|entry| !in_use.contains(&entry.folder)).collect();
    idle.sort_by_key(|entry| entry.last_used);
    for entry in idle {
        if held + bytes <= limit_bytes {
            break;
        }
        if fs::remove_dir_all(folder.join(&entry.folder)).is_ok() {
            held = held.saturating_sub(entry.bytes);
        }
    }
    held
}

/// What the cache holds of one recipe.
#[derive(Debug, Clone, Serialize)]
pub struct CacheEntry {
    /// The recipe in words: plugin and options that decoding depends on.
    pub recipe: String,
    /// Folder within the cache.
    pub folder: String,
    /// Arrays.
    pub arrays: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When a run last used it.
    #[serde(skip)]
    pub last_used: Option<SystemTime>,
}

/// Lists what a cache holds, by recipe; nothing where there is no cache.
pub fn entries(folder: &Path) -> Vec<CacheEntry> {
    let mut entries = Vec::new();
    for found in fs::read_dir(folder).into_iter().flatten().flatten() {
        let marker = found.path().join(RECIPE_FILE);
        let Ok(recipe) = fs::read_to_string(&marker) else { continue };
        let (bytes, files) = usage(&found.path());
        entries.push(CacheEntry {
            recipe: recipe.trim_end().to_owned(),
            folder: found.file_name().to_string_lossy().into_owned(),
            arrays: files.saturating_sub(1),
            bytes,
            last_used: fs::metadata(&marker).and_then(|found| found.modified()).ok(),
        });
    }
    entries.sort_by(|a, b| (&a.recipe, &a.folder).cmp(&(&b.recipe, &b.folder)));
    entries
}

/// Removes everything that [`entries`] lists, and nothing else.
///
/// # Errors
/// Names the folder that cannot be removed.
pub fn clear(folder: &Path) -> Result<()> {
    for entry in entries(folder) {
        let folder = folder.join(&entry.folder);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io("remove", &folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// A folder with a file and a cache.
    struct Bench {
        folder: tempfile::TempDir,
        decoded: Cell<usize>,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.jpg"), "pixels").unwrap();
            Self { folder, decoded: Cell::new(0) }
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("a.jpg")
        }

        fn cache(&self, limit_bytes: u64) -> Cache {
            Cache::new(self.folder.path().join("cache"), limit_bytes)
        }

        /// Asks for the array of the file, and gives its values.
        fn get(&self, cache: &Cache, recipe: &str) -> Vec<f32> {
            let raw = Raw::File(self.file());
            let decode = || {
                self.decoded.set(self.decoded.get() + 1);
                Ok(floats(&[1.5, -2.0, f32::MIN_POSITIVE]))
            };
            cache.with(recipe, &raw, decode, |view| Ok(view.f32()?.to_vec())).unwrap()
        }
    }

    fn floats(values: &[f32]) -> Decoded {
        Decoded { shape: vec![1, values.len()], values: Values::F32(values.to_vec()) }
    }

    #[test]
    fn an_array_is_decoded_once_and_comes_back_with_its_bits_and_shape() {
        let bench = Bench::new();
        let first = bench.get(&bench.cache(1 << 20), "spectrogram 1");
        let cache = bench.cache(1 << 20);
        assert_eq!(bench.get(&cache, "spectrogram 1"), first);
        assert_eq!((bench.decoded.get(), cache.counts()), (1, (1, 0)));
        let raw = Raw::File(bench.file());
        let never = || Err(Error::Bug("decoded again".to_owned()));
        let shape = |view: DecodedView<'_>| Ok(view.shape.to_vec());
        assert_eq!(cache.with("spectrogram 1", &raw, never, shape).unwrap(), [1, 3]);
        let pixels = Decoded { shape: vec![2, 2, 1], values: Values::U8(vec![0, 9, 200, 255]) };
        let read = |view: DecodedView<'_>| Ok(view.u8()?.to_vec());
        assert_eq!(cache.with("u8", &raw, || Ok(pixels), read).unwrap(), [0, 9, 200, 255]);
        assert_eq!(cache.with("u8", &raw, never, read).unwrap(), [0, 9, 200, 255]);
    }

    #[test]
    fn another_recipe_and_a_changed_file_are_decoded_anew() {
        let bench = Bench::new();
        let cache = bench.cache(1 << 20);
        bench.get(&cache, "one");
        bench.get(&cache, "two");
        assert_eq!(bench.decoded.get(), 2);
        // Same length, another time.
        fs::write(bench.file(), "PIXELS").unwrap();
        let later = SystemTime::now() + Duration::from_secs(3);
        File::options().append(true).open(bench.file()).unwrap().set_modified(later).unwrap();
        bench.get(&cache, "one");
        assert_eq!(bench.decoded.get(), 3);
        assert_eq!(entries(&bench.folder.path().join("cache")).len(), 2);
    }

    #[test]
    fn a_damaged_array_counts_as_absent_and_is_replaced() {
        let bench = Bench::new();
        let cache = bench.cache(1 << 20);
        let expected = bench.get(&cache, "one");
        let place = cache.place("one", &Raw::File(bench.file())).unwrap();
        let whole = fs::read(&place.file).unwrap();
        assert_eq!(whole.len(), HEADER_BYTES + 12);
        for damage in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[damage] ^= 0x41;
            // What fills up the header may be anything.
            let filling = (CHECKED_BYTES + 8..HEADER_BYTES).contains(&damage);
            assert_eq!(
                Stored::open(&written(&bench, &bytes), &Checked::default()).is_some(),
                filling,
                "{damage}"
            );
        }
        for length in [0, 15, HEADER_BYTES, whole.len() - 1] {
            assert!(
                Stored::open(&written(&bench, &whole[..length]), &Checked::default()).is_none(),
                "{length}"
            );
        }
        fs::write(&place.file, &whole[..60]).unwrap();
        let decoded = bench.decoded.get();
        assert_eq!(bench.get(&cache, "one"), expected);
        assert_eq!(bench.decoded.get(), decoded + 1);
        assert_eq!(fs::read(&place.file).unwrap(), whole);
    }

    #[test]
    fn the_checksum_of_a_file_is_computed_once_until_the_file_changes() {
        let bench = Bench::new();
        let path = written(&bench, &[1, 2, 3]);
        let checked = Checked::default();
        let whole = |right: Option<bool>| {
            let file = File::open(&path).unwrap();
            checked.whole(&path, &file, || right.unwrap())
        };
        assert!(!whole(Some(false)));
        assert!(whole(Some(true)));
        // No second computation.
        assert!(whole(None));
        let later = SystemTime::now() + Duration::from_secs(9);
        File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(!whole(Some(false)));
        fs::write(&path, [1, 2, 3, 4]).unwrap();
        assert!(!whole(Some(false)));
    }

    fn written(bench: &Bench, bytes: &[u8]) -> PathBuf {
        let file = bench.folder.path().join("array");
        fs::write(&file, bytes).unwrap();
        file
    }

    #[test]
    fn a_full_cache_drops_idle_recipes_first_and_then_keeps_nothing_more() {
        let bench = Bench::new();
        let array = (HEADER_BYTES + 12 + "one\n".len()) as u64;
        bench.get(&bench.cache(1 << 20), "old");
        let cache = bench.cache(2 * array);
        bench.get(&cache, "one");
        assert_eq!(entries(&bench.folder.path().join("cache")).len(), 2);
        bench.get(&cache, "two");
        let left = entries(&bench.folder.path().join("cache"));
        assert_eq!(left.iter().map(|it| &*it.recipe).collect::<Vec<_>>(), ["one", "two"]);
        assert!(cache.stopped().is_none());
        bench.get(&cache, "six");
        let reason = cache.stopped().unwrap();
        assert!(reason.contains("full") && reason.contains("run.cache_gigabytes"), "{reason}");
        assert_eq!(entries(&bench.folder.path().join("cache")).len(), 2);
        clear(&bench.folder.path().join("cache")).unwrap();
        assert!(entries(&bench.folder.path().join("cache")).is_empty());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_after_a_day_and_never_counted() {
        let bench = Bench::new();
        bench.get(&bench.cache(1 << 20), "one");
        let folder = bench.folder.path().join("cache");
        let before = entries(&folder).remove(0);
        let left = |place: PathBuf, hours| {
            let age = Duration::from_hours(hours);
            let file = File::create(&place).unwrap();
            file.set_len(1000).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            place
        };
        let recipe = folder.join(&before.folder);
        let old = left(recipe.join(".1-0.tmp"), 25);
        let young = left(recipe.join(".2-0.tmp"), 23);
        // A folder that is none of the cache, which may lie anywhere.
        fs::create_dir(folder.join("other")).unwrap();
        let foreign = left(folder.join("other/.1-0.tmp"), 25);
        bench.cache(1 << 20);
        assert!(!old.exists() && young.exists() && foreign.exists());
        let after = entries(&folder).remove(0);
        assert_eq!((after.arrays, after.bytes), (1, before.bytes));
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_time_and_nothing_else() {
        let bench = Bench::new();
        // A file stands where the folder should be.
        fs::write(bench.folder.path().join("cache"), "").unwrap();
        let cache = bench.cache(1 << 20);
        assert_eq!(bench.get(&cache, "one"), bench.get(&cache, "one"));
        assert_eq!(bench.decoded.get(), 2);
        let reason = cache.stopped().unwrap();
        assert!(reason.contains("cannot be kept") && reason.contains("MIE_CACHE_DIR"), "{reason}");
    }

    #[test]
    fn threads_and_processes_may_share_it() {
        let bench = Bench::new();
        let caches: Vec<_> = (0..2).map(|_| Arc::new(bench.cache(1 << 20))).collect();
        let file = bench.file();
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (cache, file) = (caches[thread % 2].clone(), file.clone());
                std::thread::spawn(move || {
                    for round in 0..50 {
                        let recipe = format!("recipe {}", round % 5);
                        let raw = Raw::File(file.clone());
                        let value = (round % 5) as f32;
                        let found = cache
                            .with(
                                &recipe,
                                &raw,
                                || Ok(floats(&[value; 1000])),
                                |view| {
                                    Ok(view
                                        .f32()?
                                        .iter()
                                        .all(|&it| it.to_bits() == value.to_bits()))
                                },
                            )
                            .unwrap();
                        assert!(found);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(entries(&bench.folder.path().join("cache")).len(), 5);
    }

    #[test]
    fn what_is_in_no_file_is_decoded_every_time() {
        let bench = Bench::new();
        let cache = bench.cache(1 << 20);
        let raw = Raw::Values(&[1.0]);
        for _ in 0..2 {
            let seen = cache.with("one", &raw, || Ok(floats(&[3.0])), |view| Ok(view.f32()?[0]));
            assert!((seen.unwrap() - 3.0).abs() < 1e-9);
        }
        assert_eq!(cache.counts(), (0, 0));
        let absent = Raw::File(bench.folder.path().join("absent"));
        let error =
            cache.with("one", &absent, || Err(Error::data("absent", "is not there")), |_| Ok(()));
        assert!(error.unwrap_err().to_string().contains("is not there"));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_header_with_its_checksum_gives_an_array_of_its_shape_or_none(
            kind in 0u64..3,
            rank in prop_oneof![0u64..10, any::<u64>()],
            sides in prop::collection::vec(prop_oneof![0u64..4, any::<u64>()], MOST_DIMENSIONS),
            count in 0usize..70,
        ) {
            let values = vec![7; count];
            let mut bytes = MAGIC.to_vec();
            for word in [kind, rank].iter().chain(&sides) {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(checksum(&bytes, &values).to_le_bytes());
            bytes.resize(HEADER_BYTES, 0);
            bytes.extend(values);
            let bench = Bench::new();
            if let Some(stored) = Stored::open(&written(&bench, &bytes), &Checked::default()) {
                let view = stored.view().unwrap();
                let found = match view.values {
                    ValuesView::U8(values) => values.len(),
                    ValuesView::F32(values) => values.len(),
                };
                prop_assert_eq!(found, view.shape.iter().product::<usize>());
            }
        }

        #[test]
        fn no_bytes_make_opening_them_panic(
            named in any::<bool>(),
            content in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let start: &[u8] = if named { MAGIC } else { b"" };
            let bench = Bench::new();
            let file = written(&bench, &[start, content.as_slice()].concat());
            prop_assert!(Stored::open(&file, &Checked::default()).is_none());
        }
    }
}
