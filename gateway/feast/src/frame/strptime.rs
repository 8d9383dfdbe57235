//! Formats of points in time: which one a text has, and reading others by it. pandas guesses a format from the first
//! text of a column, and holds all others to it.
//!
//! What can be guessed here are numbers: years, months and days in their usual orders, a time, an offset. Names of
//! months and days, and times of a.m. and p.m., which pandas reads with the help of dateutil, are not.

use super::iso::{self, Moment, days_of_month};

/// What a text looks like.
pub(super) enum Shape {
    /// A point in time, in these pieces.
    Moment(Moment, Vec<String>),
    /// A point in time that does not exist: dateutil's words.
    Impossible(&'static str),
    /// An offset of more than a day.
    OffsetTooLarge,
    /// Something else.
    Unknown,
}

/// The format of a text, where pandas can tell.
pub(super) fn guess(text: &str) -> Option<String> {
    let Shape::Moment(moment, mut tokens) = shape(text) else { return None };
    if let Some(offset) = moment.offset {
        let at = match tokens.as_slice() {
            [.., zone] if zone == "Z" => Some(1),
            [.., sign, _] if is_sign(sign) => Some(2),
            [.., sign, _, _, _] if is_sign(sign) => Some(4),
            _ => None,
        };
        if let Some(at) = at {
            tokens.truncate(tokens.len() - at);
            let sign = if offset < 0 { '-' } else { '+' };
            tokens.push(format!("{sign}{:02}{:02}", offset.abs() / 60, offset.abs() % 60));
        }
    }
    let mut format: Vec<Option<&str>> = vec![None; tokens.len()];
    let mut found = String::new();
    for (attributes, directive, text, width) in pieces(&moment) {
        if attributes.chars().any(|attribute| found.contains(attribute)) {
            continue;
        }
        let hit = tokens.iter().zip(&format).position(|(t, f)| f.is_none() && filled(t, width) == text);
        if let Some(hit) = hit {
            format[hit] = Some(directive);
            found.push_str(attributes);
        }
    }
    let is_complete = ["Y", "m", "d"].iter().all(|attribute| found.contains(attribute));
    let is_month = format == [Some("%Y"), None, Some("%m")] && tokens.get(1).is_some_and(|t| t == "-");
    if !is_complete && !is_month && format != [Some("%Y")] {
        return None;
    }
    let mut out = String::new();
    for (directive, token) in format.into_iter().zip(&tokens) {
        match directive {
            Some(directive) => out.push_str(directive),
            None if token.parse::<f64>().is_ok() => return None,
            None => out.push_str(token),
        }
    }
    let read = parse(text, &out).ok()?;
    read.micros().map(|_| out)
}

fn is_sign(token: &str) -> bool {
    token == "+" || token == "-"
}

/// What may stand in a text, most specific first: which attributes it tells, its directive, its text in this moment,
/// and how many digits a shorter number is filled up to.
fn pieces(m: &Moment) -> Vec<(&'static str, &'static str, String, usize)> {
    let (year, month, day) = (format!("{:04}", m.year), format!("{:02}", m.month), format!("{:02}", m.day));
    let (hour, minute, second) = (format!("{:02}", m.hour), format!("{:02}", m.minute), format!("{:02}", m.second));
    let mut pieces = vec![
        ("YmdHMS", "%Y%m%d%H%M%S", format!("{year}{month}{day}{hour}{minute}{second}"), 0),
        ("YmdHM", "%Y%m%d%H%M", format!("{year}{month}{day}{hour}{minute}"), 0),
        ("YmdH", "%Y%m%d%H", format!("{year}{month}{day}{hour}"), 0),
        ("Ymd", "%Y%m%d", format!("{year}{month}{day}"), 0),
        ("HMS", "%H%M%S", format!("{hour}{minute}{second}"), 0),
        ("HM", "%H%M", format!("{hour}{minute}"), 0),
        ("Y", "%Y", year, 0),
        ("m", "%m", month, 2),
        ("d", "%d", day, 2),
        ("H", "%H", hour, 2),
        ("M", "%M", minute, 2),
        ("S", "%S", second.clone(), 2),
        ("Sf", "%S.%f", format!("{second}.{:06}", m.nanosecond / 1_000), 0),
    ];
    if let Some(offset) = m.offset {
        let sign = if offset < 0 { '-' } else { '+' };
        pieces.push(("z", "%z", format!("{sign}{:02}{:02}", offset.abs() / 60, offset.abs() % 60), 0));
        if offset == 0 {
            pieces.push(("z", "%Z", "UTC".to_owned(), 0));
        }
    }
    pieces
}

/// A number of a text with zeros in front, or six digits of a fraction.
fn filled(token: &str, width: usize) -> String {
    match token.split_once('.') {
        Some((whole, fraction)) if !whole.is_empty() && !fraction.is_empty() => {
            let whole = whole.trim_start_matches('0');
            format!("{whole:0>2}.{:0<6.6}", fraction)
        }
        _ => format!("{token:0>width$}"),
    }
}

/// Takes a text apart.
pub(super) fn shape(text: &str) -> Shape {
    let tokens = tokens(text);
    let pieces: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let begin = pieces.iter().take_while(|piece| **piece == " ").count();
    let end = pieces.iter().rev().take_while(|piece| **piece == " ").count();
    let pieces = pieces.get(begin..pieces.len() - end).unwrap_or_default();
    let Some((mut moment, rest)) = date(pieces) else { return Shape::Unknown };
    let Some(zone) = time(&mut moment, rest) else { return Shape::Unknown };
    let Some(offset) = offset(zone) else { return Shape::Unknown };
    if moment.year == 0 {
        Shape::Impossible("year 0 is out of range")
    } else if !(1..=12).contains(&moment.month) {
        Shape::Impossible("month must be in 1..12")
    } else if moment.day < 1 || moment.day > days_of_month(moment.year, moment.month) {
        Shape::Impossible("day is out of range for month")
    } else if moment.hour > 23 {
        Shape::Impossible("hour must be in 0..23")
    } else if moment.minute > 59 {
        Shape::Impossible("minute must be in 0..59")
    } else if moment.second > 59 {
        Shape::Impossible("second must be in 0..59")
    } else if offset.is_some_and(|offset| offset.abs() >= 24 * 60) {
        Shape::OffsetTooLarge
    } else {
        moment.offset = offset;
        Shape::Moment(moment, tokens)
    }
}

/// Runs of letters, numbers (with a fraction), and every other character by itself; all blanks look alike.
fn tokens(text: &str) -> Vec<String> {
    let kind = |c: char| {
        if c.is_ascii_digit() {
            1
        } else if c.is_alphabetic() {
            2
        } else {
            0
        }
    };
    let mut tokens: Vec<String> = Vec::new();
    let mut last = 0;
    for c in text.chars() {
        let this = kind(c);
        match tokens.last_mut() {
            Some(token) if this != 0 && this == last => token.push(c),
            _ if c.is_whitespace() => tokens.push(" ".to_owned()),
            _ => tokens.push(c.to_string()),
        }
        last = this;
    }
    // A point between two numbers makes one of them, unless there are more points.
    if tokens.iter().filter(|t| *t == ".").count() == 1
        && let Some(point) = tokens.iter().position(|t| t == ".").filter(|p| *p > 0 && p + 1 < tokens.len())
        && [point - 1, point + 1].iter().all(|i| tokens[*i].bytes().all(|b| b.is_ascii_digit()))
    {
        let fraction = tokens.drain(point..point + 2).collect::<String>();
        tokens[point - 1].push_str(&fraction);
    }
    tokens
}

/// A number of this many digits.
fn digits(token: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let fits = lengths.contains(&token.len()) && token.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| token.parse().ok()).flatten()
}

