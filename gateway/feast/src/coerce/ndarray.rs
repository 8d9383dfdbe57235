//! How numpy prints an array of one dimension: numbers in columns of one width, lines broken at 75 characters, long
//! arrays cut in the middle. It shows in messages, and in structs that a list was written to.

use super::number::float_repr;
use super::py::{Dtype, Py};

const WIDTH: usize = 75;
/// Longer arrays show only their ends.
const ITEMS_MAX: usize = 1_000;
/// So many of each end.
const ITEMS_AT_END: usize = 3;
/// Digits behind the point.
const PRECISION: usize = 8;

/// `str(array)`
pub(super) fn str(dtype: Dtype, items: &[Py<'_>]) -> String {
    body(dtype, items, " ", 0, WIDTH)
}

/// `repr(array)`
pub(super) fn repr(dtype: Dtype, items: &[Py<'_>]) -> String {
    const PREFIX: &str = "array(";
    let mut out = format!("{PREFIX}{}", body(dtype, items, ", ", PREFIX.len(), WIDTH - 1));
    let mut extras = Vec::new();
    if items.len() > ITEMS_MAX {
        extras.push(format!("shape=({},)", items.len()));
    }
    match dtype {
        Dtype::Object => extras.push("dtype=object".to_owned()),
        Dtype::Int if items.is_empty() => extras.push("dtype=int64".to_owned()),
        Dtype::Float if items.is_empty() => extras.push("dtype=float64".to_owned()),
        Dtype::Bool if items.is_empty() => extras.push("dtype=bool".to_owned()),
        _ => {}
    }
    if !extras.is_empty() {
        out.push(',');
        let extras = extras.join(", ");
        let last_line = out.rsplit('\n').next().unwrap_or_default().chars().count();
        if last_line + extras.len() + 2 > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(PREFIX.len()));
        } else {
            out.push(' ');
        }
        out.push_str(&extras);
    }
    out.push(')');
    out
}

fn body(dtype: Dtype, items: &[Py<'_>], separator: &str, indent: usize, width: usize) -> String {
    let is_cut = items.len() > ITEMS_MAX;
    let shown: Vec<&Py<'_>> = match is_cut {
        true => items[..ITEMS_AT_END].iter().chain(&items[items.len() - ITEMS_AT_END..]).collect(),
        false => items.iter().collect(),
    };
    let mut words = words(dtype, &shown);
    if is_cut {
        words.insert(ITEMS_AT_END, "...".to_owned());
    }
    let mut lines =
        Lines { done: String::new(), line: " ".repeat(indent + 1), prefix: " ".repeat(indent + 1), width: width - 1 };
    let last = words.len();
    for (i, word) in words.iter().enumerate() {
        lines.push(word);
        if i + 1 < last {
            lines.line.push_str(separator);
        }
    }
    let text = lines.done + &lines.line;
    format!("[{}]", text.get(indent + 1..).unwrap_or_default())
}

struct Lines {
    done: String,
    line: String,
    prefix: String,
    width: usize,
}

impl Lines {
    /// Adds a word, on the next line where it is too long for this one.
    fn push(&mut self, word: &str) {
        let length = |text: &str| text.chars().count();
        let parts: Vec<&str> = word.split('\n').collect();
        let longest = parts.iter().map(|part| length(part)).max().unwrap_or(0);
        let wraps = length(&self.line) + longest > self.width && length(&self.line) > self.prefix.len();
        if wraps {
            self.end_line();
            self.line.clone_from(&self.prefix);
        }
        let Some((first, rest)) = parts.split_first() else { return };
        let indent = " ".repeat(length(&self.line));
        self.line.push_str(first);
        for part in rest {
            self.end_line();
            self.line = format!("{indent}{part}");
        }
        if let Some(last) = rest.last() {
            self.line.push_str(&" ".repeat(longest - length(last)));
        }
    }

    fn end_line(&mut self) {
        self.done.push_str(self.line.trim_end());
        self.done.push('\n');
    }
}

