//! Brings freely published files: resumed when cut, checked, unpacked into their folder only.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use ureq::{Agent, Proxy};
use zip::ZipArchive;

use crate::error::{Error, Result};
use crate::family::{Fetch, FetchFile, Unpack};

/// Further tries after a failure that may pass.
const RETRIES: u32 = 3;

/// Pause before the first of them; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for a connection, an answer, or more of it.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Most bytes that an archive may unpack to, whatever its own size.
const MOST_UNPACKED_BYTES: u64 = 100_000_000_000;

/// Bytes that a small archive may unpack to.
const FEW_UNPACKED_BYTES: u64 = 100_000_000;

/// How many times its own size a larger archive may unpack to; of recordings it is a few times.
const MOST_TIMES: u64 = 50;

/// Sees the file's path within the dataset, the bytes had so far, and all of them where known.
pub type Progress<'a> = dyn FnMut(&str, u64, Option<u64>) + 'a;

/// What a fetch did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FetchReport {
    /// All files of the dataset, in the order in which they were seen to.
    pub files: Vec<FetchedFile>,
}

/// What was done about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FetchedFile {
    /// Where it lies; an archive is removed once unpacked.
    pub path: PathBuf,
    /// Bytes that were sent for it; 0 when it was there already.
    pub downloaded_bytes: u64,
    /// Files unpacked from it.
    pub unpacked: usize,
    /// Whether there is a published checksum that it was compared with.
    pub compared: bool,
}

/// Brings what is not there yet.
///
/// A file is written to `<path>.part` and gets its name once it is complete and its checksum is
/// right; a part left by an earlier attempt is continued. An archive is unpacked, its marker
/// `<path>.fetched` written last, and then removed.
///
/// # Errors
/// Names the file, its address and what to do, when it cannot be fetched, is not the one
/// expected, or cannot be written.
pub fn run(fetch: &Fetch, progress: &mut Progress<'_>) -> Result<FetchReport> {
    Client { agent: agent(Proxy::try_from_env()), pause: PAUSE }.run(fetch, progress)
}

fn agent(proxy: Option<Proxy>) -> Agent {
    Agent::config_builder()
        .proxy(proxy)
        .user_agent(concat!("mie/", env!("CARGO_PKG_VERSION")))
        // Decoding on the way would change the bytes that checksums and ranges are about.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .timeout_connect(Some(TIMEOUT))
        .timeout_recv_response(Some(TIMEOUT))
        .timeout_per_read(Some(TIMEOUT))
        .build()
        .new_agent()
}

struct Client {
    agent: Agent,
    pause: Duration,
}

/// Why an attempt failed.
enum Failure {
    /// Something that may be over at the next try.
    Passing(String),
    /// Something that will not.
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

impl Client {
    fn run(&self, fetch: &Fetch, progress: &mut Progress<'_>) -> Result<FetchReport> {
        let bring = |file| self.bring(&fetch.root, file, progress);
        Ok(FetchReport { files: fetch.files.iter().map(bring).collect::<Result<_>>()? })
    }

    fn bring(
        &self,
        root: &Path,
        file: &FetchFile,
        progress: &mut Progress<'_>,
    ) -> Result<FetchedFile> {
        let path = root.join(&file.path);
        let compared = file.sha256.is_some();
        let mut fetched = FetchedFile { path, downloaded_bytes: 0, unpacked: 0, compared };
        let marker = with_suffix(&fetched.path, ".fetched");
        // The address in the marker: a later release may fetch another archive to the same place.
        let marked = fs::read_to_string(&marker).is_ok_and(|address| address == file.address);
        if let Some(unpack) = &file.unpack
            && marked
            && root.join(&unpack.into).is_dir()
        {
            return Ok(fetched);
        }
        if !is_there(&fetched.path, file)? {
            fetched.downloaded_bytes = self.download(&fetched.path, file, progress)?;
        }
        if let Some(unpack) = &file.unpack {
            fetched.unpacked = unpack_zip(&fetched.path, unpack, root)?;
            fs::write(&marker, &file.address).map_err(Error::io("write", &marker))?;
            fs::remove_file(&fetched.path).map_err(Error::io("remove", &fetched.path))?;
        }
        Ok(fetched)
    }

