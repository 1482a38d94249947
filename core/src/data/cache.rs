//! Decoded arrays on disk, so that only the first epoch decodes files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::name_of_its_own;
use crate::error::{Error, Result};
use crate::family::{Decoded, DecodedView, Raw, Values, ValuesView};
use crate::hash::hex;
use crate::system::MappedFile;

/// First bytes of a file of the cache; the number is that of its layout.
const MAGIC: &[u8; 16] = b"mie array 2\0\0\0\0\0";

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

/// How often a process says that it uses a recipe.
const NOTED_EVERY: Duration = Duration::from_mins(1);

/// Age of its last use up to which a recipe counts as in use by somebody.
const IN_USE: Duration = Duration::from_mins(5);

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
/// Files appear whole, by renaming, and carry a checksum of their name and content, which a process
/// looks at when it first reads them; one that is damaged counts as absent. When the limit is
/// reached, recipes that no run has used for longest make room; while none is left but those in use
/// by some process, nothing more is kept.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit_bytes: u64,
    /// Arrays found, and arrays looked for in vain.
    found: AtomicU64,
    missed: AtomicU64,
    keeping: Mutex<Keeping>,
    checked: Checked,
}

/// What the writing side knows.
#[derive(Debug, Default)]
struct Keeping {
    /// Bytes in the folder when last counted, and what was written since; absent before that.
    bytes: Option<u64>,
    /// Folders of recipes that this process has used, and when it last said so there.
    recipes: BTreeMap<String, Instant>,
    /// Why nothing more is written.
    stopped: Option<Stopped>,
}

#[derive(Debug)]
struct Stopped {
    reason: String,
    /// When a full cache is looked at again: what others use now may be idle by then.
    until: Option<Instant>,
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
        self.lock().stopped.as_ref().map(|stopped| stopped.reason.clone())
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
        self.note_use(&place);
        if let Some(stored) = Stored::open(&place.file, &place.name, &self.checked) {
            self.found.fetch_add(1, Ordering::Relaxed);
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
        let name = format!("{recipe}/{name}");
        Some(Place { recipe, folder, file, name })
    }

    /// Remembers that a recipe is in use, and says so to other processes now and then.
    fn note_use(&self, place: &Place) {
        let now = Instant::now();
        let mut keeping = self.lock();
        let noted = keeping.recipes.get(&place.recipe);
        if noted.is_none_or(|&noted| now.duration_since(noted) >= NOTED_EVERY) {
            keeping.recipes.insert(place.recipe.clone(), now);
            // Only a hint for making room: failing to leave it does no harm.
            let marker = File::options().append(true).open(place.folder.join(RECIPE_FILE));
            drop(marker.and_then(|file| file.set_modified(SystemTime::now())));
        }
    }

