//! The one place with unsafe code: what the system offers in no safe form.
#![allow(unsafe_code, reason = "loading libraries and mapping files have no safe form")]

use std::fs::File;
use std::io;
use std::ops::Deref;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Loads a library of libtorch for the life of the process, its symbols visible to all.
///
/// # Errors
/// The loader's reason.
pub(crate) fn load_for_good(name: &str) -> Result<(), String> {
    // SAFETY: the library's constructors register kernels with libtorch, which is already loaded;
    // they are written to run at load time, on any thread, once. The handle is leaked, so the code
    // stays mapped for the life of the process.
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) };
    match library {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => {
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            Err(reason.unwrap_or_else(|| error.to_string()))
        }
    }
}

/// A file in memory, read page by page when it is looked at.
#[derive(Debug)]
pub(crate) struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a file that nobody changes in place.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn open(file: &File) -> io::Result<Self> {
        // SAFETY: only files of the cache are mapped. They are written under another name, renamed
        // when whole and never opened for writing again; removing one leaves its pages in place.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        Ok(Self(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
