//! Sound and frames out of videos, by the program `ffmpeg`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mie_core::prelude::*;

/// Takes the sound of a video: a mono WAVE file of 16 bits at the rate it has.
#[derive(Debug, Clone, Copy)]
pub struct Sound;

impl Preparer for Sound {
    fn name(&self) -> String {
        "sound by ffmpeg".to_owned()
    }

    fn ready(&self) -> Result<()> {
        ready()
    }

    fn make(&self, source: &Path, target: &Path) -> Result<()> {
        let options = ["-map", "0:a:0", "-ac", "1", "-acodec", "pcm_s16le", "-bitexact"];
        let container = ["-map_metadata", "-1", "-f", "wav"];
        ffmpeg(source, options.into_iter().chain(container), target)
    }
}

/// Which frames of a video are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// All of them.
    Frame,
    /// So many a second: the first of each group of `floor(rate / n)` frames, `rate` being the
    /// whole frames a second of the video, rounded down, as the released preparation of OGM-GE.
    PerSecond(u32),
}

/// Takes frames of a video: a folder of `00000.jpg` and so on, numbered as frames of the video.
#[derive(Debug, Clone, Copy)]
pub struct Frames(pub Every);

impl Preparer for Frames {
    fn name(&self) -> String {
        match self.0 {
            Every::Frame => "every frame by ffmpeg".to_owned(),
            Every::PerSecond(1) => "a frame a second by ffmpeg".to_owned(),
            Every::PerSecond(frames) => format!("{frames} frames a second by ffmpeg"),
        }
    }

    fn ready(&self) -> Result<()> {
        ready()
    }

    fn make(&self, source: &Path, target: &Path) -> Result<()> {
        let group = match self.0 {
            Every::Frame => 1,
            Every::PerSecond(frames) => (rate(source)? / u64::from(frames.max(1))).max(1),
        };
        std::fs::create_dir(target).map_err(Error::io("create", target))?;
        let select = format!("select='not(mod(n,{group}))'");
        let options = ["-map", "0:v:0", "-vf", select.as_str(), "-fps_mode", "passthrough"];
        let pictures = ["-start_number", "0", "-q:v", "2"];
        ffmpeg(source, options.into_iter().chain(pictures), &target.join("%06d.part"))?;
        let mut made = numbered(target)?;
        if made.is_empty() {
            return Err(Error::data(source, "has no frame that can be decoded"));
        }
        made.sort_unstable();
        for (position, file) in made.iter().enumerate() {
            let name = target.join(format!("{:05}.jpg", position as u64 * group));
            std::fs::rename(file, &name).map_err(Error::io("rename", file))?;
        }
        Ok(())
    }
}

/// The frames that ffmpeg wrote.
fn numbered(folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)
        .map_err(Error::io("read", folder))?
        .map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path()))
        .collect()
}

/// Whole frames a second of the first video stream.
fn rate(source: &Path) -> Result<u64> {
    let entries = ["-show_entries", "stream=avg_frame_rate", "-of", "csv=p=0"];
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0"])
        .args(entries)
        .arg(input(source))
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run ffprobe on", source))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let parts = text.trim().split_once('/');
    let numbers = parts.and_then(|(n, d)| Some((n.parse::<f64>().ok()?, d.parse::<f64>().ok()?)));
    match numbers {
        Some((frames, seconds)) if frames > 0.0 && seconds > 0.0 => {
            Ok(((frames / seconds) as u64).max(1))
        }
        _ => Err(Error::data(
            source,
            format!("tells no frame rate: {}", reason("ffprobe", &output.stderr, text.trim())),
        )),
    }
}

/// A path that no program takes for an option.
fn input(path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) }
}

fn ffmpeg<'a>(source: &Path, options: impl Iterator<Item = &'a str>, target: &Path) -> Result<()> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-threads", "1", "-i"]).arg(input(source));
    command.args(options);
    if target.extension() == Some(OsStr::new("part")) {
        command.args(["-f", "image2", "-c:v", "mjpeg"]);
    }
    let output = command
        .arg("-y")
        .arg(input(target))
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run ffmpeg on", source))?;
    // Of a video that was cut off it reads what is there, complains and ends well.
    if output.status.success() && output.stderr.is_empty() {
        return Ok(());
    }
    Err(Error::data(source, reason("ffmpeg", &output.stderr, "it failed without a word")))
}

