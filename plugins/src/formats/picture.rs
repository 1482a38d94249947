//! Pictures: PNG, JPEG and PNM.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::{GrayImage, ImageReader, Limits};
use mie_core::prelude::*;

/// Longest side, in pixels.
const LONGEST_SIDE: u32 = 1 << 14;

/// Reads a picture as 8-bit grey; colours become luma (ITU-R BT.709), transparency is ignored.
///
/// The format is told from the content, not from the name.
///
/// # Errors
/// Names the file that cannot be read, is no picture or is larger than 16384 pixels a side.
pub fn grey(file: &Path) -> Result<GrayImage> {
    let mut reader = File::open(file)
        .and_then(|open| ImageReader::new(BufReader::new(open)).with_guessed_format())
        .map_err(Error::io("read", file))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    reader.limits(limits);
    let picture = reader.decode().map_err(|problem| {
        Error::data(file, format!("is no picture that can be read (PNG, JPEG, PNM): {problem}"))
    })?;
    Ok(picture.into_luma8())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_become_luma_and_grey_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picture");
        std::fs::write(&file, b"P5 3 1 255\n\x00\x80\xff").unwrap();
        assert_eq!(grey(&file).unwrap().into_raw(), [0, 128, 255]);
        std::fs::write(&file, b"P6 3 1 255\n\xff\x00\x00\x00\xff\x00\x00\x00\xff").unwrap();
        // 0.2126, 0.7152 and 0.0722 of 255, rounded down.
        assert_eq!(grey(&file).unwrap().into_raw(), [54, 182, 18]);
    }

    #[test]
    fn what_is_no_picture_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cat.png");
        for content in [&b""[..], b"no picture", b"P5 100000 1 255\n", b"P5 9 9 255\nshort"] {
            std::fs::write(&file, content).unwrap();
            let error = grey(&file).unwrap_err().to_string();
            assert!(error.contains("cat.png: is no picture that can be read"), "{error}");
        }
        assert_eq!(grey(&folder.path().join("absent.png")).unwrap_err().exit_status(), 1);
    }
}