    /// Writes an array, unless the cache is full or cannot be written.
    fn keep(&self, place: &Place, recipe: &str, decoded: &Decoded) {
        let Some(header) = header(decoded, &place.name) else { return };
        // A file that is damaged or of an older layout is replaced.
        let replaced = fs::metadata(&place.file).map_or(0, |found| found.len());
        let bytes = (HEADER_BYTES + values_bytes(decoded).len()) as u64;
        let bytes = bytes.saturating_sub(replaced);
        {
            let mut keeping = self.lock();
            let is_over =
                |stopped: &mut Stopped| stopped.until.is_some_and(|it| it <= Instant::now());
            if keeping.stopped.take_if(is_over).is_some() {
                keeping.bytes = None;
            }
            if keeping.stopped.is_some() {
                return;
            }
            let held = keeping.bytes.unwrap_or_else(|| usage(&self.folder).0);
            let held = if held + bytes <= self.limit_bytes {
                held
            } else {
                make_room(&self.folder, &keeping.recipes, held, bytes, self.limit_bytes)
            };
            keeping.bytes = Some(held + bytes);
            if held + bytes > self.limit_bytes {
                keeping.bytes = Some(held);
                let reason = format!(
                    "the cache of decoded files is full ({:.1} of {:.1} GB): what does not fit is \
                     decoded every epoch; run.cache_gigabytes is its size, `mie data cache --clear` \
                     empties it",
                    held as f64 / 1e9,
                    self.limit_bytes as f64 / 1e9
                );
                let until = Some(Instant::now() + IN_USE);
                keeping.stopped = Some(Stopped { reason, until });
                return;
            }
        }
        let written = once_more(|| write(place, recipe, &header, values_bytes(decoded)));
        if let Err(error) = written {
            let folder = self.folder.display();
            let reason = format!(
                "decoded files cannot be kept in {folder}: {error}; every epoch decodes them \
                 again (MIE_CACHE_DIR names another folder, run.cache_gigabytes = 0 does without)"
            );
            self.lock().stopped = Some(Stopped { reason, until: None });
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
    /// What the checksum ties the content to: recipe and file.
    name: String,
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
    fn open(path: &Path, name: &str, checked: &Checked) -> Option<Self> {
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
                let found = checksum(name, &header[..CHECKED_BYTES], values);
                word(2 + MOST_DIMENSIONS) == Some(found)
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

/// Checksum of the values, of what stands before it in the header, and of the name of the file.
fn checksum(name: &str, header: &[u8], values: &[u8]) -> u64 {
    let content = crc32c::crc32c_append(crc32c::crc32c(values), header);
    u64::from(crc32c::crc32c_append(content, name.as_bytes()))
}

fn values_bytes(decoded: &Decoded) -> &[u8] {
    match &decoded.values {
        Values::U8(values) => values,
        Values::F32(values) => bytemuck::cast_slice(values),
    }
}

/// The bytes before the values; `None` for an array of more dimensions than are kept.
fn header(decoded: &Decoded, name: &str) -> Option<Vec<u8>> {
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
    header.extend(checksum(name, &header, values_bytes(decoded)).to_le_bytes());
    header.resize(HEADER_BYTES, 0);
    Some(header)
}

/// Does it again where something was not there: a neighbour that makes room may have removed the
/// folder in between.
fn once_more(mut write: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    match write() {
        Err(error) if error.kind() == ErrorKind::NotFound => write(),
        done => done,
    }
}

/// Writes under a name that nobody else writes to, then renames.
///
/// Nothing is synced: after a power cut the checksum finds what is missing.
fn write(place: &Place, recipe: &str, header: &[u8], values: &[u8]) -> std::io::Result<()> {
    let marker = place.folder.join(RECIPE_FILE);
    if !marker.exists() {
        fs::create_dir_all(&place.folder)?;
        fs::write(&marker, format!("{recipe}\n"))?;
    }
    let temporary = place.folder.join(format!(".{}{UNFINISHED}", name_of_its_own()));
    if let Some(parent) = place.file.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create_new(&temporary)?;
    let written = file
        .write_all(header)
        .and_then(|()| file.write_all(values))
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

/// Removes recipes that no process uses, the longest unused first, until `bytes` more fit; gives
/// the bytes that are left.
fn make_room(
    folder: &Path,
    in_use: &BTreeMap<String, Instant>,
    held: u64,
    bytes: u64,
    limit_bytes: u64,
) -> u64 {
    let mut held = held;
    let is_recent = |used: SystemTime| used.elapsed().unwrap_or_default() < IN_USE;
    let mut idle = entries(folder);
    idle.retain(|entry| {
        !in_use.contains_key(&entry.folder) && !entry.last_used.is_some_and(is_recent)
    });
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

        /// Makes a recipe's last use that long ago.
        fn last_used(&self, cache: &Cache, recipe: &str, age: Duration) {
            let folder = cache.place(recipe, &Raw::File(self.file())).unwrap().folder;
            let marker = File::options().append(true).open(folder.join(RECIPE_FILE)).unwrap();
            marker.set_modified(SystemTime::now() - age).unwrap();
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
                Stored::open(&written(&bench, &bytes), &place.name, &Checked::default()).is_some(),
                filling,
                "{damage}"
            );
        }
        for length in [0, 15, HEADER_BYTES, whole.len() - 1] {
            let cut = written(&bench, &whole[..length]);
            assert!(Stored::open(&cut, &place.name, &Checked::default()).is_none(), "{length}");
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
        let before = bench.cache(1 << 20);
        bench.get(&before, "old");
        bench.last_used(&before, "old", 2 * IN_USE);
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
    fn recipes_that_a_neighbour_used_minutes_ago_are_spared_until_they_are_idle() {
        let bench = Bench::new();
        let array = (HEADER_BYTES + 12 + "one\n".len()) as u64;
        let folder = bench.folder.path().join("cache");
        let neighbour = bench.cache(1 << 20);
        bench.get(&neighbour, "one");
        bench.last_used(&neighbour, "one", IN_USE / 2);
        let cache = bench.cache(array);
        bench.get(&cache, "two");
        assert!(cache.stopped().unwrap().contains("full"));
        assert_eq!(entries(&folder).remove(0).recipe, "one");
        // Not looked at again at once.
        bench.last_used(&neighbour, "one", 2 * IN_USE);
        bench.get(&cache, "two");
        assert_eq!(entries(&folder).remove(0).recipe, "one");
        cache.lock().stopped.as_mut().unwrap().until = Some(Instant::now());
        bench.get(&cache, "two");
        assert_eq!((entries(&folder).remove(0).recipe.as_str(), cache.stopped()), ("two", None));
    }

    #[test]
    fn a_process_says_every_minute_that_it_uses_a_recipe() {
        let bench = Bench::new();
        let folder = bench.folder.path().join("cache");
        let cache = bench.cache(1 << 20);
        bench.get(&cache, "one");
        bench.last_used(&cache, "one", A_DAY);
        let age = || entries(&folder)[0].last_used.unwrap().elapsed().unwrap();
        bench.get(&cache, "one");
        assert!(age() >= A_DAY, "not with every array");
        let Some(earlier) = Instant::now().checked_sub(NOTED_EVERY) else { return };
        cache.lock().recipes.values_mut().for_each(|noted| *noted = earlier);
        bench.get(&cache, "one");
        assert!(age() < IN_USE);
    }

    #[test]
    fn a_folder_that_vanishes_while_it_is_written_to_is_made_again_once() {
        let vanishes = |times: usize| {
            let mut tries = 0;
            let written = once_more(|| {
                tries += 1;
                if tries <= times { Err(ErrorKind::NotFound.into()) } else { Ok(()) }
            });
            (written.map_err(|error| error.kind()), tries)
        };
        assert_eq!(vanishes(0), (Ok(()), 1));
        assert_eq!(vanishes(1), (Ok(()), 2));
        assert_eq!(vanishes(9), (Err(ErrorKind::NotFound), 2));
        assert!(once_more(|| Err(ErrorKind::StorageFull.into())).is_err());
        // Writing starts with the folder.
        let bench = Bench::new();
        let cache = bench.cache(1 << 20);
        bench.get(&cache, "one");
        fs::remove_dir_all(bench.folder.path().join("cache")).unwrap();
        bench.get(&cache, "one");
        assert_eq!((cache.stopped(), entries(&bench.folder.path().join("cache")).len()), (None, 1));
    }

    #[test]
    fn a_file_that_a_process_of_the_same_number_is_writing_is_left_alone() {
        let bench = Bench::new();
        let cache = bench.cache(1 << 20);
        bench.get(&cache, "one");
        let place = cache.place("one", &Raw::File(bench.file())).unwrap();
        let others: Vec<_> = (0..4)
            .map(|number| place.folder.join(format!(".{}-{number}.tmp", std::process::id())))
            .collect();
        for other in &others {
            fs::write(other, "half an array").unwrap();
        }
        fs::remove_file(&place.file).unwrap();
        bench.get(&cache, "one");
        assert!(place.file.is_file());
        for other in &others {
            assert_eq!(fs::read_to_string(other).unwrap(), "half an array");
        }
        let left = fs::read_dir(&place.folder).unwrap().count();
        assert_eq!(left, 2 + others.len(), "recipe, arrays and the others'");
    }

    #[test]
    fn an_array_under_the_name_of_another_counts_as_absent() {
        let bench = Bench::new();
        let cache = bench.cache(1 << 20);
        bench.get(&cache, "one");
        let [one, two] =
            ["one", "two"].map(|recipe| cache.place(recipe, &Raw::File(bench.file())).unwrap());
        fs::create_dir_all(two.file.parent().unwrap()).unwrap();
        fs::copy(&one.file, &two.file).unwrap();
        assert!(Stored::open(&two.file, &one.name, &Checked::default()).is_some());
        assert!(Stored::open(&two.file, &two.name, &Checked::default()).is_none());
        bench.get(&cache, "two");
        assert_eq!(bench.decoded.get(), 2);
    }

    #[test]
    fn an_array_of_an_older_layout_is_replaced_and_counted_once() {
        let bench = Bench::new();
        let cache = bench.cache((HEADER_BYTES + 12 + "one\n".len()) as u64);
        bench.get(&cache, "one");
        let place = cache.place("one", &Raw::File(bench.file())).unwrap();
        let whole = fs::read(&place.file).unwrap();
        let mut older = whole.clone();
        older[..MAGIC.len()].copy_from_slice(b"mie array 1\0\0\0\0\0");
        fs::write(&place.file, older).unwrap();
        bench.get(&cache, "one");
        assert_eq!((fs::read(&place.file).unwrap(), cache.stopped()), (whole, None));
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
            bytes.extend(checksum("array", &bytes, &values).to_le_bytes());
            bytes.resize(HEADER_BYTES, 0);
            bytes.extend(values);
            let bench = Bench::new();
            let file = written(&bench, &bytes);
            if let Some(stored) = Stored::open(&file, "array", &Checked::default()) {
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
            prop_assert!(Stored::open(&file, "array", &Checked::default()).is_none());
        }
    }
}