fn date<'t, 's>(tokens: &'t [&'s str]) -> Option<(Moment, &'t [&'s str])> {
    match tokens {
        [first, separator @ ("-" | "/" | "."), second, again, third, rest @ ..] if separator == again => {
            let second = digits(second, 1..=2)?;
            let (year, month, day) = match (digits(first, 4..=4), digits(third, 1..=2)) {
                (Some(year), Some(day)) => (year, second, day),
                // The American order, unless the first can be no month.
                _ => match (digits(first, 1..=2)?, digits(third, 4..=4)?) {
                    (day @ 13.., year) => (year, second, day),
                    (month, year) => (year, month, second),
                },
            };
            Some((Moment { month, day, ..Moment::of_year(year) }, rest))
        }
        [year, "-", month] => {
            Some((Moment { month: digits(month, 2..=2)?, ..Moment::of_year(digits(year, 4..=4)?) }, &[]))
        }
        [year] if year.len() == 4 => Some((Moment::of_year(digits(year, 4..=4)?), &[])),
        [all, rest @ ..] if matches!(all.len(), 8 | 12 | 14) => {
            let two = |at: usize| digits(all.get(at..at + 2)?, 2..=2);
            let mut moment = Moment::of_year(digits(all.get(..4)?, 4..=4)?);
            (moment.month, moment.day) = (two(4)?, two(6)?);
            if all.len() > 8 {
                (moment.hour, moment.minute) = (two(8)?, two(10)?);
                moment.second = if all.len() == 14 { two(12)? } else { 0 };
                return rest.is_empty().then_some((moment, rest));
            }
            Some((moment, rest))
        }
        _ => None,
    }
}

