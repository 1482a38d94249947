//! Python list literals of strings and integers, one to a line.

/// An item of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A string, without its quotes and escapes.
    Text(String),
    /// An integer.
    Integer(i64),
}

const ESCAPES: &str = r#"one of the escapes \' \" \\ \n \t \r \xNN \uNNNN \UNNNNNNNN"#;

/// Reads a list such as `['910', "isn 't it \u2060", 1]`.
///
/// Strings stand in either kind of quotes, with the escapes that Python writes; a comma may follow
/// the last item. Nothing else is a list here: no nested ones, no numbers with a fraction, no
/// strings side by side.
///
/// # Errors
/// Says in which column, counted in characters from 1, what was found and what was expected.
pub fn list(line: &str) -> Result<Vec<Item>, String> {
    let mut cursor = Cursor { line, at: 0 };
    cursor.skip_blanks();
    if cursor.peek() != Some('[') {
        return Err(cursor.fault("`[`"));
    }
    cursor.take();
    let mut items = Vec::new();
    loop {
        cursor.skip_blanks();
        match cursor.peek() {
            Some(']') => break,
            Some(quote @ ('\'' | '"')) => items.push(Item::Text(cursor.text(quote)?)),
            Some('+' | '-' | '0'..='9') => items.push(Item::Integer(cursor.integer()?)),
            _ => return Err(cursor.fault("a string, an integer or `]`")),
        }
        cursor.skip_blanks();
        match cursor.peek() {
            Some(',') => cursor.take(),
            Some(']') => break,
            _ => return Err(cursor.fault("`,` or `]`")),
        };
    }
    cursor.take();
    cursor.skip_blanks();
    if cursor.peek().is_some() {
        return Err(cursor.fault("the end of the line"));
    }
    Ok(items)
}

