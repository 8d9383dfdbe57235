//! Floats as JSON has them: the shortest text that reads back the same. What JSON has no number for is a string, as
//! protobuf writes it.

/// Room for one number, a cache line of its own: beside what calls put on the stack, writing the digits and reading them
/// again takes half as long again.
#[repr(align(64))]
struct Room(zmij::Buffer);

impl Room {
    fn new() -> Self {
        Self(zmij::Buffer::new())
    }
}

/// Appends a double.
pub fn push_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(Room::new().0.format_finite(value).as_bytes());
    } else {
        push_no_number(out, value);
    }
}

/// Appends a float, which often needs fewer digits than the double of the same value.
pub fn push_f32(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        out.extend_from_slice(Room::new().0.format_finite(value).as_bytes());
    } else {
        push_no_number(out, value.into());
    }
}

fn push_no_number(out: &mut Vec<u8>, value: f64) {
    let word = match (value.is_nan(), value > 0.0) {
        (true, _) => "\"NaN\"",
        (_, true) => "\"Infinity\"",
        (_, false) => "\"-Infinity\"",
    };
    out.extend_from_slice(word.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn double(value: f64) -> String {
        let mut out = b"before".to_vec();
        push_f64(&mut out, value);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn what_is_no_number_is_a_string() {
        let all = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(double);
        assert_eq!(all, ["\"NaN\"", "\"NaN\"", "\"Infinity\"", "\"-Infinity\""]);
        let mut out = Vec::new();
        push_f32(&mut out, 0.1);
        assert_eq!(out, b"0.1");
    }

    proptest! {
        #[test]
        fn digits_read_back_the_same(bits: u64, small in -1000i32..1000) {
            for value in [f64::from_bits(bits), f64::from(small), f64::from(small) / 8.0] {
                if value.is_finite() {
                    prop_assert_eq!(double(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
                }
            }
        }
    }
}
