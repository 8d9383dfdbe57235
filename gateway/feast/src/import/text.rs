//! Writes the catalog as people would: tables with a key a line, and comments. Promises: whatever a text holds, it is read
//! back as it was, and a comment stays one.

use std::fmt::{Display, Write};

use toml_writer::{TomlKeyBuilder, TomlStringBuilder, WriteTomlKey, WriteTomlValue};

/// Longest line of a comment.
const COMMENT_CHARS_MAX: usize = 120;

/// TOML being written.
#[derive(Debug, Default)]
pub(super) struct Toml {
    pub(super) text: String,
}

impl Toml {
    /// `[[view]]` or `[view.feast]`.
    pub(super) fn table(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(header);
    }

    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// `key = value`, the value as it is shown.
    pub(super) fn plain(&mut self, key: &str, value: impl Display) {
        self.line(&format!("{key} = {value}"));
    }

    /// `key = "text"`
    pub(super) fn string(&mut self, key: &str, text: &str) {
        self.plain(key, quoted(text));
    }

    /// `key = ["text", "text"]`
    pub(super) fn strings(&mut self, key: &str, texts: &[String]) {
        let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
        self.plain(key, format_args!("[{}]", texts.join(", ")));
    }

    /// `key = { name = "text" }`; nothing at all without an entry.
    pub(super) fn map(&mut self, key: &str, entries: &[(String, String)]) {
        if !entries.is_empty() {
            let entries: Vec<String> =
                entries.iter().map(|(name, text)| format!("{} = {}", bare(name), quoted(text))).collect();
            self.plain(key, format_args!("{{ {} }}", entries.join(", ")));
        }
    }

    /// Lines of a comment.
    pub(super) fn comment(&mut self, text: &str) {
        self.text.push_str(&commented(&wrapped(text)));
    }
}

/// A text as TOML has it, on one line.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    // Writing into a String cannot fail.
    let _ = TomlStringBuilder::new(text).as_basic().write_toml_value(&mut out);
    out
}

fn bare(name: &str) -> String {
    let mut out = String::new();
    let _ = TomlKeyBuilder::new(name).as_default().write_toml_key(&mut out);
    out
}

/// Each line behind a `#`.
pub(super) fn commented(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        // TOML allows no control characters in comments.
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = if line.is_empty() { writeln!(out, "#") } else { writeln!(out, "# {line}") };
    }
    out
}

/// Text in lines of a bearable length.
fn wrapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if chars > 0 && chars + 1 + length > COMMENT_CHARS_MAX {
            out.push('\n');
            chars = 0;
        }
        if chars > 0 {
            out.push(' ');
            chars += 1;
        }
        out.push_str(word);
        chars += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_domain::catalog::{Keys, Mistakes};

    proptest! {
        #[test]
        fn any_text_is_read_back(text in any::<String>(), key in "[a-z_]{1,8}", comment in any::<String>()) {
            let mut toml = Toml::default();
            toml.comment(&comment);
            toml.string("text", &text);
            toml.map("map", &[(key.clone(), text.clone())]);
            toml.strings("list", &[text.clone(), comment.clone()]);
            let mistakes = Mistakes::default();
            let mut keys = Keys::parse("test", &toml.text, &mistakes).expect("TOML");
            prop_assert_eq!(keys.text("text"), Some(text.clone()));
            prop_assert_eq!(keys.text_map("map"), vec![(key, text.clone())]);
            prop_assert_eq!(keys.texts("list"), Some(vec![text, comment]));
            keys.finish();
            prop_assert!(mistakes.is_empty());
        }
    }

    #[test]
    fn a_comment_is_wrapped_and_stays_a_comment() {
        let mut toml = Toml::default();
        toml.comment(&format!("one\ntwo\r\n{}", "word ".repeat(40)));
        assert!(toml.text.lines().all(|line| line.starts_with("# ") && line.len() <= COMMENT_CHARS_MAX + 2));
        assert!(toml.text.lines().count() == 2, "{}", toml.text);
    }
}
