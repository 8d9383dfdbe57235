//! As much of Redis's protocol as floors need: commands out, and where replies end. Values are looked at only as far as it
//! takes to know that they came.

/// Appends a command.
pub(crate) fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    push_head(out, b'*', parts.len());
    for part in parts {
        push_head(out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn push_head(out: &mut Vec<u8>, of: u8, number: usize) {
    out.push(of);
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Finds the end of replies while their bytes come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    at: usize,
    /// Values that have not been seen yet; an array adds those in it.
    left: usize,
}

impl Scan {
    pub(crate) fn of(replies: usize) -> Self {
        Self { at: 0, left: replies }
    }

    /// Where the replies end, once they are there. `bytes` begins with the first, and only ever grows.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, crate::Failed> {
        while self.left > 0 {
            let rest = &bytes[self.at..];
            let Some(line) = rest.iter().position(|b| *b == b'\n') else { return Ok(None) };
            let text = rest[..line].trim_ascii_end();
            let number = text.get(1..).and_then(number);
            let next = self.at + line + 1;
            match (text.first(), number) {
                (Some(b'*'), Some(values)) => (self.left, self.at) = (self.left + values - 1, next),
                (Some(b'$'), Some(len)) if next + len + 2 > bytes.len() => return Ok(None),
                (Some(b'$'), Some(len)) => (self.left, self.at) = (self.left - 1, next + len + 2),
                _ => return Err(format!("Redis said {:?}: are the rows loaded?", String::from_utf8_lossy(text)).into()),
            }
        }
        Ok(Some(self.at))
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    let digit = |b: &u8| b.is_ascii_digit().then(|| usize::from(b - b'0'));
    // No length that Redis sends has more digits.
    let is_sane = !digits.is_empty() && digits.len() < 12;
    digits.iter().try_fold(0, |sum, b| Some(10 * sum + digit(b)?)).filter(|_| is_sane)
}

/// The values of replies whose end is known, without their lengths.
pub(crate) fn values(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            let line = bytes.iter().position(|b| *b == b'\n')?;
            let (head, rest) = bytes.split_at(line + 1);
            let len = number(head.get(1..)?.trim_ascii_end())?;
            if head[0] == b'*' {
                bytes = rest;
                continue;
            }
            let value = rest.get(..len)?;
            bytes = rest.get(len + 2..)?;
            return Some(value);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_its_parts() {
        let mut out = Vec::new();
        push(&mut out, &[b"GET", b"n:s2:ab"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$7\r\nn:s2:ab\r\n");
    }

    #[test]
    fn replies_end_where_their_last_value_does_however_they_come() {
        let two = b"*2\r\n$3\r\na\nb\r\n$1\r\nc\r\n$2\r\nde\r\nmore";
        let mut scan = Scan::of(2);
        for come in 0..two.len() - 4 {
            assert_eq!(scan.end(&two[..come]).unwrap(), None, "{come}");
        }
        assert_eq!(scan.end(two).unwrap(), Some(two.len() - 4));
        let seen: Vec<&[u8]> = values(&two[..two.len() - 4]).collect();
        assert_eq!(seen, [b"a\nb".as_slice(), b"c", b"de"]);
    }

    #[test]
    fn a_missing_row_and_an_error_are_errors() {
        for said in ["$-1\r\n", "-MOVED 1 127.0.0.1:7000\r\n", "*x\r\n", "\r\n"] {
            assert!(Scan::of(1).end(said.as_bytes()).is_err(), "{said}");
        }
    }
}
