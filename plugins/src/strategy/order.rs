//! The order of modalities that several strategies take.

use std::collections::BTreeSet;

use mie_core::prelude::*;

/// Refuses a list that names a modality twice.
pub(super) fn ensure_distinct(field: &str, names: &[String]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        ensure_range(field, "a list without repetition", quoted(names), seen.insert(name))?;
    }
    Ok(())
}

/// Refuses names that are not among the modalities of the run.
pub(super) fn ensure_known<'a>(
    field: &str,
    names: impl IntoIterator<Item = &'a String>,
    run: &[String],
) -> Result<()> {
    let unknown: Vec<String> = names.into_iter().filter(|&n| !run.contains(n)).cloned().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "`{field}` names {}, but the run's modalities are {}",
            quoted(&unknown),
            quoted(run)
        ),
        "name modalities of the run",
    ))
}

/// Gives all modalities of the run in the order wanted; an empty order means alphabetical.
///
/// # Errors
/// [`Error::Refused`] when the order has a name that the run lacks, or lacks one that it has.
pub(super) fn in_order(order: &[String], run: &[String]) -> Result<Vec<String>> {
    if order.is_empty() {
        return Ok(run.to_vec());
    }
    ensure_known("order", order, run)?;
    let missing: Vec<String> = run.iter().filter(|&name| !order.contains(name)).cloned().collect();
    if missing.is_empty() {
        return Ok(order.to_vec());
    }
    Err(Error::refused(
        format!("`order` lacks {}; the run's modalities are {}", quoted(&missing), quoted(run)),
        "name every modality of the run once, or leave `order` out for the alphabetical order",
    ))
}

/// Lists names for a message.
fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn an_order_must_hold_exactly_the_modalities_of_the_run() {
        let run = names(&["audio", "video"]);
        assert_eq!(in_order(&[], &run).unwrap(), run);
        let reversed = names(&["video", "audio"]);
        assert_eq!(in_order(&reversed, &run).unwrap(), reversed);
        for (order, start) in [
            (names(&["video"]), "`order` lacks `audio`; the run's modalities are `audio`, `video`"),
            (
                names(&["video", "audio", "text"]),
                "`order` names `text`, but the run's modalities are `audio`, `video`",
            ),
        ] {
            let error = in_order(&order, &run).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
            assert!(error.contains("what to do: name "), "{error}");
        }
    }

    #[test]
    fn a_modality_named_twice_is_refused() {
        ensure_distinct("order", &names(&["audio", "video"])).unwrap();
        let error = ensure_distinct("order", &names(&["audio", "audio"])).unwrap_err().to_string();
        assert_eq!(error, "`order` is `audio`, `audio`, expected a list without repetition");
    }
}
