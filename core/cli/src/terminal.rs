//! Where commands write: the only place that knows standard output and standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use mie_core::prelude::Serialize;
use mie_core::{Error, Result};

/// Writes results to standard output, and everything about the work to standard error.
///
/// When standard output breaks, what follows is dropped and the command goes on: a run must not
/// die because a pager was closed. [`Shell::finish`] reports it, unless it was just that.
pub(crate) struct Shell {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    shows_bars: bool,
    width: Option<u16>,
    trouble: Option<io::Error>,
}

impl Shell {
    /// Takes the streams of this process.
    pub(crate) fn of_process() -> Self {
        let columns = || {
            let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
            told.or_else(|| console::Term::stdout().size_checked().map(|(_, columns)| columns))
        };
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            shows_bars: io::stderr().is_terminal(),
            width: io::stdout().is_terminal().then(columns).flatten(),
            trouble: None,
        }
    }

    /// Says whether somebody watches standard error, so that progress bars make sense.
    pub(crate) fn shows_bars(&self) -> bool {
        self.shows_bars
    }

    /// Columns a table may take, where there is a terminal.
    pub(crate) fn width(&self) -> Option<u16> {
        self.width
    }

    /// Writes one line of a result, or several.
    pub(crate) fn line(&mut self, text: &str) {
        self.text(&format!("{text}\n"));
    }

    /// Writes a text that brings its own line ends.
    pub(crate) fn text(&mut self, text: &str) {
        if self.trouble.is_none()
            && let Err(error) = self.out.write_all(text.as_bytes())
        {
            self.trouble = Some(error);
        }
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) {
        self.json(serde_json::to_string(value));
    }

    /// Writes a value as JSON indented for people.
    pub(crate) fn json_page(&mut self, value: &impl Serialize) {
        self.json(serde_json::to_string_pretty(value));
    }

    fn json(&mut self, text: serde_json::Result<String>) {
        match text {
            Ok(text) => self.line(&text),
            Err(error) => self.trouble = Some(error.into()),
        }
    }

    /// Says something about the work that is no result.
    pub(crate) fn note(&mut self, text: &str) {
        self.tell(text);
    }

    /// Says what the user should know of, which does not stop the work.
    pub(crate) fn warning(&mut self, text: &str) {
        self.tell(&format!("warning: {text}"));
    }

    /// Says what stopped the work.
    pub(crate) fn error(&mut self, text: &str) {
        self.tell(&format!("error: {text}"));
    }

    fn tell(&mut self, text: &str) {
        // Without standard error there is nowhere left to say so.
        let _ = writeln!(self.err, "{text}");
    }

    /// Ends the output.
    ///
    /// # Errors
    /// When standard output could not take everything, unless its reader just went away.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if self.trouble.is_none() {
            self.trouble = self.out.flush().err();
        }
        match self.trouble.take() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::io("write to", Path::new("standard output"))(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Keeps what is written, for tests.
    #[derive(Clone, Default)]
    pub(crate) struct Page(Rc<RefCell<Vec<u8>>>);

    impl Page {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A shell that nobody watches, with its standard output and standard error.
    pub(crate) fn paper() -> (Shell, Page, Page) {
        let (out, err) = (Page::default(), Page::default());
        let shell = Shell {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            shows_bars: false,
            width: None,
            trouble: None,
        };
        (shell, out, err)
    }

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    fn broken(kind: ErrorKind) -> Shell {
        Shell { out: Box::new(Broken(kind)), ..paper().0 }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let mut shell = broken(ErrorKind::BrokenPipe);
        shell.line("one");
        shell.line("two");
        shell.finish().unwrap();
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_stream() {
        let mut shell = broken(ErrorKind::StorageFull);
        shell.line("one");
        let error = shell.finish().unwrap_err();
        assert!(error.to_string().starts_with("cannot write to standard output: "), "{error}");
        assert_eq!(error.exit_status(), 1);
    }

    #[test]
    fn results_and_remarks_go_to_streams_of_their_own() {
        let (mut shell, out, err) = paper();
        shell.line("result");
        shell.warning("remark");
        shell.json_line(&serde_json::json!({ "a": [1, 0.5] }));
        assert_eq!(out.text(), "result\n{\"a\":[1,0.5]}\n");
        assert_eq!(err.text(), "warning: remark\n");
    }
}