/// The first line that a program complained with.
fn reason(program: &str, complaint: &[u8], otherwise: &str) -> String {
    let text = String::from_utf8_lossy(complaint);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or(otherwise);
    format!("{program}: {}", line.trim())
}

/// Looks for the programs.
fn ready() -> Result<()> {
    for program in ["ffmpeg", "ffprobe"] {
        let found = Command::new(program)
            .arg("-version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(Error::refused(
                format!("the program `{program}` is not there, and videos are read with it"),
                "install ffmpeg (Debian and Ubuntu: `apt install ffmpeg`; conda: `conda install \
                 ffmpeg`), so that it is found in PATH",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{picture, real_data, wav};

    /// Whether videos can be read here; without ffmpeg a test is skipped, except in CI.
    #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
    fn there() -> bool {
        let found = ready();
        assert!(found.is_ok() || std::env::var("CI").as_deref() != Ok("true"), "{found:?}");
        if let Err(error) = &found {
            eprintln!("skipped: {error}");
        }
        found.is_ok()
    }

    #[test]
    fn real_clips_give_the_frames_and_the_sound_of_the_published_layout() {
        let Some(folder) = real_data::folder("av_clips_sample") else { return };
        if !there() {
            return;
        }
        let target = tempfile::tempdir().unwrap();
        for clip in ["00W1lcxW-WU_40.000", "KlsG1EnBEjc_000361"] {
            let source = folder.join(format!("raw/{clip}.mp4"));
            let frames = target.path().join(clip);
            Frames(Every::PerSecond(1)).make(&source, &frames).unwrap();
            let names = |folder: &Path| {
                let mut names: Vec<_> = numbered(folder)
                    .unwrap()
                    .iter()
                    .map(|file| file.file_name().unwrap().to_owned())
                    .collect();
                names.sort();
                names
            };
            let expected = folder.join("Image-01-FPS").join(clip);
            assert_eq!(names(&frames), names(&expected));
            // Both are JPEGs of one frame, at different qualities.
            let last = names(&frames).pop().unwrap();
            let [one, two] =
                [frames.join(&last), expected.join(&last)].map(|it| picture::grey(&it).unwrap());
            let difference: f64 = one
                .as_raw()
                .iter()
                .zip(two.as_raw())
                .map(|(a, b)| f64::from(a.abs_diff(*b)))
                .sum::<f64>();
            assert_eq!(one.dimensions(), two.dimensions());
            assert!(difference / (one.as_raw().len() as f64) < 4.0, "{clip}: {difference}");
            let sound = target.path().join(format!("{clip}.wav"));
            Sound.make(&source, &sound).unwrap();
            let made = wav::read(&sound).unwrap();
            let given = wav::read(&folder.join(format!("audio/{clip}.wav"))).unwrap();
            assert_eq!(made.rate_hertz, given.rate_hertz);
            assert_eq!(made.samples.len(), given.samples.len());
        }
    }

    #[test]
    fn what_is_no_video_is_named_with_what_ffmpeg_says() {
        if !there() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("-broken.mp4");
        std::fs::write(&source, "no video").unwrap();
        for by in [&Sound as &dyn Preparer, &Frames(Every::Frame), &Frames(Every::PerSecond(1))] {
            let error = by.make(&source, &folder.path().join("made")).unwrap_err().to_string();
            assert!(error.contains("-broken.mp4: "), "{error}");
            assert!(error.contains("ffmpeg: ") || error.contains("ffprobe: "), "{error}");
            drop(std::fs::remove_dir_all(folder.path().join("made")));
        }
    }

    #[test]
    fn a_video_that_was_cut_off_is_a_failure_and_not_a_shorter_one() {
        let Some(folder) = real_data::folder("nvgesture_mini") else { return };
        if !there() {
            return;
        }
        let whole = folder.join("Video_data/class_02/subject3_r0/sk_depth.avi");
        let content = std::fs::read(&whole).unwrap();
        let target = tempfile::tempdir().unwrap();
        let source = target.path().join("cut.avi");
        std::fs::write(&source, &content[..content.len() / 2]).unwrap();
        let made = target.path().join("made");
        let error = Frames(Every::Frame).make(&source, &made).unwrap_err().to_string();
        assert!(error.contains("cut.avi: ffmpeg: "), "{error}");
        Frames(Every::Frame).make(&whole, &target.path().join("whole")).unwrap();
        assert_eq!(numbered(&target.path().join("whole")).unwrap().len(), 241);
    }
}