fn words(dtype: Dtype, items: &[&Py<'_>]) -> Vec<String> {
    match dtype {
        Dtype::Object => items.iter().map(|item| item.repr()).collect(),
        Dtype::Bool => items.iter().map(|item| format!("{:>5}", item.str())).collect(),
        Dtype::Int => {
            let texts: Vec<String> = items.iter().map(|item| item.str().into_owned()).collect();
            let width = texts.iter().map(String::len).max().unwrap_or(0);
            texts.into_iter().map(|text| format!("{text:>width$}")).collect()
        }
        Dtype::Float => {
            let float = |item: &&Py<'_>| if let Py::NpFloat(f) = item { *f } else { f64::NAN };
            floats(&items.iter().map(float).collect::<Vec<_>>())
        }
    }
}

/// Floats with their points in one column, and exponents where they differ much in size.
fn floats(floats: &[f64]) -> Vec<String> {
    let sizes = || floats.iter().map(|f| f.abs()).filter(|f| f.is_finite() && *f != 0.0);
    let largest = sizes().fold(0.0, f64::max);
    let smallest = sizes().fold(f64::INFINITY, f64::min);
    let with_exponent = sizes().next().is_some() && (largest >= 1e8 || smallest < 1e-4 || largest / smallest > 1_000.0);
    let parts: Vec<Option<[String; 3]>> = floats
        .iter()
        .map(|f| f.is_finite().then(|| if with_exponent { scientific(*f, None) } else { positional(*f) }))
        .collect();
    let width = |place: usize| parts.iter().flatten().map(|p| p[place].len()).max().unwrap_or(0);
    let (fraction, exponent) = (width(1), width(2));
    let behind = 1 + fraction + exponent;
    let others = floats.iter().filter(|f| !f.is_finite()).map(|f| float_repr(*f).len().saturating_sub(behind));
    let whole = others.fold(width(0), usize::max);
    let word = |(float, part): (&f64, Option<[String; 3]>)| match part {
        None => format!("{:>total$}", float_repr(*float), total = whole + behind),
        Some(_) if with_exponent => {
            let [w, f, e] = scientific(*float, Some(fraction));
            format!("{w:>whole$}.{f}{}", longer(&e, exponent))
        }
        Some([w, f, _]) => format!("{w:>whole$}.{f:<fraction$}"),
    };
    floats.iter().zip(parts.clone()).map(word).collect()
}

/// An exponent (`e+05`) with as many digits as the longest.
fn longer(exponent: &str, width: usize) -> String {
    let (sign, digits) = exponent.split_at(2.min(exponent.len()));
    format!("{sign}{digits:0>width$}", width = width.saturating_sub(2))
}

/// The digits before and behind the point: the fewest that tell the float, but no more than numpy shows.
fn positional(float: f64) -> [String; 3] {
    let shortest = format!("{float}");
    let (whole, fraction) = shortest.split_once('.').unwrap_or((&shortest, ""));
    if fraction.len() <= PRECISION {
        return [whole.to_owned(), fraction.to_owned(), String::new()];
    }
    let rounded = format!("{float:.PRECISION$}");
    let (whole, fraction) = rounded.split_once('.').unwrap_or((&rounded, ""));
    [whole.to_owned(), fraction.trim_end_matches('0').to_owned(), String::new()]
}

/// The same with an exponent, and with exactly so many digits behind the point if that is said.
fn scientific(float: f64, digits: Option<usize>) -> [String; 3] {
    let fewest = format!("{float:e}");
    let enough = fewest.split('e').next().unwrap_or_default().split('.').nth(1).unwrap_or_default().len();
    let text = match digits {
        Some(digits) => format!("{float:.digits$e}"),
        None if enough > PRECISION => format!("{float:.PRECISION$e}"),
        None => fewest,
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let exponent = format!("e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    let fraction = if digits.is_some() { fraction } else { fraction.trim_end_matches('0') };
    [whole.to_owned(), fraction.to_owned(), exponent]
}
