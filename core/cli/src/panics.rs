//! Panics: nothing is printed where they happen, as most are caught and become errors.
//!
//! tch's operators panic, and core turns a panic inside a plugin into an error that names it. What
//! was caught must not appear on the terminal a second time, as a trace.

use std::cell::RefCell;

thread_local! {
    static LATEST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Stops panics from being printed, unless `RUST_BACKTRACE` asks for it.
pub(crate) fn keep_quiet() {
    let asked = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A thread that is ending has no place for it any more, and nobody to read it.
        let _ = LATEST.try_with(|latest| latest.replace(Some(panic.to_string())));
        if asked {
            print(panic);
        }
    }));
}

/// Tells where this thread panicked last, and its message.
pub(crate) fn latest() -> String {
    LATEST.take().unwrap_or_else(|| "a panic without a message".to_owned())
}
