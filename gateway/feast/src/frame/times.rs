//! A column of event times: pandas' `to_datetime`.

use std::collections::HashSet;

use super::iso;
use super::strptime::{self, Shape};
use crate::Raised;
use crate::coerce::Py;

/// Texts that say that there is no time.
const NOTHING: [&str; 7] = ["", "nat", "NaT", "NaN", "NAN", "NAT", "nan"];

/// Up to so many values pandas looks at one by one; beyond, it may look at each distinct one only.
const ONE_BY_ONE_MAX: usize = 50;

pub(super) const ADVICE: &str = "You might want to try:\n    - passing `format` if your strings have a consistent format;\n    - \
                      passing `format='ISO8601'` if your strings are all ISO8601 but not necessarily in exactly the \
                      same format;\n    - passing `format='mixed'`, and the format will be inferred for each element \
                      individually. You might want to use `dayfirst` alongside this.";

/// Microseconds since the Unix epoch, rounded down; nothing for what is missing. Numbers are nanoseconds, texts
/// without an offset are UTC.
pub(super) fn to_datetime(column: &[Py<'_>]) -> Result<Vec<Option<i64>>, Raised> {
    let micros = |nanos: i64| Some(nanos).filter(|nanos| *nanos != i64::MIN).map(|nanos| nanos.div_euclid(1_000));
    let first_text = column.iter().find_map(|value| match value {
        Py::None => None,
        Py::Str(text) if NOTHING.contains(&&**text) => None,
        other => Some(other),
    });
    let format = if let Some(Py::Str(text)) = first_text { strptime::guess(text) } else { None };
    let read = |(row, value): (usize, &Py<'_>)| match value {
        Py::None => Ok(None),
        Py::NpInt(nanos) => Ok(micros(*nanos)),
        Py::NpFloat(nanos) => {
            // What does not fit is missing, and so is NaN.
            let fits = (-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(nanos);
            Ok(if fits { micros(*nanos as i64) } else { None })
        }
        Py::NpUint(nanos) => i64::try_from(*nanos).map(micros).map_err(|_| {
            let message = format!("cannot convert input {nanos} with the unit 'ns', at position {row}");
            Raised::python("OutOfBoundsDatetime", message)
        }),
        Py::NpBool(_) => Err(Raised::python("TypeError", "dtype bool cannot be converted to datetime64[ns]")),
        Py::Str(text) if NOTHING.contains(&&**text) => Ok(None),
        Py::Str(text) => match &format {
            Some(format) => by_format(text, format),
            None => by_itself(text),
        }
        .map_err(|(class, message)| {
            let advice = if format.is_some() { format!(". {ADVICE}") } else { String::new() };
            Raised::python(class, format!("{message}, at position {}{advice}", position(column, row)))
        }),
        other => {
            let message = format!("<class '{}'> is not convertible to datetime, at position {row}", other.class());
            Err(Raised::python("TypeError", message))
        }
    };
    column.iter().enumerate().map(read).collect()
}

/// The row's number in messages. Of a long column with many texts that repeat, pandas reads each once, and counts only
/// those.
fn position(column: &[Py<'_>], row: usize) -> usize {
    fn distinct<'c>(values: &'c [Py<'_>]) -> usize {
        let text = |value: &'c Py<'_>| if let Py::Str(text) = value { Some(&**text) } else { None };
        values.iter().map(text).collect::<HashSet<Option<&str>>>().len()
    }
    let looked_at = if column.len() <= 5_000 { column.len() / 10 } else { 500 };
    let repeats = column.len() > ONE_BY_ONE_MAX && distinct(&column[..looked_at]) as f64 <= looked_at as f64 * 0.7;
    if repeats { distinct(&column[..row]) } else { row }
}

type Complaint = (&'static str, String);

fn by_format(text: &str, format: &str) -> Result<Option<i64>, Complaint> {
    let moment = strptime::parse(text, format).map_err(|message| ("ValueError", message))?;
    moment.micros().ok_or_else(|| out_of_bounds(text))
}

/// A text whose format nobody knows.
fn by_itself(text: &str) -> Result<Option<i64>, Complaint> {
    if let Some(moment) = iso::parse(text, None) {
        // What has nanoseconds is found not to fit while it is read, and told as far as it was read by then.
        let has_nanoseconds = text
            .split_once('.')
            .is_some_and(|(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count() > MICROSECOND_DIGITS);
        let told = || if has_nanoseconds { moment.text() } else { text.to_owned() };
        return moment.micros().ok_or_else(|| out_of_bounds(&told()));
    }
    let unreadable = |what: &str| ("DateParseError", format!("{what}: {text}"));
    match strptime::shape(text) {
        Shape::Moment(moment, _) => moment.micros().ok_or_else(|| out_of_bounds(text)),
        Shape::Impossible(what) => Err(unreadable(what)),
        Shape::OffsetTooLarge => Err((
            "ValueError",
            format!(
                "Parsed string \"{text}\" gives an invalid tzoffset, which must be between -timedelta(hours=24) and \
                 timedelta(hours=24)"
            ),
        )),
        Shape::Unknown if is_unlikely(text) => {
            Err(("ValueError", format!("Given date string \"{text}\" not likely a datetime")))
        }
        Shape::Unknown if text.bytes().all(|b| b.is_ascii_digit()) => Err(match text.len() {
            13 | 15.. => ("OutOfBoundsDatetime", format!("Parsing \"{text}\" to datetime overflows")),
            1 => unreadable("day is out of range for month"),
            _ => unreadable(&format!("year {text} is out of range")),
        }),
        Shape::Unknown => Err(unreadable("Unknown datetime string format, unable to parse")),
    }
}

/// Digits after the point that a number of microseconds has.
const MICROSECOND_DIGITS: usize = 6;

/// Small numbers, and letters that stand for parts of a time.
fn is_unlikely(text: &str) -> bool {
    let is_small = |text: &str| {
        let begins_as_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
        begins_as_number && text.parse::<f64>().is_ok_and(|number| number.is_finite() && number < 1_000.0)
    };
    !text.starts_with('0') && (["a", "A", "m", "M", "p", "P", "t", "T"].contains(&text) || is_small(text.trim()))
}

fn out_of_bounds(text: &str) -> Complaint {
    ("OutOfBoundsDatetime", format!("Out of bounds nanosecond timestamp: {text}"))
}