    /// Downloads to `target` and counts the bytes sent.
    fn download(
        &self,
        target: &Path,
        file: &FetchFile,
        progress: &mut Progress<'_>,
    ) -> Result<u64> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let part = with_suffix(target, ".part");
        let mut received = 0;
        let mut tries = 0;
        while let Err(failure) = self.attempt(target, &part, file, &mut received, progress) {
            match failure {
                Failure::Passing(_) if tries < RETRIES => {
                    std::thread::sleep(self.pause * 2u32.pow(tries));
                    tries += 1;
                }
                Failure::Passing(reason) => return Err(by_hand(target, file, &reason)),
                Failure::Lasting(error) => return Err(error),
            }
        }
        if let Some(expected) = &file.sha256 {
            let found = sha256(&part)?;
            if !found.eq_ignore_ascii_case(expected) {
                fs::remove_file(&part).map_err(Error::io("remove", &part))?;
                let reason = format!("its SHA-256 is {found}, expected {expected}");
                return Err(by_hand(target, file, &reason));
            }
        }
        fs::rename(&part, target).map_err(Error::io("rename", &part))?;
        Ok(received)
    }

    /// Asks for what `part` lacks and adds it.
    fn attempt(
        &self,
        target: &Path,
        part: &Path,
        file: &FetchFile,
        received: &mut u64,
        progress: &mut Progress<'_>,
    ) -> Result<(), Failure> {
        let had = fs::metadata(part).map_or(0, |found| found.len());
        let mut request = self.agent.get(file.address.as_str());
        if had > 0 {
            request = request.header("Range", format!("bytes={had}-"));
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::Protocol(_)
            | ureq::Error::ConnectionFailed => Failure::Passing(error.to_string()),
            lasting => by_hand(target, file, &lasting.to_string()).into(),
        })?;
        let status = response.status().as_u16();
        let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
        let (start, total) = match (status, range.and_then(parse_range)) {
            (200, _) => (0, response.body().content_length()),
            (206, Some((start, total))) if start == had => (start, total),
            (206 | 416, _) if had > 0 => {
                fs::remove_file(part).map_err(Error::io("remove", part))?;
                return Err(Failure::Passing("the server does not continue downloads".to_owned()));
            }
            (408 | 429 | 500..=599, _) => {
                return Err(Failure::Passing(format!("the server answers {status}")));
            }
            _ => {
                return Err(by_hand(target, file, &format!("the server answers {status}")).into());
            }
        };
        let mut out = OpenOptions::new()
            .create(true)
            .write(true)
            .append(start > 0)
            .truncate(start == 0)
            .open(part)
            .map_err(Error::io("open", part))?;
        let mut done = start;
        progress(&file.path, done, total);
        transfer(
            &mut response.into_body().into_reader(),
            &mut out,
            part,
            |error| Failure::Passing(format!("the connection broke: {error}")),
            |count| {
                done += count;
                *received += count;
                progress(&file.path, done, total);
            },
        )?;
        if let Some(total) = total.filter(|&total| total != done) {
            return Err(Failure::Passing(format!("{done} of {total} bytes came")));
        }
        out.sync_all().map_err(Error::io("write", part))?;
        Ok(())
    }
}

/// Whether the file lies there, unchanged where its checksum is known.
fn is_there(path: &Path, file: &FetchFile) -> Result<bool> {
    match &file.sha256 {
        Some(expected) if path.is_file() => Ok(sha256(path)?.eq_ignore_ascii_case(expected)),
        _ => Ok(path.is_file()),
    }
}

fn by_hand(target: &Path, file: &FetchFile, reason: &str) -> Error {
    let problem = format!(
        "cannot be fetched from {}: {reason}; try again later, or download it by hand to this path",
        file.address
    );
    Error::data(target, problem)
}

