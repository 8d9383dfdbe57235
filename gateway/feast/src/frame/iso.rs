//! Instants as ISO 8601 text, with the liberties that pandas' fast parser takes: one digit where two are usual, other
//! separators, blanks at the ends.

/// What a text says about a point in time; what it leaves out is the least there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
    pub(super) nanosecond: i64,
    /// Minutes east of Greenwich, where the text has an offset.
    pub(super) offset: Option<i64>,
}

impl Moment {
    /// Midnight of a year's first day.
    pub(super) const fn of_year(year: i64) -> Self {
        Self { year, month: 1, day: 1, hour: 0, minute: 0, second: 0, nanosecond: 0, offset: None }
    }

    /// `2026-01-02 03:04:05`, without what is smaller.
    pub(super) fn text(&self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }

    /// Microseconds since the Unix epoch, rounded down. Nothing where the nanoseconds do not fit 64 bits; a point in
    /// time that is pandas' sign for a missing one is `Some(None)`.
    pub(super) fn micros(&self) -> Option<Option<i64>> {
        let days = i128::from(days(self.year, self.month, self.day));
        let seconds = days * 86_400 + i128::from(self.hour * 3_600 + self.minute * 60 + self.second);
        let local = i64::try_from(seconds * 1_000_000_000 + i128::from(self.nanosecond)).ok()?;
        if local == i64::MIN {
            return Some(None);
        }
        let nanos = local.checked_sub(self.offset.unwrap_or(0) * 60_000_000_000)?;
        Some(Some(nanos.div_euclid(1_000)))
    }
}

/// How many days a month has.
pub(super) fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// The day's number, counted from the Unix epoch (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Reads a text; with a format, each piece of the text must be the format's next.
pub(super) fn parse(text: &str, format: Option<&str>) -> Option<Moment> {
    let mut reader = Reader { text: text.as_bytes(), format };
    let moment = reader.moment()?;
    (reader.text.is_empty() && reader.format.is_none_or(str::is_empty)).then_some(moment)
}

struct Reader<'t> {
    text: &'t [u8],
    /// What is left of it.
    format: Option<&'t str>,
}

impl Reader<'_> {
    fn moment(&mut self) -> Option<Moment> {
        self.blanks()?;
        self.expect("%Y")?;
        let mut year = 0;
        for _ in 0..4 {
            year = year * 10 + self.digit()?;
        }
        let mut moment = Moment::of_year(year);
        if self.text.is_empty() {
            return Some(moment);
        }
        let separator = self.text.first().copied().filter(|c| b"-./\\ ".contains(c));
        self.separator(separator)?;
        moment.month = self.number("%m", separator.is_some(), 1..=12)?;
        if self.text.is_empty() {
            // Six digits are two of the year, the month and the day to everybody else.
            return separator.map(|_| moment);
        }
        self.separator(separator)?;
        moment.day = self.number("%d", separator.is_some(), 1..=days_of_month(moment.year, moment.month))?;
        if self.text.is_empty() {
            return Some(moment);
        }
        self.separator(self.text.first().copied().filter(|c| b"T ".contains(c)).or(Some(b'T')))?;
        self.time(&mut moment)?;
        self.zone(&mut moment)?;
        Some(moment)
    }

    fn time(&mut self, moment: &mut Moment) -> Option<()> {
        let before = self.text.len();
        moment.hour = self.number("%H", true, 0..=23)?;
        let two_digits = before - self.text.len() == 2;
        let colon = self.text.first().copied().filter(|c| *c == b':');
        if colon.is_none() && !self.digit_is_next() {
            return two_digits.then_some(());
        }
        self.separator(colon)?;
        moment.minute = self.number("%M", colon.is_some(), 0..=59)?;
        let again = colon.is_some() && self.text.first() == Some(&b':');
        if !again && (colon.is_some() || !self.digit_is_next()) {
            return Some(());
        }
        self.separator(colon)?;
        moment.second = self.number("%S", colon.is_some(), 0..=59)?;
        if self.text.first() == Some(&b'.') {
            self.text = &self.text[1..];
            self.expect(".")?;
            self.expect("%f")?;
            // Nine digits count, as many again may stand there.
            let mut digits = 0;
            while digits < 18 && self.digit_is_next() {
                let digit = self.digit()?;
                moment.nanosecond += if digits < 9 { digit * 10_i64.pow(8 - digits) } else { 0 };
                digits += 1;
            }
        }
        Some(())
    }

    fn zone(&mut self, moment: &mut Moment) -> Option<()> {
        self.blanks()?;
        match self.text.first() {
            Some(b'Z') => {
                self.text = &self.text[1..];
                self.expect("%z")?;
                moment.offset = Some(0);
            }
            Some(sign @ (b'+' | b'-')) => {
                let sign = if *sign == b'-' { -1 } else { 1 };
                self.text = &self.text[1..];
                self.expect("%z")?;
                let hours = self.one_or_two()?;
                let minutes = if self.text.is_empty() {
                    0
                } else {
                    self.text = self.text.strip_prefix(b":").unwrap_or(self.text);
                    self.one_or_two()?
                };
                if hours >= 24 || minutes >= 60 {
                    return None;
                }
                moment.offset = Some(sign * (hours * 60 + minutes));
            }
            _ => {}
        }
        self.blanks()
    }

    fn blanks(&mut self) -> Option<()> {
        while matches!(self.text.first(), Some(b' ' | b'\t'..=b'\r')) {
            self.text = &self.text[1..];
            self.expect(" ")?;
        }
        Some(())
    }

    /// Takes what was seen, which must not be the last of the text and must be the format's.
    fn separator(&mut self, separator: Option<u8>) -> Option<()> {
        let Some(separator) = separator else { return Some(()) };
        self.text = self.text.strip_prefix(&[separator]).filter(|rest| !rest.is_empty())?;
        self.expect(char::from(separator).encode_utf8(&mut [0; 4]))
    }

    /// Two digits, or one where a separator would tell.
    fn number(&mut self, directive: &str, one_will_do: bool, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        self.expect(directive)?;
        let mut number = self.digit()?;
        if self.digit_is_next() {
            number = number * 10 + self.digit()?;
        } else if !one_will_do {
            return None;
        }
        range.contains(&number).then_some(number)
    }

    fn one_or_two(&mut self) -> Option<i64> {
        let first = self.digit()?;
        if self.digit_is_next() { Some(first * 10 + self.digit()?) } else { Some(first) }
    }

    fn digit_is_next(&self) -> bool {
        self.text.first().is_some_and(u8::is_ascii_digit)
    }

    fn digit(&mut self) -> Option<i64> {
        let (digit, rest) = self.text.split_first()?;
        self.text = rest;
        digit.is_ascii_digit().then(|| i64::from(digit - b'0'))
    }

    fn expect(&mut self, piece: &str) -> Option<()> {
        if let Some(format) = self.format {
            self.format = Some(format.strip_prefix(piece)?);
        }
        Some(())
    }
}
