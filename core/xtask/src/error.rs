//! What can go wrong, worded for whoever has to put it right.

use crate::recipe::TORCH_VERSION;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("could not {action} `{}`: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "the disk is full at `{}`: free some room, or name a folder elsewhere in MIE_CACHE_DIR, \
         and run this again",
        .path.display()
    )]
    DiskFull { path: PathBuf },

    #[error(
        "`{}` has {} free and set-up needs {} while it unpacks: free some room, or name a folder \
         elsewhere in MIE_CACHE_DIR",
        .path.display(), .free, .needed
    )]
    LittleRoom { path: PathBuf, free: String, needed: String },

    #[error(
        "nothing has changed since the tests were built, yet cargo says `{0}`: find the reason with \
         CARGO_LOG=cargo::core::compiler::fingerprint=info cargo test --workspace --no-run"
    )]
    BuiltTwice(String),

    #[error("found no folder to keep libtorch in: HOME is not set; name one in MIE_CACHE_DIR")]
    NoCacheFolder,

    #[error(
        "libtorch is fetched for Linux on x86_64 only and this is {os} on {arch}: install \
         libtorch {wanted} yourself and name its folder in LIBTORCH",
        wanted = TORCH_VERSION
    )]
    Platform { os: &'static str, arch: &'static str },

    #[error("{tool} was not found or does not run: {help}")]
    Missing { tool: String, help: &'static str },

    #[error(
        "{place}: found libtorch {found}, expected {wanted} exactly: install torch=={wanted} \
         there, or unset {variable} to have it fetched",
        wanted = TORCH_VERSION
    )]
    OwnVersion { place: String, variable: &'static str, found: String },

    #[error(
        "{place}: expected libtorch {wanted}, but {reason}: repair it, or unset {variable} to \
         have it fetched",
        wanted = TORCH_VERSION
    )]
    OwnUnusable { place: String, variable: &'static str, reason: String },

    #[error(
        "could not fetch `{requirement}`: {reason}\n\
         Check the network, its proxy and pip's index (`python3 -m pip config list`). Without a \
         network, put these files by hand into `{}` and run `cargo xtask setup` again; they are \
         published on pip's index under these names:\n  {}",
        .downloads.display(), .missing.join("\n  ")
    )]
    Download { requirement: String, reason: String, downloads: PathBuf, missing: Vec<&'static str> },

    #[error(
        "`{}` is not the file it should be and was deleted: found sha256 {found}, expected \
         {expected}; run this again to fetch it anew",
        .path.display()
    )]
    Checksum { path: PathBuf, expected: &'static str, found: String },

    #[error("`{}` cannot be unpacked: {reason}", .path.display())]
    Wheel { path: PathBuf, reason: String },

    #[error(
        "`{}` is in the way: a link to libtorch belongs there; move it away and run this again",
        .path.display()
    )]
    NotALink { path: PathBuf },

    #[error("could not start `{line}`: {source}")]
    Start { line: String, source: io::Error },

    #[error("`{line}` failed ({status})")]
    Failed { line: String, status: ExitStatus },

    #[error("could not read what `cargo metadata` printed: {source}")]
    Metadata { source: serde_json::Error },
}

/// Words a failed file operation, telling a full disk from the rest.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path },
        _ => Error::Io { action, path, source },
    }
}

/// Writes a number of bytes as people read it, in powers of 1000.
pub(crate) fn in_units(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.1} GB", bytes as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let other = io::Error::from(io::ErrorKind::PermissionDenied);
        let path = Path::new("lib");
        assert!(matches!(io_error("write", path)(full), Error::DiskFull { .. }));
        assert!(matches!(io_error("write", path)(other), Error::Io { action: "write", .. }));
    }

    #[test]
    fn sizes_read_as_megabytes_then_gigabytes() {
        assert_eq!(in_units(530_604_548), "530.6 MB");
        assert_eq!(in_units(1_200_000_000), "1.2 GB");
    }
}
