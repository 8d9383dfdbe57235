//! How long a caller waits: `grpc-timeout` or `x-request-timeout-ms`, the lesser if it sends both. A deadline
//! that cannot be read is refused rather than ignored: the caller believes it has one.

use std::time::Duration;

use axum::http::HeaderMap;
use weir_domain::{Refusal, Violation};

const GRPC_TIMEOUT: &str = "grpc-timeout";
const REQUEST_TIMEOUT_MS: &str = "x-request-timeout-ms";

/// The caller's own deadline, if it gave one.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let grpc = read_one(headers, GRPC_TIMEOUT, parse_grpc, "1 to 8 digits and a unit (H, M, S, m, u, n)")?;
    let http = read_one(headers, REQUEST_TIMEOUT_MS, parse_ms, "a whole number of milliseconds")?;
    Ok(match (grpc, http) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    })
}

fn read_one(
    headers: &HeaderMap,
    name: &'static str,
    parse: fn(&str) -> Option<Duration>,
    wants: &str,
) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str().ok().and_then(parse) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Refusal::Invalid(vec![Violation::new(name, format!("is malformed: {wants} is expected"))])),
    }
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol over HTTP/2.
fn parse_grpc(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn parse_ms(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than fit is a very patient caller, not an error.
    Some(text.parse().map_or(Duration::MAX, Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn the_lesser_of_both_headers_counts() {
        let both = headers(&[("grpc-timeout", "20m"), ("x-request-timeout-ms", "7")]);
        assert_eq!(read(&both), Ok(Some(Duration::from_millis(7))));
        assert_eq!(read(&headers(&[("grpc-timeout", "99999999H")])).unwrap().unwrap().as_secs(), 99_999_999 * 3_600);
        assert_eq!(read(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn a_malformed_deadline_is_refused() {
        for bad in ["", "m", "1", "1x", "-1m", "123456789m", "1.5S", "1mm", "é"] {
            let mut one = HeaderMap::new();
            one.insert(GRPC_TIMEOUT, axum::http::HeaderValue::from_bytes(bad.as_bytes()).unwrap());
            assert!(matches!(read(&one), Err(Refusal::Invalid(_))), "{bad}");
        }
        for bad in ["", "x", "-1", "1.5", "1ms"] {
            assert!(read(&headers(&[("x-request-timeout-ms", bad)])).is_err(), "{bad}");
        }
    }
}
