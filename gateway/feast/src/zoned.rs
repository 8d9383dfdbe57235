//! Times as text: dates of the Gregorian calendar, and instants in the zone they were written in.

use chrono::{DateTime, FixedOffset, Offset, TimeZone, Utc};
use chrono_tz::Tz;

/// How Feast writes "no time" into a timestamp.
const NOT_A_TIME: i64 = i64::MIN;

/// Year, month and day of a day since the Unix epoch (Howard Hinnant's `civil_from_days`).
pub(crate) fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// An instant in its zone, as Python's `isoformat` writes it; `None` when it is no time.
pub(crate) fn text(unix_timestamp: i64, zone: &str) -> Option<String> {
    if unix_timestamp == NOT_A_TIME {
        return None;
    }
    let instant = DateTime::<Utc>::from_timestamp(unix_timestamp, 0)?;
    let offset = match zone.parse::<Tz>() {
        Ok(tz) => tz.offset_from_utc_datetime(&instant.naive_utc()).fix(),
        Err(_) => fixed(zone).unwrap_or(Utc.fix()),
    };
    Some(instant.with_timezone(&offset).format("%Y-%m-%dT%H:%M:%S%:z").to_string())
}

/// `UTC+05:30`, `+05:30` and `+0530`, as Feast writes zones of a fixed offset.
fn fixed(zone: &str) -> Option<FixedOffset> {
    let zone = zone.trim();
    let zone = zone.strip_prefix("UTC").or(zone.strip_prefix("GMT")).unwrap_or(zone);
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits: String = rest.chars().filter(|c| *c != ':').collect();
    let (hours, minutes) = digits.split_at_checked(2).filter(|(_, minutes)| minutes.len() == 2)?;
    FixedOffset::east_opt(sign * (hours.parse::<i32>().ok()? * 3_600 + minutes.parse::<i32>().ok()? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_stand_in_their_own_zone() {
        assert_eq!(text(1_767_305_045, "Asia/Kolkata").unwrap(), "2026-01-02T03:34:05+05:30");
        assert_eq!(text(1_767_305_045, "UTC+05:30").unwrap(), "2026-01-02T03:34:05+05:30");
        assert_eq!(text(1_767_305_045, "").unwrap(), "2026-01-01T22:04:05+00:00");
        assert_eq!(text(i64::MIN, "UTC"), None);
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(-1), (1969, 12, 31));
        assert_eq!(date(20_779), (2026, 11, 22));
        assert_eq!(date(11_016), (2000, 2, 29));
    }
}
