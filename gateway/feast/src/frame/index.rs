//! How pandas prints an index of names, for the one message that holds one.

/// Columns of a line, as of a terminal nobody looks at.
const WIDTH: usize = 80;
/// More names than these are cut to the first and last ten.
const NAMES_MAX: usize = 100;
/// Under the first name, past `Index([`.
const MARGIN: &str = "\n       ";

/// `repr(pd.Index(names))`
pub(super) fn repr(names: &[&str]) -> String {
    let quoted: Vec<String> = names
        .iter()
        .map(|name| format!("'{}'", name.replace('\t', "\\t").replace('\r', "\\r").replace('\n', "\\n")))
        .collect();
    if quoted.len() <= 2 {
        return format!("Index([{}], dtype='object')", quoted.join(", "));
    }
    let is_cut = quoted.len() > NAMES_MAX;
    let mut lines = Lines { done: String::new(), line: MARGIN.to_owned() };
    let tail = if is_cut {
        for name in &quoted[..10] {
            lines.push(&format!("{name}, "), WIDTH);
        }
        lines.done.push_str(lines.line.trim_end());
        lines.done.push_str(MARGIN);
        lines.done.push_str("...");
        lines.line = MARGIN.to_owned();
        &quoted[quoted.len() - 10..]
    } else {
        &quoted[..]
    };
    if let Some((last, others)) = tail.split_last() {
        for name in others {
            lines.push(&format!("{name}, "), WIDTH);
        }
        lines.push(last, WIDTH - 2);
    }
    let text = lines.done + &lines.line + "],";
    let next = if text.chars().count() > WIDTH { "\n      " } else { " " };
    let length = if is_cut { format!(", length={}", quoted.len()) } else { String::new() };
    format!("Index([{}{next}dtype='object'{length})", text.strip_prefix(MARGIN).unwrap_or(&text))
}

struct Lines {
    done: String,
    line: String,
}

impl Lines {
    fn push(&mut self, word: &str, width: usize) {
        // A line is measured with its break and margin.
        if self.line.trim_end().chars().count() + word.trim_end().chars().count() >= width {
            self.done.push_str(self.line.trim_end());
            self.line = MARGIN.to_owned();
        }
        self.line.push_str(word);
    }
}