/// A place in a line, always between two characters.
struct Cursor<'a> {
    line: &'a str,
    /// In bytes.
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.line[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.take();
        }
    }

    fn text(&mut self, quote: char) -> Result<String, String> {
        self.take();
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err(self.fault("the closing quote")),
                Some('\\') => text.push(self.escape()?),
                Some(character) => {
                    self.take();
                    if character == quote {
                        return Ok(text);
                    }
                    text.push(character);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let start = self.at;
        self.take();
        let digits = match self.take() {
            Some(itself @ ('\'' | '"' | '\\')) => return Ok(itself),
            Some('n') => return Ok('\n'),
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => 0,
        };
        let code = self.line.get(self.at..self.at + digits);
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        // No digits are no number, so that an unknown escape ends here too.
        let code = code.and_then(|code| u32::from_str_radix(code, 16).ok());
        if let Some(character) = code.and_then(char::from_u32) {
            self.at += digits;
            return Ok(character);
        }
        self.at = start;
        Err(self.fault(ESCAPES))
    }

    fn integer(&mut self) -> Result<i64, String> {
        let start = self.at;
        self.take();
        while self.peek().is_some_and(|character| character.is_ascii_digit()) {
            self.take();
        }
        self.line[start..self.at].parse().map_err(|_| {
            self.at = start;
            self.fault("an integer of at most 64 bits")
        })
    }

    fn fault(&self, expected: &str) -> String {
        let column = 1 + self.line[..self.at].chars().count();
        let found =
            self.peek().map_or_else(|| "the end of the line".to_owned(), |c| format!("{c:?}"));
        format!("column {column}: found {found}, expected {expected}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn text(text: &str) -> Item {
        Item::Text(text.to_owned())
    }

    #[test]
    fn both_kinds_of_quotes_and_integers_are_read() {
        let expected = [text("910308516510011393"), text("isn't it"), Item::Integer(1)];
        for line in [
            r#"['910308516510011393', "isn't it", 1]"#,
            r#" [ "910308516510011393" ,'isn\'t it',+1 , ] "#,
            "[\t'910308516510011393','\\x69sn\\u0027t \\U00000069t',01]",
        ] {
            assert_eq!(list(line).unwrap(), expected, "{line}");
        }
        assert_eq!(list("[]"), Ok(Vec::new()));
        assert_eq!(list("[-9223372036854775808]"), Ok(vec![Item::Integer(i64::MIN)]));
    }

    #[test]
    fn escapes_are_those_that_python_writes() {
        let line = r#"['\'\"\\\n\t\r', '\xe9\u2060\U0001f602', '"', "'"]"#;
        let expected =
            [text("'\"\\\n\t\r"), text("\u{e9}\u{2060}\u{1f602}"), text("\""), text("'")];
        assert_eq!(list(line).unwrap(), expected);
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_column() {
        for (line, problem) in [
            ("", "column 1: found the end of the line, expected `[`"),
            ("'a'", "column 1: found '\\'', expected `[`"),
            ("[", "column 2: found the end of the line, expected a string, an integer or `]`"),
            ("['a'", "column 5: found the end of the line, expected `,` or `]`"),
            ("['é' 'b']", "column 6: found '\\'', expected `,` or `]`"),
            ("['a', None]", "column 7: found 'N', expected a string, an integer or `]`"),
            ("[[1]]", "column 2: found '[', expected a string, an integer or `]`"),
            ("[1.5]", "column 3: found '.', expected `,` or `]`"),
            ("[1] # odd", "column 5: found '#', expected the end of the line"),
            ("['a", "column 4: found the end of the line, expected the closing quote"),
            ("[-]", "column 2: found '-', expected an integer of at most 64 bits"),
            (
                "[99999999999999999999]",
                "column 2: found '9', expected an integer of at most 64 bits",
            ),
        ] {
            assert_eq!(list(line).unwrap_err(), problem, "{line}");
        }
    }

    #[test]
    fn unknown_and_broken_escapes_are_refused_where_they_start() {
        for escape in
            [r"\a", r"\0", r"\x4", r"\xé", r"\u00g0", r"\ud83d", r"\U00110000", r"\x+1", "\\"]
        {
            let problem = list(&format!("['é{escape}")).unwrap_err();
            assert!(problem.starts_with("column 4: found '\\\\', expected one of"), "{problem}");
        }
    }

    /// Writes a string as Python might: in either kind of quotes, escaping more or less.
    fn written(text: &str, double: bool, styles: &[u8]) -> String {
        let quote = if double { '"' } else { '\'' };
        let mut line = String::from(quote);
        for (index, character) in text.chars().enumerate() {
            let code = u32::from(character);
            let style = if styles.is_empty() { 0 } else { styles[index % styles.len()] % 4 };
            let piece = match (style, character) {
                (1, _) if code < 0x100 => format!("\\x{code:02x}"),
                (2, _) if code < 0x1_0000 => format!("\\u{code:04X}"),
                (3, _) => format!("\\U{code:08x}"),
                (_, '\n') => "\\n".to_owned(),
                (_, '\t') => "\\t".to_owned(),
                (_, '\r') => "\\r".to_owned(),
                (_, '\\') => "\\\\".to_owned(),
                (_, plain) if plain == quote => format!("\\{plain}"),
                (_, plain) => plain.to_string(),
            };
            line.push_str(&piece);
        }
        line.push(quote);
        line
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn strings_and_integers_survive_writing_and_reading(
            characters in prop::collection::vec(any::<char>(), 0..24),
            marks in prop::collection::vec(prop::sample::select(vec!['\'', '"', '\\', '\n']), 0..6),
            styles in prop::collection::vec(any::<u8>(), 0..8),
            double in any::<bool>(),
            number in any::<i64>(),
        ) {
            let string: String = marks.iter().chain(&characters).chain(&marks).collect();
            let line = format!("[ {} ,{number}]", written(&string, double, &styles));
            prop_assert_eq!(list(&line), Ok(vec![Item::Text(string), Item::Integer(number)]));
        }

        #[test]
        fn no_line_makes_the_parser_panic(
            start in prop::sample::select(vec!["", "[", "['", "[\"", "['\\x", "['\\U00", "[1, -"]),
            signs in prop::collection::vec(0_usize..22, 0..24),
            others in prop::collection::vec(any::<char>(), 0..6),
        ) {
            let known: Vec<char> = "[]'\"\\,-+ 019afunxU\té\u{1f602}".chars().collect();
            let signs = signs.into_iter().filter_map(|sign| known.get(sign).copied());
            let rest: String = signs.chain(others).collect();
            let line = format!("{start}{rest}");
            if let Err(problem) = list(&line) {
                let column = problem.strip_prefix("column ").and_then(|it| it.split_once(':'));
                let column: usize = column.unwrap().0.parse().unwrap();
                prop_assert!(column >= 1 && column <= line.chars().count() + 1);
            }
        }
    }
}