/// The time of day, where there is one, and what comes after it.
fn time<'t, 's>(moment: &mut Moment, tokens: &'t [&'s str]) -> Option<&'t [&'s str]> {
    let tokens = match tokens {
        [] => return Some(tokens),
        ["T", rest @ ..] => rest,
        [" ", rest @ ..] => &rest[rest.iter().take_while(|token| **token == " ").count()..],
        _ => return None,
    };
    match tokens {
        [hour, ":", minute, rest @ ..] => {
            moment.hour = digits(hour, 1..=2)?;
            moment.minute = digits(minute, 1..=2)?;
            match rest {
                [":", second, rest @ ..] => {
                    let (whole, fraction) = second.split_once('.').unwrap_or((second, "0"));
                    moment.second = digits(whole, 1..=2)?;
                    moment.nanosecond = format!("{fraction:0<9.9}").parse().ok()?;
                    Some(rest)
                }
                rest => Some(rest),
            }
        }
        [all, rest @ ..] if all.len() == 6 || (matches!(all.len(), 2 | 4) && rest.is_empty()) => {
            let two = |at: usize| all.get(at..at + 2).map_or(Some(0), |two| digits(two, 2..=2));
            (moment.hour, moment.minute, moment.second) = (two(0)?, two(2)?, two(4)?);
            Some(rest)
        }
        _ => None,
    }
}

/// The offset in minutes at the end of a text, or none; nothing where something else stands there.
fn offset(tokens: &[&str]) -> Option<Option<i64>> {
    let tokens = match tokens {
        [" ", rest @ ..] if !rest.is_empty() => rest,
        tokens => tokens,
    };
    let (sign, minutes) = match tokens {
        [] => return Some(None),
        ["Z" | "UTC"] => return Some(Some(0)),
        [sign @ ("+" | "-"), hours, ":", minutes] => (sign, digits(hours, 1..=2)? * 60 + digits(minutes, 1..=2)?),
        [sign @ ("+" | "-"), both] if both.len() == 4 => {
            let both = digits(both, 4..=4)?;
            (sign, both / 100 * 60 + both % 100)
        }
        [sign @ ("+" | "-"), hours] => (sign, digits(hours, 1..=2)? * 60),
        _ => return None,
    };
    Some(Some(if *sign == "-" { -minutes } else { minutes }))
}

/// Reads a text by a format; otherwise the complaint.
pub(super) fn parse(text: &str, format: &str) -> Result<Moment, String> {
    if is_iso(format)
        && let Some(moment) = iso::parse(text, Some(format))
    {
        return Ok(moment);
    }
    let chars: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = format.chars().collect();
    let mut moment = Moment::of_year(1900);
    let Some(end) = matches(&chars, &pattern, 0, &mut moment) else {
        return Err(format!("time data \"{text}\" doesn't match format \"{format}\""));
    };
    if end < chars.len() {
        let rest: String = chars[end..].iter().collect();
        return Err(format!("unconverted data remains when parsing with format \"{format}\": \"{rest}\""));
    }
    if moment.day > days_of_month(moment.year, moment.month) {
        return Err("day is out of range for month".to_owned());
    }
    if let Some(offset) = moment.offset.filter(|offset| offset.abs() >= 24 * 60) {
        let (days, seconds) = (offset.div_euclid(24 * 60), offset.rem_euclid(24 * 60) * 60);
        let seconds = if seconds > 0 { format!(", seconds={seconds}") } else { String::new() };
        return Err(format!(
            "offset must be a timedelta strictly between -timedelta(hours=24) and timedelta(hours=24), not \
             datetime.timedelta(days={days}{seconds})."
        ));
    }
    Ok(moment)
}

