//! Numbers, values and paths as people read them.

use std::path::Path;

use serde_json::Value;

/// Counts things: `1 epoch`, `2,400 steps`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(number as u64))
}

/// Separates thousands: `11,176,512`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration of so many seconds: `12.3 s`, `3 min 5 s`, `2 h 40 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    if whole < 60 {
        format!("{seconds:.1} s")
    } else if whole < 3600 {
        format!("{} min {} s", whole / 60, whole % 60)
    } else {
        format!("{} h {} min", whole / 3600, whole % 3600 / 60)
    }
}

/// How long ago something was: `just now`, `5 min ago`, `2 days ago`.
pub(crate) fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A value as it stands behind `=` in a TOML file.
pub(crate) fn inline_toml(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(inline_toml).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let entries: Vec<String> = table
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| format!("{key} = {}", inline_toml(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        plain => plain.to_string(),
    }
}

/// A word of a command line, quoted where a shell would take it apart.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "_-./:=,+@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A path as a word of a command line.
pub(crate) fn shell_path(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn things_are_counted_with_their_plural() {
        assert_eq!(count(1, "epoch"), "1 epoch");
        assert_eq!(count(0, "epoch"), "0 epochs");
        assert_eq!(count(2400, "step"), "2,400 steps");
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(11_176_512), "11,176,512");
    }

    #[test]
    fn durations_take_the_unit_that_fits() {
        assert_eq!(duration(12.34), "12.3 s");
        assert_eq!(duration(59.7), "1 min 0 s");
        assert_eq!(duration(185.0), "3 min 5 s");
        assert_eq!(duration(9600.0), "2 h 40 min");
    }

    #[test]
    fn values_are_written_as_toml_reads_them() {
        let value = json!({ "name": "a", "x": 1e-10, "n": null, "list": [1, true, { "y": 0.5 }] });
        assert_eq!(
            inline_toml(&value),
            r#"{ name = "a", x = 1e-10, list = [1, true, { y = 0.5 }] }"#
        );
        assert_eq!(inline_toml(&json!({})), "{}");
    }

    #[test]
    fn words_a_shell_would_take_apart_are_quoted() {
        assert_eq!(shell_word("runs/a/seed0-5f"), "runs/a/seed0-5f");
        assert_eq!(shell_word("my runs"), "'my runs'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
