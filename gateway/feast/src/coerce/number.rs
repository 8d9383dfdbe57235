//! Numbers as Python reads and writes them: `int()`, `float()` and the text of a float.

use std::borrow::Cow;

use super::{py::Py, type_error};
use crate::{Raised, repr};

/// More digits than these Python refuses to convert from or to text.
const INT_DIGITS_MAX: usize = 4300;

/// `int(x)`: `Py::Int`, or `Py::Big` outside of `i64`.
pub(super) fn int(value: &Py<'_>) -> Result<Py<'static>, Raised> {
    match value {
        Py::Bool(b) | Py::NpBool(b) => Ok(Py::Int(i64::from(*b))),
        Py::Int(i) | Py::NpInt(i) => Ok(Py::Int(*i)),
        Py::NpUint(_) => int(&value.to_python()),
        Py::Big(digits) => Ok(Py::Big(Cow::Owned(digits.clone().into_owned()))),
        Py::Float(f) | Py::NpFloat(f) => int_of_float(*f),
        Py::Str(s) => int_of_text(s, || repr(s)),
        Py::Bytes(b) => int_of_text(&String::from_utf8_lossy(b), || value.repr()),
        Py::Array(_, items) if items.len() == 1 => {
            Err(type_error("only 0-dimensional arrays can be converted to Python scalars"))
        }
        other => Err(type_error(format!(
            "int() argument must be a string, a bytes-like object or a real number, not '{}'",
            other.class()
        ))),
    }
}

/// `float(x)`
pub(super) fn float(value: &Py<'_>) -> Result<f64, Raised> {
    match value {
        Py::Bool(b) | Py::NpBool(b) => Ok(f64::from(u8::from(*b))),
        Py::Int(i) | Py::NpInt(i) => Ok(*i as f64),
        Py::NpUint(u) => Ok(*u as f64),
        Py::Big(digits) => float_of_big(digits),
        Py::Float(f) | Py::NpFloat(f) => Ok(*f),
        Py::Str(s) => {
            float_of_text(s).ok_or_else(|| Raised::value(format!("could not convert string to float: {}", repr(s))))
        }
        Py::Bytes(b) => float_of_text(&String::from_utf8_lossy(b))
            .ok_or_else(|| Raised::value(format!("could not convert string to float: {}", value.repr()))),
        other => {
            Err(type_error(format!("float() argument must be a string or a real number, not '{}'", other.class())))
        }
    }
}

/// The nearest float of an `int` beyond `i64`.
pub(crate) fn float_of_big(digits: &str) -> Result<f64, Raised> {
    match digits.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(float),
        _ => Err(Raised::python("OverflowError", "int too large to convert to float")),
    }
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{float}");
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

fn int_of_float(float: f64) -> Result<Py<'static>, Raised> {
    if float.is_nan() {
        return Err(Raised::value("cannot convert float NaN to integer"));
    }
    if float.is_infinite() {
        return Err(Raised::python("OverflowError", "cannot convert float infinity to integer"));
    }
    let whole = float.trunc();
    // 2^63 is a float, i64::MAX is not: the upper end is open.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&whole) {
        Ok(Py::Int(whole as i64))
    } else {
        Ok(Py::Big(Cow::Owned(format!("{whole:.0}"))))
    }
}

fn int_of_text(text: &str, repr: impl Fn() -> String) -> Result<Py<'static>, Raised> {
    let bad = || {
        let shown: String = repr().chars().take(200).collect();
        Raised::value(format!("invalid literal for int() with base 10: {shown}"))
    };
    let text = ascii(text);
    let text = text.trim_matches(is_c_space);
    let (negative, body) = match text.strip_prefix(['+', '-']) {
        Some(body) => (text.starts_with('-'), body),
        None => (false, text),
    };
    // What follows the digits is looked at when they are not too many.
    let number = body.split(|c: char| !c.is_ascii_digit() && c != '_').next().unwrap_or_default();
    if number.split('_').any(str::is_empty) {
        return Err(bad());
    }
    let digits: Cow<'_, str> =
        if number.contains('_') { Cow::Owned(number.replace('_', "")) } else { Cow::Borrowed(number) };
    if digits.len() > INT_DIGITS_MAX {
        return Err(too_many_digits(digits.len()));
    }
    if number.len() < body.len() {
        return Err(bad());
    }
    let digits = digits.trim_start_matches('0');
    let signed = format!("{}{}", if negative { "-" } else { "" }, if digits.is_empty() { "0" } else { digits });
    Ok(signed.parse().map_or_else(|_| Py::Big(Cow::Owned(signed)), Py::Int))
}

/// Python's refusal to convert very long numbers, whose cost grows with the square of their length.
pub(super) fn too_many_digits(digits: usize) -> Raised {
    Raised::value(format!(
        "Exceeds the limit ({INT_DIGITS_MAX} digits) for integer string conversion: value has {digits} digits; \
         use sys.set_int_max_str_digits() to increase the limit"
    ))
}

/// The longest run of digits that Python makes an `int` of.
pub(super) fn digits_are_too_many(digits: usize) -> bool {
    digits > INT_DIGITS_MAX
}

fn float_of_text(text: &str) -> Option<f64> {
    let text = ascii(text);
    let text = text.trim_matches(is_c_space);
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('_') {
        let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
        if at == 0 || !digit(at - 1) || !digit(at + 1) {
            return None;
        }
    }
    // What Rust reads is what Python reads: digits with a point and an exponent, inf, infinity, nan, in any case.
    if text.contains('_') { text.replace('_', "").parse().ok() } else { text.parse().ok() }
}

/// Spaces and decimal digits of any script as ASCII, as Python does before it reads a number.
fn ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .map(|c| match c {
                c if c.is_ascii() => c,
                c if c.is_whitespace() => ' ',
                c => decimal(c).map_or('?', |d| char::from(b'0' + d)),
            })
            .collect(),
    )
}

fn is_c_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// The value of a decimal digit of any script (Unicode's Nd, as of Python 3.11).
fn decimal(c: char) -> Option<u8> {
    let code = c as u32;
    let next = ZEROS.partition_point(|&zero| zero <= code);
    let zero = ZEROS.get(next.checked_sub(1)?)?;
    u8::try_from(code - zero).ok().filter(|d| *d < 10)
}

/// The zeros beyond ASCII; each is followed by its nine other digits.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0,
    0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0,
    0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];
