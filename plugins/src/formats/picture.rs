//! Pictures: PNG, JPEG and PNM.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, ImageReader, Limits, RgbImage};
use mie_core::prelude::*;

use super::read_whole;

/// Longest side, in pixels.
const LONGEST_SIDE: u32 = 1 << 14;

/// Reads a picture as 8-bit grey; colours become luma (ITU-R BT.709), transparency is ignored.
///
/// The format is told from the content, not from the name.
///
/// # Errors
/// Names the file that cannot be read, is no picture or is larger than 16384 pixels a side.
pub fn grey(file: &Path) -> Result<GrayImage> {
    Ok(read(file)?.into_luma8())
}

/// Reads a picture as 8-bit red, green and blue.
///
/// Grey is repeated; transparency is dropped without a background, as Pillow's `convert("RGB")`
/// does. The orientation a camera noted is not applied, as it is not by Pillow.
///
/// # Errors
/// As [`grey`].
pub fn rgb(file: &Path) -> Result<RgbImage> {
    Ok(read(file)?.into_rgb8())
}

fn read(file: &Path) -> Result<DynamicImage> {
    let content = read_whole(file)?;
    let mut reader = ImageReader::new(Cursor::new(&content))
        .with_guessed_format()
        .map_err(Error::io("read", file))?;
    // The decoder makes up what is missing of a JPEG.
    if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(&content) {
        return Err(Error::data(
            file,
            "is no picture that can be read: this JPEG ends before its picture does",
        ));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    reader.limits(limits);
    reader.decode().map_err(|problem| {
        Error::data(file, format!("is no picture that can be read (PNG, JPEG, PNM): {problem}"))
    })
}

/// Whether a JPEG has the mark of its end behind the start of its picture.
fn is_whole_jpeg(content: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END: [u8; 2] = [0xff, 0xd9];
    let mut place = 2;
    // Segments before the picture may hold a small one with an end of its own.
    while let Some(&[0xff, kind, high, low]) = content.get(place..place + 4) {
        if kind == START_OF_SCAN {
            // Most files end with it.
            return content.ends_with(&END) || content[place..].windows(2).any(|two| two == END);
        }
        // A mark may be preceded by any number of 0xff.
        place += if kind == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::real_data;
    use crate::pictures::fixture::{bytes, reference};

    #[test]
    fn colours_become_luma_and_grey_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picture");
        std::fs::write(&file, b"P5 3 1 255\n\x00\x80\xff").unwrap();
        assert_eq!(grey(&file).unwrap().into_raw(), [0, 128, 255]);
        assert_eq!(rgb(&file).unwrap().into_raw(), [0, 0, 0, 128, 128, 128, 255, 255, 255]);
        std::fs::write(&file, b"P6 3 1 255\n\xff\x00\x00\x00\xff\x00\x00\x00\xff").unwrap();
        // 0.2126, 0.7152 and 0.0722 of 255, rounded down.
        assert_eq!(grey(&file).unwrap().into_raw(), [54, 182, 18]);
        let colours = rgb(&file).unwrap();
        assert_eq!(colours.dimensions(), (3, 1));
        assert_eq!(colours.into_raw(), [255, 0, 0, 0, 255, 0, 0, 0, 255]);
    }

    #[test]
    fn transparency_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picture.png");
        let clear = image::RgbaImage::from_raw(2, 1, vec![10, 20, 30, 0, 40, 50, 60, 255]).unwrap();
        clear.save(&file).unwrap();
        assert_eq!(rgb(&file).unwrap().into_raw(), [10, 20, 30, 40, 50, 60]);
    }

    #[test]
    fn what_is_no_picture_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cat.png");
        let jpeg = bytes(&reference(), "jpeg halved file");
        let half = &jpeg[..jpeg.len() / 2];
        for content in
            [&b""[..], b"no picture", b"P5 100000 1 255\n", b"P5 9 9 255\nshort", half, &jpeg[..4]]
        {
            std::fs::write(&file, content).unwrap();
            let error = grey(&file).unwrap_err().to_string();
            assert!(error.contains("cat.png: is no picture that can be read"), "{error}");
        }
        assert_eq!(grey(&folder.path().join("absent.png")).unwrap_err().exit_status(), 1);
    }

    #[test]
    fn a_small_picture_inside_is_not_the_end_of_a_jpeg() {
        let jpeg = bytes(&reference(), "jpeg full file");
        assert!(is_whole_jpeg(&jpeg));
        let thumbnail = [&[0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9][..], &jpeg[2..]].concat();
        let with_thumbnail = [&jpeg[..2], &thumbnail].concat();
        assert!(is_whole_jpeg(&with_thumbnail));
        assert!(!is_whole_jpeg(&with_thumbnail[..with_thumbnail.len() / 2]));
        assert!(is_whole_jpeg(&[&jpeg[..], b"appended"].concat()));
        assert!(!is_whole_jpeg(&jpeg[..3]));
    }

    #[test]
    fn jpegs_come_out_as_libjpeg_makes_them_but_for_rounding() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picture.jpg");
        let reference = reference();
        // Decoders may round as they like. Colours of half the size are spread out in between, for
        // which the two decoders round once more.
        for (name, largest, mean) in [("full", 4, 0.6), ("halved", 8, 1.0)] {
            std::fs::write(&file, bytes(&reference, &format!("jpeg {name} file"))).unwrap();
            let found = rgb(&file).unwrap();
            assert_eq!(found.dimensions(), (96, 64));
            let expected = bytes(&reference, &format!("jpeg {name}"));
            let apart = || found.as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
            let total: u32 = apart().map(u32::from).sum();
            let measured = (apart().max().unwrap(), f64::from(total) / expected.len() as f64);
            assert!(measured.0 <= largest && measured.1 <= mean, "{name}: {measured:?}");
        }
    }

    #[test]
    fn photographs_are_read() {
        let Some(folder) = real_data::folder("tweet_sentiment_sample") else { return };
        let photograph = rgb(&folder.join("data/100.jpg")).unwrap();
        let (width, height) = photograph.dimensions();
        assert!([width, height].iter().all(|side| (90..1_100).contains(side)));
        let darkest = photograph.as_raw().iter().min().unwrap();
        assert!(photograph.as_raw().iter().any(|value| value > darkest));
    }
}