/// Reads `bytes 400-999/1000`: the first byte, and the size of the whole unless that is `*`.
fn parse_range(header: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

/// Copies, telling a broken source from a disk that cannot be written.
fn transfer<E: From<Error>>(
    from: &mut impl Read,
    to: &mut File,
    path: &Path,
    broken: impl FnOnce(io::Error) -> E,
    mut moved: impl FnMut(u64),
) -> Result<(), E> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count]).map_err(Error::io("write", path))?;
                moved(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

/// Bytes that an archive of `bytes` may unpack to.
fn allowed_bytes(bytes: u64) -> u64 {
    bytes.saturating_mul(MOST_TIMES).clamp(FEW_UNPACKED_BYTES, MOST_UNPACKED_BYTES)
}

/// Unpacks the entries wanted, under their file names alone, and counts them.
fn unpack_zip(archive: &Path, unpack: &Unpack, root: &Path) -> Result<usize> {
    let bytes = fs::metadata(archive).map_err(Error::io("open", archive))?.len();
    unpack_within(allowed_bytes(bytes), archive, unpack, root)
}

/// As [`unpack_zip`], for at most `allowed` bytes in all.
fn unpack_within(allowed: u64, archive: &Path, unpack: &Unpack, root: &Path) -> Result<usize> {
    let broken = |problem: &str| {
        // What cannot be unpacked now cannot be later; without it the next fetch starts afresh.
        drop(fs::remove_file(archive));
        Error::data(archive, format!("cannot be unpacked: {problem}; removed, fetch it again"))
    };
    let folder = root.join(&unpack.into);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut entries =
        ZipArchive::new(BufReader::new(file)).map_err(|error| broken(&error.to_string()))?;
    let mut names = BTreeSet::new();
    let mut unpacked = 0;
    for index in 0..entries.len() {
        let mut entry = entries.by_index(index).map_err(|error| broken(&error.to_string()))?;
        let Some(path) = entry.enclosed_name() else {
            return Err(broken(&format!("the name of entry {index} leads out of the archive")));
        };
        let Some(name) = path.file_name().filter(|_| !entry.is_dir()) else { continue };
        if !path.to_string_lossy().contains(&unpack.containing) {
            continue;
        }
        if !names.insert(name.to_owned()) {
            return Err(broken(&format!("two entries are named {}", name.display())));
        }
        let to = folder.join(name);
        let too_large = |found: u64| {
            // The file at hand may be as large as all that is allowed.
            drop(fs::remove_file(&to));
            let files = format!("its files have {found} bytes or more up to {}", name.display());
            broken(&format!("{files}, at most {allowed} are allowed for an archive of its size"))
        };
        let declared = entry.size().saturating_add(unpacked);
        if declared > allowed {
            return Err(too_large(declared));
        }
        let mut out = File::create(&to).map_err(Error::io("create", &to))?;
        // What an archive says of itself need not be so: one byte too many is enough to tell.
        let mut content = entry.by_ref().take(allowed - unpacked + 1);
        let moved = |count: u64| unpacked += count;
        transfer(&mut content, &mut out, &to, |error| broken(&error.to_string()), moved)?;
        if unpacked > allowed {
            return Err(too_large(unpacked));
        }
    }
    if names.is_empty() {
        return Err(broken(&format!("no entry contains `{}`", unpack.containing)));
    }
    Ok(names.len())
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut text = String::new();
    for byte in digest {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    Ok(text)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
    use tempfile::TempDir;
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    /// Answers a request, given in lower case, with the bytes of a response.
    type Reply = Box<dyn Fn(&str) -> Vec<u8> + Send>;

    /// Answers as many connections as there are replies; the thread returns the requests.
    fn serve(replies: Vec<Reply>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        let answer = move |reply: Reply| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            stream.write_all(&reply(&request)).unwrap();
            request
        };
        (address, std::thread::spawn(move || replies.into_iter().map(answer).collect()))
    }

    fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    fn status(status: &'static str) -> Reply {
        Box::new(move |_| response(status, "", b""))
    }

    fn whole(content: &[u8]) -> Reply {
        let content = content.to_vec();
        Box::new(move |_| response("200 OK", "", &content))
    }

    /// Closes the connection after `count` bytes of the body.
    fn cut(content: &[u8], count: usize) -> Reply {
        let content = content.to_vec();
        Box::new(move |_| {
            let mut sent = response("200 OK", "", &content);
            sent.truncate(sent.len() - content.len() + count);
            sent
        })
    }

    /// Answers the range asked for.
    fn rest(content: &[u8]) -> Reply {
        let content = content.to_vec();
        Box::new(move |request| {
            let (_, range) = request.split_once("range: bytes=").unwrap();
            let start: usize = range.split_once('-').unwrap().0.parse().unwrap();
            let (last, size) = (content.len() - 1, content.len());
            let header = format!("Content-Range: bytes {start}-{last}/{size}\r\n");
            response("206 Partial Content", &header, &content[start..])
        })
    }

    fn content() -> Vec<u8> {
        (0..200_000u32).map(|n| (n * 31 % 251) as u8).collect()
    }

    fn file(address: &str, sha256: Option<&str>) -> FetchFile {
        FetchFile {
            address: address.to_owned(),
            path: "sub/data.bin".to_owned(),
            sha256: sha256.map(str::to_owned),
            unpack: None,
        }
    }

    fn archive(address: &str) -> FetchFile {
        let unpack =
            Unpack { containing: "/recordings/".to_owned(), into: "fsdd/recordings".to_owned() };
        FetchFile { path: "set.zip".to_owned(), unpack: Some(unpack), ..file(address, None) }
    }

    fn fetch(root: &TempDir, file: FetchFile) -> Result<FetchedFile> {
        let fetch =
            Fetch { root: root.path().to_owned(), files: vec![file], notice: String::new() };
        let client = Client { agent: agent(None), pause: Duration::ZERO };
        client.run(&fetch, &mut |_, _, _| {}).map(|report| report.files[0].clone())
    }

    fn sha256_of(content: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        sha256(file.path()).unwrap()
    }

    fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(
            sha256_of(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_file_is_brought_once_and_its_progress_shown() {
        let (address, server) = serve(vec![whole(&content())]);
        let root = tempfile::tempdir().unwrap();
        let sum = sha256_of(&content());
        let plan = Fetch {
            root: root.path().to_owned(),
            files: vec![file(&address, Some(&sum))],
            notice: String::new(),
        };
        let client = Client { agent: agent(None), pause: Duration::ZERO };
        let mut steps = Vec::new();
        let report = client
            .run(&plan, &mut |name, done, total| steps.push((name.to_owned(), done, total)))
            .unwrap();
        let path = root.path().join("sub/data.bin");
        assert_eq!(fs::read(&path).unwrap(), content());
        assert!(!with_suffix(&path, ".part").exists());
        assert_eq!(report.files[0].downloaded_bytes, 200_000);
        assert!(steps.iter().all(|step| step.0 == "sub/data.bin" && step.2 == Some(200_000)));
        assert!(steps.is_sorted_by_key(|step| step.1));
        assert_eq!((steps[0].1, steps[steps.len() - 1].1), (0, 200_000));
        let requests = server.join().unwrap();
        assert!(!requests[0].contains("range:"));
        assert!(requests[0].contains("accept-encoding: identity"));
        // The server is gone: what is there is not asked for again.
        let again = client.run(&plan, &mut |_, _, _| {}).unwrap();
        assert_eq!(
            again.files[0],
            FetchedFile { path, downloaded_bytes: 0, unpacked: 0, compared: true }
        );
    }

    #[test]
    fn a_cut_download_goes_on_where_it_stopped() {
        let (address, server) = serve(vec![cut(&content(), 70_000), rest(&content())]);
        let root = tempfile::tempdir().unwrap();
        let fetched = fetch(&root, file(&address, Some(&sha256_of(&content())))).unwrap();
        assert_eq!(fs::read(&fetched.path).unwrap(), content());
        assert_eq!(fetched.downloaded_bytes, 200_000);
        assert!(server.join().unwrap()[1].contains("range: bytes=70000-"));
    }

    #[test]
    fn a_part_of_an_earlier_run_is_continued() {
        let (address, server) = serve(vec![rest(&content())]);
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(root.path().join("sub/data.bin.part"), &content()[..150_000]).unwrap();
        let fetched = fetch(&root, file(&address, None)).unwrap();
        assert_eq!(fs::read(&fetched.path).unwrap(), content());
        assert_eq!(fetched.downloaded_bytes, 50_000);
        assert!(server.join().unwrap()[0].contains("range: bytes=150000-"));
    }

    #[test]
    fn a_server_without_ranges_makes_the_download_start_afresh() {
        let elsewhere: Reply = Box::new(|_| {
            response("206 Partial Content", "Content-Range: bytes 0-4/200000\r\n", b"other")
        });
        let fresh = || whole(&content());
        for replies in [
            vec![fresh()],
            vec![status("416 Range Not Satisfiable"), fresh()],
            vec![elsewhere, fresh()],
        ] {
            let (address, server) = serve(replies);
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("sub")).unwrap();
            fs::write(root.path().join("sub/data.bin.part"), b"something else").unwrap();
            let fetched = fetch(&root, file(&address, None)).unwrap();
            assert_eq!(fs::read(&fetched.path).unwrap(), content());
            assert!(server.join().unwrap()[0].contains("range: bytes=14-"));
        }
    }

    #[test]
    fn a_wrong_checksum_is_an_error_and_nothing_is_kept() {
        let (address, server) = serve(vec![whole(b"something else")]);
        let root = tempfile::tempdir().unwrap();
        let expected = sha256_of(&content());
        let error = fetch(&root, file(&address, Some(&expected))).unwrap_err().to_string();
        let found = sha256_of(b"something else");
        assert!(error.contains(&format!("its SHA-256 is {found}, expected {expected}")), "{error}");
        assert_eq!(fs::read_dir(root.path().join("sub")).unwrap().count(), 0);
        server.join().unwrap();
    }

    #[test]
    fn a_file_changed_since_is_brought_again() {
        let (address, server) = serve(vec![whole(&content())]);
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(root.path().join("sub/data.bin"), b"damaged").unwrap();
        let fetched = fetch(&root, file(&address, Some(&sha256_of(&content())))).unwrap();
        assert_eq!(fs::read(&fetched.path).unwrap(), content());
        server.join().unwrap();
    }

    #[test]
    fn a_file_that_does_not_exist_is_named_with_what_to_do_and_not_asked_for_again() {
        let (address, server) = serve(vec![status("404 Not Found")]);
        let root = tempfile::tempdir().unwrap();
        let error = fetch(&root, file(&address, None)).unwrap_err().to_string();
        assert!(error.contains("sub/data.bin: cannot be fetched from"), "{error}");
        assert!(error.contains(&address) && error.contains("answers 404"), "{error}");
        assert!(error.contains("download it by hand to this path"), "{error}");
        assert_eq!(server.join().unwrap().len(), 1);
    }

    #[test]
    fn passing_failures_are_tried_again_three_times() {
        let busy = || status("503 Service Unavailable");
        let (address, server) = serve(vec![busy(), busy(), busy(), whole(b"at last")]);
        let root = tempfile::tempdir().unwrap();
        let fetched = fetch(&root, file(&address, None)).unwrap();
        assert_eq!(fs::read(&fetched.path).unwrap(), b"at last");
        server.join().unwrap();
        let (address, server) = serve(vec![busy(), busy(), busy(), busy()]);
        let root = tempfile::tempdir().unwrap();
        let error = fetch(&root, file(&address, None)).unwrap_err().to_string();
        assert!(error.contains("answers 503"), "{error}");
        server.join().unwrap();
        // Its port is closed now.
        let error = fetch(&root, file(&address, None)).unwrap_err().to_string();
        assert!(error.contains("cannot be fetched from"), "{error}");
    }

    #[test]
    fn an_archive_is_unpacked_by_file_names_and_removed() {
        let long = vec![1_u8; 100_000];
        let bytes = zipped(&[
            ("set-1.0/README.md", b"about"),
            ("set-1.0/recordings/0_a_0.wav", b"zero"),
            ("set-1.0/recordings/deeper/1_a_0.wav", &long),
        ]);
        let (address, server) = serve(vec![whole(&bytes)]);
        let root = tempfile::tempdir().unwrap();
        let fetched = fetch(&root, archive(&address)).unwrap();
        server.join().unwrap();
        assert_eq!((fetched.downloaded_bytes, fetched.unpacked), (bytes.len() as u64, 2));
        assert!(!fetched.compared, "no checksum was given");
        let folder = root.path().join("fsdd/recordings");
        assert_eq!(fs::read(folder.join("0_a_0.wav")).unwrap(), b"zero");
        assert_eq!(fs::read(folder.join("1_a_0.wav")).unwrap(), long);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert!(!fetched.path.exists());
        // The marker stands for the archive, until the address is another.
        assert_eq!(fetch(&root, archive(&address)).unwrap().downloaded_bytes, 0);
        let (address, server) = serve(vec![whole(&bytes)]);
        assert_eq!(fetch(&root, archive(&address)).unwrap().unpacked, 2);
        server.join().unwrap();
        // It does not stand for a folder that was deleted.
        fs::remove_dir_all(&folder).unwrap();
        let (address, server) = serve(vec![whole(&bytes)]);
        assert_eq!(fetch(&root, archive(&address)).unwrap().unpacked, 2);
        server.join().unwrap();
    }

    #[test]
    fn an_archive_put_there_by_hand_or_left_half_unpacked_is_unpacked() {
        let root = tempfile::tempdir().unwrap();
        let bytes = zipped(&[("x/recordings/0_a_0.wav", b"zero")]);
        fs::write(root.path().join("set.zip"), bytes).unwrap();
        fs::create_dir_all(root.path().join("fsdd/recordings")).unwrap();
        fs::write(root.path().join("fsdd/recordings/0_a_0.wav"), b"ze").unwrap();
        let fetched = fetch(&root, archive("http://127.0.0.1:9/never")).unwrap();
        assert_eq!((fetched.downloaded_bytes, fetched.unpacked), (0, 1));
        let unpacked = root.path().join("fsdd/recordings/0_a_0.wav");
        assert_eq!(fs::read(unpacked).unwrap(), b"zero");
    }

    #[test]
    fn an_archive_that_leads_out_of_its_folder_is_refused() {
        for name in ["x/recordings/../../../evil.wav", "/recordings/../../evil.wav"] {
            let base = tempfile::tempdir().unwrap();
            let root = TempDir::new_in(base.path()).unwrap();
            let bytes = zipped(&[("x/recordings/0_a_0.wav", b"zero"), (name, b"evil")]);
            fs::write(root.path().join("set.zip"), bytes).unwrap();
            let error = fetch(&root, archive("http://127.0.0.1:9/never")).unwrap_err().to_string();
            assert!(error.contains("entry 1 leads out of the archive"), "{error}");
            assert!(!base.path().join("evil.wav").exists());
            assert!(!root.path().join("evil.wav").exists());
            assert!(!root.path().join("set.zip.fetched").exists());
        }
    }

    #[test]
    fn broken_archives_are_removed_so_that_the_next_fetch_starts_afresh() {
        let good = zipped(&[("x/recordings/0_a_0.wav", b"zero")]);
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let plain = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        writer.start_file("x/recordings/0_a_0.wav", plain).unwrap();
        writer.write_all(b"unmistakable").unwrap();
        let mut damaged = writer.finish().unwrap().into_inner();
        let position = damaged.windows(12).position(|bytes| bytes == b"unmistakable").unwrap();
        damaged[position] = b'U';
        let without = zipped(&[("x/other/0_a_0.wav", b"zero")]);
        let twice = zipped(&[("x/recordings/a/0.wav", b"0"), ("x/recordings/b/0.wav", b"1")]);
        for (bytes, problem) in [
            (good[..good.len() / 2].to_vec(), "cannot be unpacked"),
            (damaged, "cannot be unpacked"),
            (without, "no entry contains `/recordings/`"),
            (twice, "two entries are named 0.wav"),
        ] {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("set.zip"), bytes).unwrap();
            let error = fetch(&root, archive("http://127.0.0.1:9/never")).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert!(!root.path().join("set.zip").exists());
            assert!(!root.path().join("set.zip.fetched").exists());
        }
    }

    #[test]
    fn an_archive_that_unpacks_to_more_than_is_allowed_is_refused_with_both_sizes() {
        let bytes = zipped(&[
            ("x/recordings/0_a_0.wav", &[0; 3_000]),
            ("x/recordings/1_a_0.wav", &[0; 7_000]),
        ]);
        let unpack =
            Unpack { containing: "/recordings/".to_owned(), into: "recordings".to_owned() };
        // The same, but the second entry claims to have a single byte.
        let mut lying = bytes.clone();
        let sizes: Vec<usize> = (0..lying.len() - 4)
            .filter(|&at| lying[at..at + 4] == 7_000u32.to_le_bytes())
            .collect();
        for at in sizes {
            lying[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
        }
        for (content, allowed, refused) in [
            (&bytes, 10_000, false),
            (&bytes, 9_999, true),
            (&bytes, 2_999, true),
            (&lying, 9_999, true),
        ] {
            let root = tempfile::tempdir().unwrap();
            let archive = root.path().join("set.zip");
            fs::write(&archive, content).unwrap();
            let result = unpack_within(allowed, &archive, &unpack, root.path());
            assert_eq!(result.is_err(), refused, "{allowed}");
            let Err(error) = result else { continue };
            let error = error.to_string();
            assert!(error.contains("set.zip: cannot be unpacked: "), "{error}");
            if *content == bytes {
                let found = if allowed == 2_999 { 3_000 } else { 10_000 };
                let sizes = format!("its files have {found} bytes or more up to ");
                assert!(error.contains(&sizes), "{error}");
                assert!(error.contains(&format!("at most {allowed} are allowed")), "{error}");
            }
            let unpacked = fs::read_dir(root.path().join("recordings")).unwrap();
            let kept: u64 = unpacked.map(|it| it.unwrap().metadata().unwrap().len()).sum();
            assert!(kept <= allowed, "{kept} of {allowed}");
        }
        assert_eq!(
            [0, 10_000_000, u64::MAX].map(allowed_bytes),
            [100_000_000, 500_000_000, 100_000_000_000]
        );
    }

    #[test]
    fn ranges_are_read_with_and_without_a_size() {
        assert_eq!(parse_range("bytes 400-999/1000"), Some((400, Some(1_000))));
        assert_eq!(parse_range("bytes 0-9/*"), Some((0, None)));
        for odd in ["", "bytes */1000", "lines 1-2/3", "bytes x-9/10"] {
            assert_eq!(parse_range(odd), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_change_of_an_archive_writes_outside_of_its_folder(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            dots in prop::option::of(any::<prop::sample::Index>()),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes =
                zipped(&[("x/recordings/0_a_0.wav", b"zero"), ("x/recordings/1_a_0.wav", b"one")]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(at) = dots {
                let at = at.index(bytes.len() - 3);
                bytes[at..at + 3].copy_from_slice(b"../");
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let outside = tempfile::tempdir().unwrap();
            let root = outside.path().join("root");
            fs::create_dir(&root).unwrap();
            fs::write(root.join("set.zip"), bytes).unwrap();
            let unpack =
                Unpack { containing: "/recordings/".to_owned(), into: "recordings".to_owned() };
            let unpacked = unpack_zip(&root.join("set.zip"), &unpack, &root);
            let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
            prop_assert_eq!(names(outside.path()), 1);
            prop_assert!(names(&root) <= 2);
            if let Ok(count) = unpacked {
                prop_assert_eq!(names(&root.join("recordings")), count);
            }
        }
    }
}
