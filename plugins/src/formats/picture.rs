//! Pictures: PNG, JPEG and PNM.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
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
        return Err(cut_off(file, "JPEG"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    reader.limits(limits);
    reader.decode().map_err(|problem| {
        Error::data(file, format!("is no picture that can be read (PNG, JPEG, PNM): {problem}"))
    })
}

/// Looks at a picture without decoding it: whether it starts as one and, if it is a PNG or a JPEG,
/// goes on to its end.
///
/// # Errors
/// Names the file that cannot be read, is no picture or ends before its picture does. What is
/// damaged between start and end is not found.
pub fn inspect(file: &Path) -> Result<()> {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
    const LAST_CHUNK: &[u8] = b"\0\0\0\0IEND\xaeB`\x82";
    let [start, end] =
        ends(file, PNG.len() as u64, LAST_CHUNK.len() as u64).map_err(Error::io("read", file))?;
    // Most end with the mark of their end; behind that of others something was appended.
    if start.starts_with(&[0xff, 0xd8, 0xff]) {
        let whole = end.ends_with(&END_OF_JPEG) || is_whole_jpeg(&read_whole(file)?);
        return if whole { Ok(()) } else { Err(cut_off(file, "JPEG")) };
    }
    if start == PNG {
        let among = |content: &[u8]| content.windows(LAST_CHUNK.len()).any(|it| it == LAST_CHUNK);
        let whole = end == LAST_CHUNK || among(&read_whole(file)?);
        return if whole { Ok(()) } else { Err(cut_off(file, "PNG")) };
    }
    if matches!(start[..], [b'P', b'1'..=b'7', ..]) {
        return Ok(());
    }
    let problem = "is no picture that can be read (PNG, JPEG, PNM): it starts as none of them";
    Err(Error::data(file, problem))
}

/// The first and the last bytes of a file.
fn ends(file: &Path, first: u64, last: u64) -> io::Result<[Vec<u8>; 2]> {
    let (mut start, mut end) = (Vec::new(), Vec::new());
    let mut opened = File::open(file)?;
    let length = opened.metadata()?.len();
    opened.by_ref().take(first).read_to_end(&mut start)?;
    opened.seek(SeekFrom::Start(length.saturating_sub(last)))?;
    opened.take(last).read_to_end(&mut end)?;
    Ok([start, end])
}

fn cut_off(file: &Path, format: &str) -> Error {
    let problem =
        format!("is no picture that can be read: this {format} ends before its picture does");
    Error::data(file, problem)
}

/// The mark of the end of a JPEG.
const END_OF_JPEG: [u8; 2] = [0xff, 0xd9];

/// Whether a JPEG has the mark of its end behind the start of its picture.
fn is_whole_jpeg(content: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut place = 2;
    // Segments before the picture may hold a small one with an end of its own.
    while let Some(&[0xff, kind, high, low]) = content.get(place..place + 4) {
        if kind == START_OF_SCAN {
            // Most files end with it.
            return content.ends_with(&END_OF_JPEG)
                || content[place..].windows(2).any(|two| two == END_OF_JPEG);
        }
        // A mark may be preceded by any number of 0xff.
        place += if kind == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use flate2::Crc;
    use proptest::prelude::{
        ProptestConfig, TestCaseError, any, prop, prop_assert, prop_assert_eq, proptest,
    };

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
    fn what_is_cut_off_or_no_picture_is_told_by_start_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cat.jpg");
        let problem = |content: &[u8]| {
            std::fs::write(&file, content).unwrap();
            inspect(&file).err().map(|error| error.to_string())
        };
        for (content, format) in WHOLE.iter().zip(["JPEG", "JPEG", "PNG", "PNG"]) {
            assert_eq!(problem(content), None);
            assert_eq!(problem(&[content.as_slice(), b"appended"].concat()), None);
            for length in [content.len() - 1, content.len() / 2, 9] {
                let error = problem(&content[..length]).unwrap();
                let end = format!("this {format} ends before its picture does");
                assert!(error.contains("cat.jpg: ") && error.ends_with(&end), "{error}");
            }
        }
        assert_eq!(problem(b"P5 3 1 255\n\x00\x80\xff"), None);
        for content in [&b""[..], b"<html>", b"P8 1 1", &[0xff, 0xd8]] {
            let error = problem(content).unwrap();
            assert!(error.ends_with("it starts as none of them"), "{error}");
        }
        assert_eq!(inspect(&folder.path().join("absent.jpg")).unwrap_err().exit_status(), 1);
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

    /// Files whose changes are read.
    const FILES: usize = 4;

    /// JPEGs with full and with halved colours, PNGs with and without colours.
    static WHOLE: LazyLock<[Vec<u8>; FILES]> = LazyLock::new(|| {
        let reference = reference();
        let jpeg = |name: &str| bytes(&reference, &format!("jpeg {name} file"));
        let png = |picture: DynamicImage| {
            let mut file = Cursor::new(Vec::new());
            picture.write_to(&mut file, ImageFormat::Png).unwrap();
            file.into_inner()
        };
        let colours = RgbImage::from_fn(13, 7, |x, y| image::Rgb([19 * x as u8, 36 * y as u8, 77]));
        let grey = GrayImage::from_fn(9, 11, |x, y| image::Luma([(3 * x * y) as u8]));
        [jpeg("full"), jpeg("halved"), png(colours.into()), png(grey.into())]
    });

    /// Gives the chunks of a PNG the checksums of what is in them now, so that it is looked at.
    fn mend(png: &mut [u8]) {
        let mut place = 8;
        while let Some(length) = png.get(place..place + 4) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            let end = place + 8 + length;
            let Some(content) = png.get(place + 4..end) else { return };
            let mut sum = Crc::new();
            sum.update(content);
            let Some(checksum) = png.get_mut(end..end + 4) else { return };
            checksum.copy_from_slice(&sum.sum().to_be_bytes());
            place = end + 4;
        }
    }

    /// Reads a file of this content in grey and in colour: both work, or neither.
    fn read_both(content: &[u8]) -> Result<(), TestCaseError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let (in_grey, in_colour) = (grey(file.path()), rgb(file.path()));
        prop_assert_eq!(
            in_grey.as_ref().ok().map(GrayImage::dimensions),
            in_colour.as_ref().ok().map(RgbImage::dimensions)
        );
        if let Err(error) = in_colour {
            let error = error.to_string();
            prop_assert!(error.starts_with(&format!("{}: ", file.path().display())), "{}", error);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn no_change_of_a_picture_makes_reading_it_panic(
            which in 0..FILES,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut content = WHOLE[which].clone();
            for (at, byte) in changes {
                let at = at.index(content.len());
                content[at] = byte;
            }
            if let Some(cut) = cut {
                content.truncate(cut.index(content.len()));
            }
            if WHOLE[which].starts_with(b"\x89PNG") {
                mend(&mut content);
            }
            read_both(&content)?;
        }

        #[test]
        fn no_header_of_a_pnm_makes_reading_it_panic(
            kind in b'0'..=b'8',
            numbers in prop::collection::vec(
                prop::sample::select(vec![
                    "0", "1", "3", "8", "255", "65535", "16384", "16385", "4294967295", "-1", "x",
                    "# a", "",
                ]),
                1..4,
            ),
            separator in prop::sample::select(vec![" ", "\n", "\t ", ""]),
            body in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let header = format!("P{}\n{}\n", char::from(kind), numbers.join(separator));
            read_both(&[header.as_bytes(), body.as_slice()].concat())?;
        }

        #[test]
        fn no_bytes_make_reading_a_picture_panic(
            start in prop::sample::select(vec![
                &b""[..], b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"P6 ", b"\xff\xd8\xff\xda",
            ]),
            body in prop::collection::vec(any::<u8>(), 0..60),
            ended in any::<bool>(),
        ) {
            let end: &[u8] = if ended { b"\xff\xd9" } else { b"" };
            read_both(&[start, body.as_slice(), end].concat())?;
        }
    }
}
