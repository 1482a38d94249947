//! Clean-up of texts, as released code does it before it tokenises them.

/// Stands between the two parts of a text: BERT's own mark, so that its tokeniser knows it.
pub const SEPARATOR: &str = " [SEP] ";

/// Most words of a text in the released code of MIE.
const MOST_WORDS: usize = 50;

/// Keeps the words of nothing but ASCII letters, joined by blanks.
///
/// A word is as many letters, digits and underscores as stand together, so that `$T$` leaves `T`,
/// `don't` leaves `don t` and `b2b` leaves nothing.
pub fn letters_only(text: &str) -> String {
    let is_other = |character: char| !character.is_alphanumeric() && character != '_';
    let is_plain = |word: &&str| {
        !word.is_empty() && word.chars().all(|character| character.is_ascii_alphabetic())
    };
    text.split(is_other).filter(is_plain).collect::<Vec<_>>().join(" ")
}

/// Cleans a text as the released code of MIE does.
///
/// In this order: lower case; the characters `, . ' ! ? " ( ) * # : ; ~` go; `-` and `/` become
/// blanks; `<person>` becomes `person`; two blanks or more become one; blanks at the ends go; what
/// follows the first 50 words goes.
pub fn released(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|character| !",.'!?\"()*#:;~".contains(*character))
        .map(|character| if matches!(character, '-' | '/') { ' ' } else { character })
        .collect();
    let squeezed = squeeze(&kept.replace("<person>", "person"));
    let trimmed = squeezed.trim_end_matches('\n').trim_matches(' ');
    trimmed.split(' ').take(MOST_WORDS).collect::<Vec<_>>().join(" ")
}

/// Replaces each run of two blanks or more by one; a single tab or line feed stays.
fn squeeze(text: &str) -> String {
    let mut squeezed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_blank) {
        let (before, from) = rest.split_at(start);
        let length = from.find(|character: char| !is_blank(character)).unwrap_or(from.len());
        let (blanks, after) = from.split_at(length);
        squeezed.push_str(before);
        squeezed.push_str(if blanks.chars().nth(1).is_some() { " " } else { blanks });
        rest = after;
    }
    squeezed.push_str(rest);
    squeezed
}

/// Whether Python takes a character for white space: its four separators are no blanks in Rust.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// Texts with what Python's `re` makes of them by the released code's expressions: letters
    /// alone, cleaned, and cleaned after letters alone.
    const BY_PYTHON: [[&str; 4]; 7] = [
        [
            "RT @ ltsChuckBass : $T$ is everything # MCM",
            "RT ltsChuckBass T is everything MCM",
            "rt @ ltschuckbass $t$ is everything mcm",
            "rt ltschuckbass t is everything mcm",
        ],
        [
            "Announcing upgrades , with $T$ ECS 1 . 2 don't b2b x_y Café naïve É end2",
            "Announcing upgrades with T ECS don t",
            "announcing upgrades with $t$ ecs 1 2 dont b2b x_y café naïve é end2",
            "announcing upgrades with t ecs don t",
        ],
        [
            "<user> well doesn 't that sound familiar ?  # shadowscon",
            "user well doesn t that sound familiar shadowscon",
            "<user> well doesn t that sound familiar shadowscon",
            "user well doesn t that sound familiar shadowscon",
        ],
        [
            "A - b/c -- <PERSON> <per-son> (two)  \"three\"; ~ four* \t five\t\tsix \n",
            "A b c PERSON per son two three four five six",
            "a b c person <per son> two three four five six",
            "a b c person per son two three four five six",
        ],
        [
            "\n x\u{2003}\u{2003}y\u{2003}z \u{1f}\u{1f} w \n\n",
            "x y z w",
            "x y\u{2003}z w",
            "x y z w",
        ],
        [" . ", "", "", ""],
        ["", "", "", ""],
    ];

    #[test]
    fn texts_are_cleaned_as_by_the_released_expressions() {
        for [text, letters, clean, both] in BY_PYTHON {
            assert_eq!(letters_only(text), letters, "{text:?}");
            assert_eq!(released(text), clean, "{text:?}");
            assert_eq!(released(&letters_only(text)), both, "{text:?}");
        }
    }

    #[test]
    fn the_fifty_first_word_is_cut() {
        let words = |count: usize| vec!["w"; count].join("  ");
        assert_eq!(released(&words(50)).len(), 99);
        assert_eq!(released(&words(51)), released(&words(50)));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_cleaned_text_has_at_most_fifty_words_and_none_of_the_signs(
            signs in prop::collection::vec(0_usize..24, 0..300),
            other in any::<char>(),
        ) {
            let known: Vec<char> = "ab Z-/'\"#<>person\t\né\u{1f}\u{2028}.".chars().collect();
            let signs = signs.into_iter().filter_map(|sign| known.get(sign).copied());
            let text: String = signs.chain([other]).collect();
            let clean = released(&text);
            prop_assert!(clean.split(' ').count() <= MOST_WORDS);
            prop_assert!(!clean.contains([',', '\'', '"', '#', '-', '/', 'Z']));
            prop_assert!(!clean.contains("  ") && clean.trim_matches(' ') == clean);
            let letters = letters_only(&text);
            prop_assert!(letters.chars().all(|it| it.is_ascii_alphabetic() || it == ' '));
            prop_assert_eq!(letters_only(&letters), letters);
        }
    }
}