/// Whether pandas' fast parser knows the format: the beginning of an ISO 8601 one.
fn is_iso(format: &str) -> bool {
    let starts = |separator: &str, between: &str, end: &str| {
        format!("%Y{separator}%m{separator}%d{between}%H:%M:%S{end}").starts_with(format)
    };
    format != "%Y%m"
        && [" ", "/", "\\", "-", ".", ""].iter().any(|separator| {
            [" ", "T"]
                .iter()
                .any(|between| ["", "%z", ".%f", ".%f%z"].iter().any(|end| starts(separator, between, end)))
        })
}

/// Matches the pattern from a place on, longest alternatives first; the place behind the match.
fn matches(text: &[char], pattern: &[char], at: usize, moment: &mut Moment) -> Option<usize> {
    let digit = |i: usize| text.get(i).and_then(|c| c.to_digit(10)).map(i64::from);
    let number = |len: usize| (0..len).try_fold(0, |n, i| Some(n * 10 + digit(at + i)?));
    let (directive, rest) = match pattern {
        [] => return Some(at),
        ['%', directive, rest @ ..] => (*directive, rest),
        [' ', rest @ ..] => {
            let rest = &rest[rest.iter().take_while(|c| **c == ' ').count()..];
            let blanks = text[at..].iter().take_while(|c| c.is_whitespace()).count();
            return (1..=blanks).rev().find_map(|n| matches(text, rest, at + n, moment));
        }
        [literal, rest @ ..] => {
            let same = text.get(at)?.to_lowercase().eq(literal.to_lowercase());
            return if same { matches(text, rest, at + 1, moment) } else { None };
        }
    };
    if directive == 'z' || directive == 'Z' {
        let (len, offset) = if directive == 'z' { numeric_zone(text, at)? } else { named_zone(text, at)? };
        moment.offset = Some(offset);
        return matches(text, rest, at + len, moment);
    }
    let (lengths, range) = match directive {
        'Y' => (4..=4, 0..=9999),
        'f' => (1..=9, 0..=i64::MAX),
        'm' => (1..=2, 1..=12),
        'd' => (1..=2, 1..=31),
        'H' => (1..=2, 0..=23),
        'M' => (1..=2, 0..=59),
        _ => (1..=2, 0..=61),
    };
    let (shortest, longest) = lengths.into_inner();
    (shortest..=longest).rev().find_map(|len| {
        let value = number(len).filter(|value| range.contains(value))?;
        let end = matches(text, rest, at + len, moment)?;
        match directive {
            'Y' => moment.year = value,
            'f' => moment.nanosecond = value * 10_i64.pow(9 - len as u32),
            'm' => moment.month = value,
            'd' => moment.day = value,
            'H' => moment.hour = value,
            'M' => moment.minute = value,
            _ => moment.second = value,
        }
        Some(end)
    })
}

/// `+hhmm`, `+hh:mm` or `Z`: how long, and the minutes. Seconds may follow, with a fraction; they do not count.
fn numeric_zone(text: &[char], at: usize) -> Option<(usize, i64)> {
    let two = |i: usize| Some(i64::from(text.get(i)?.to_digit(10)? * 10 + text.get(i + 1)?.to_digit(10)?));
    let sign = match text.get(at)? {
        'Z' => return Some((1, 0)),
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let colon = usize::from(text.get(at + 3) == Some(&':'));
    let (hours, minutes) = (two(at + 1)?, two(at + 3 + colon).filter(|minutes| *minutes < 60)?);
    let mut len = 5 + colon;
    let colon = usize::from(text.get(at + len) == Some(&':'));
    if two(at + len + colon).is_some_and(|seconds| seconds < 60) {
        len += 2 + colon;
        let after_point = text.get(at + len + 1..).unwrap_or_default();
        let fraction = after_point.iter().take(6).take_while(|c| c.is_ascii_digit()).count();
        if text.get(at + len) == Some(&'.') && fraction > 0 {
            len += 1 + fraction;
        }
    }
    Some((len, sign * (hours * 60 + minutes)))
}

fn named_zone(text: &[char], at: usize) -> Option<(usize, i64)> {
    let name: String = text.get(at..at + 3)?.iter().collect();
    (name.eq_ignore_ascii_case("utc") || name.eq_ignore_ascii_case("gmt")).then_some((3, 0))
}
