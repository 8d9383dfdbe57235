//! Redis' protocol (RESP2) as bytes: commands written, replies found and taken apart where they lie. Promises: what
//! is no reply is an error, never a panic, and no number in a reply makes us reserve memory.
//!
//! The client library's parser makes a value of its own for every string of a reply: for a hundred hashes of fifty
//! fields that was two thirds of all the time that a request took here.

use bytes::Bytes;

/// After every argument.
pub(crate) const LINE_END_BYTES: usize = 2;
/// Redis refuses longer strings (`proto-max-bulk-len`).
const BULK_BYTES_MAX: i64 = 512 << 20;
/// More items than any reply to a reading command of ours has: a hash has at most as many fields as somebody wrote.
const ITEMS_MAX: i64 = 1 << 24;
/// Length of the longest line: numbers, and errors that servers word.
const LINE_BYTES_MAX: usize = 64 << 10;

/// These bytes are no RESP2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbage;

/// One element of a reply. An array stands before its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element<'a> {
    /// A string.
    Bulk(&'a [u8]),
    /// There is nothing.
    Nil,
    /// A number.
    Integer(i64),
    /// `OK` and the like.
    Simple(&'a [u8]),
    /// What the server has against the command.
    Error(&'a [u8]),
    /// This many values follow.
    Array(usize),
}

/// Elements one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next element's bytes, if it is a string; `None` when there is nothing.
    #[inline]
    pub(crate) fn bulk(&mut self) -> Result<Option<&'a [u8]>, Garbage> {
        if let Some((bulk, rest)) = short(self.rest) {
            self.rest = rest;
            return Ok(Some(bulk));
        }
        match self.next()? {
            Some(Element::Bulk(bulk)) => Ok(Some(bulk)),
            Some(Element::Nil) => Ok(None),
            _ => Err(Garbage),
        }
    }

    /// The next element; `None` at the end, and when the bytes end within it.
    pub(crate) fn next(&mut self) -> Result<Option<Element<'a>>, Garbage> {
        match element(self.rest)? {
            Some((element, len)) => {
                self.rest = &self.rest[len..];
                Ok(Some(element))
            }
            None => Ok(None),
        }
    }
}

/// A string of less than ten bytes that the bytes begin with, and what is behind it. Hashes consist of little else:
/// names of fields, and numbers.
#[inline(always)]
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let size = head[1].wrapping_sub(b'0');
    if [head[0], head[2], head[3]] != *b"$\r\n" || size > 9 {
        return None;
    }
    let (bulk, after) = rest.split_at_checked(usize::from(size))?;
    let (end, rest) = after.split_first_chunk::<2>()?;
    (end == b"\r\n").then_some((bulk, rest))
}

/// The first element and its length in bytes, an array's without its items; `None` when there are not enough bytes.
fn element(bytes: &[u8]) -> Result<Option<(Element<'_>, usize)>, Garbage> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((line, len)) = line(rest)? else { return Ok(None) };
    let head = 1 + len;
    let element = match kind {
        b'$' => match number(line)? {
            -1 => Element::Nil,
            size @ 0..=BULK_BYTES_MAX => {
                let size = size as usize;
                let Some(whole) = bytes.get(head..head + size + 2) else { return Ok(None) };
                let (bulk, end) = whole.split_at(size);
                if end != b"\r\n" {
                    return Err(Garbage);
                }
                return Ok(Some((Element::Bulk(bulk), head + size + 2)));
            }
            _ => return Err(Garbage),
        },
        b'*' => match number(line)? {
            -1 => Element::Nil,
            items @ 0..=ITEMS_MAX => Element::Array(items as usize),
            _ => return Err(Garbage),
        },
        b':' => Element::Integer(number(line)?),
        b'+' => Element::Simple(line),
        b'-' => Element::Error(line),
        _ => return Err(Garbage),
    };
    Ok(Some((element, head)))
}

/// The bytes up to the end of the line, and how many there are with it.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Garbage> {
    // Lines are short: a search that is made for long texts would only cost its preparation.
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match window.iter().position(|byte| *byte == b'\r') {
        Some(at) => match bytes.get(at + 1) {
            Some(b'\n') => Ok(Some((&bytes[..at], at + 2))),
            Some(_) => Err(Garbage),
            None => Ok(None),
        },
        None if window.len() == LINE_BYTES_MAX => Err(Garbage),
        None => Ok(None),
    }
}

fn number(line: &[u8]) -> Result<i64, Garbage> {
    let (is_negative, digits) = match line.split_first() {
        Some((b'-', digits)) => (true, digits),
        _ => (false, line),
    };
    // Nineteen digits are the most that an i64 has.
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Garbage);
    }
    let value = digits.iter().fold(0i64, |value, digit| value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')));
    Ok(if is_negative { value.wrapping_neg() } else { value })
}

/// Finds where replies end in bytes that come in pieces; what was looked at is not looked at again.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    at: usize,
    /// Replies that have not ended yet.
    left: usize,
    /// Values that the first of them still lacks; 0 = it has not begun.
    values: usize,
    ends: Vec<usize>,
}

impl Scan {
    /// For this many replies.
    pub(crate) fn of(replies: usize) -> Self {
        Self { at: 0, left: replies, values: 0, ends: Vec::with_capacity(replies) }
    }

    /// Whether all replies are in `bytes`, which begin with the first of them.
    pub(crate) fn is_over(&mut self, bytes: &[u8]) -> Result<bool, Garbage> {
        while self.left > 0 {
            let mut rest = bytes.get(self.at..).unwrap_or_default();
            while self.values > 1
                && let Some((_, after)) = short(rest)
            {
                rest = after;
                self.values -= 1;
            }
            self.at = bytes.len() - rest.len();
            let Some((found, len)) = element(rest)? else { return Ok(false) };
            self.at += len;
            self.values = self.values.max(1) - 1;
            if let Element::Array(items) = found {
                self.values += items;
            }
            if self.values == 0 {
                self.left -= 1;
                self.ends.push(self.at);
            }
        }
        Ok(true)
    }

    /// The length of all replies together, once they are [there](Self::is_over).
    pub(crate) fn len(&self) -> usize {
        self.at
    }

    /// The replies, of which these are the bytes.
    pub(crate) fn replies(self, all: Bytes) -> Replies {
        Replies { all, ends: self.ends }
    }
}

/// The replies to one question, as bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Replies {
    all: Bytes,
    ends: Vec<usize>,
}

impl Replies {
    /// All of them, one after another.
    pub(crate) fn all(&self) -> &Bytes {
        &self.all
    }

    /// Each of them.
    pub(crate) fn each(&self) -> impl ExactSizeIterator<Item = Bytes> {
        let start = |reply: usize| if reply == 0 { 0 } else { self.ends[reply - 1] };
        (0..self.ends.len()).map(move |reply| self.all.slice(start(reply)..self.ends[reply]))
    }
}

/// What the server has against the command, if that is what this reply says: `CODE details`.
pub(crate) fn complaint(reply: &[u8]) -> Option<&str> {
    let line = reply.strip_prefix(b"-")?;
    let end = line.iter().position(|byte| *byte == b'\r').unwrap_or(line.len());
    // Servers word their errors in ASCII; what is not text has no code that we know.
    Some(str::from_utf8(&line[..end]).unwrap_or_default())
}

/// Whether this reply has no value in it: nothing, or nothing but that.
pub(crate) fn is_empty(reply: &[u8]) -> bool {
    let mut elements = Elements::of(reply);
    loop {
        match elements.next() {
            Ok(Some(Element::Nil | Element::Array(_))) => {}
            Ok(None) => return true,
            Ok(Some(_)) | Err(Garbage) => return false,
        }
    }
}

/// Writes a command of this many arguments, its name the first of them; [`push`] adds each.
pub(crate) fn begin(out: &mut Vec<u8>, arguments: usize) {
    head(out, b'*', arguments);
}

/// Writes an argument.
pub(crate) fn push(out: &mut Vec<u8>, argument: &[u8]) {
    head(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

fn head(out: &mut Vec<u8>, kind: u8, number: usize) {
    // The kind, twenty digits and the line's end.
    let mut line = [0u8; 23];
    let mut at = line.len() - LINE_END_BYTES;
    line[at..].copy_from_slice(b"\r\n");
    let mut rest = number;
    loop {
        at -= 1;
        line[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    at -= 1;
    line[at] = kind;
    out.extend_from_slice(&line[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> Result<Vec<Element<'_>>, Garbage> {
        let mut elements = Elements::of(bytes);
        let mut found = Vec::new();
        while let Some(element) = elements.next()? {
            found.push(element);
        }
        Ok(found)
    }

    #[test]
    fn replies_are_taken_apart_where_they_lie() {
        let reply = b"*3\r\n$2\r\nab\r\n$-1\r\n*1\r\n:-7\r\n+OK\r\n-ERR no\r\n*-1\r\n$0\r\n\r\n";
        use Element::{Array, Bulk, Error, Integer, Nil, Simple};
        let wanted =
            [Array(3), Bulk(b"ab"), Nil, Array(1), Integer(-7), Simple(b"OK"), Error(b"ERR no"), Nil, Bulk(b"")];
        assert_eq!(all(reply).unwrap(), wanted);
    }

    #[test]
    fn replies_of_a_batch_are_told_apart() {
        let all = Bytes::from_static(b"+OK\r\n*2\r\n:1\r\n$1\r\na\r\n-MOVED 3 10.0.0.1:7000\r\n");
        let mut scan = Scan::of(3);
        assert_eq!(scan.is_over(&all), Ok(true));
        let each: Vec<Bytes> = scan.replies(all).each().collect();
        assert_eq!(each, ["+OK\r\n", "*2\r\n:1\r\n$1\r\na\r\n", "-MOVED 3 10.0.0.1:7000\r\n"]);
        assert_eq!(complaint(&each[2]), Some("MOVED 3 10.0.0.1:7000"));
        assert_eq!(complaint(&each[0]), None);
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is() {
        for empty in [&b"$-1\r\n"[..], b"*0\r\n", b"*2\r\n$-1\r\n$-1\r\n", b"*-1\r\n"] {
            assert!(is_empty(empty), "{}", String::from_utf8_lossy(empty));
        }
        for full in [&b"$0\r\n\r\n"[..], b"*2\r\n$-1\r\n$1\r\na\r\n", b"-ERR\r\n", b":0\r\n"] {
            assert!(!is_empty(full), "{}", String::from_utf8_lossy(full));
        }
    }

    #[test]
    fn what_is_no_reply_is_garbage() {
        for bytes in [
            &b"HTTP/1.1 400\r\n"[..],
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"*99999999\r\n",
            b":12a\r\n",
            b":\r\n",
            b"$2\r\nabc\r\n",
            b"+O\rK\r\n",
        ] {
            assert_eq!(all(bytes), Err(Garbage), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(all(&[b'+'; LINE_BYTES_MAX + 2]), Err(Garbage), "a line without an end");
    }

    #[test]
    fn commands_are_written_as_arrays_of_strings() {
        let mut out = Vec::new();
        begin(&mut out, 2);
        push(&mut out, b"GET");
        push(&mut out, b"a key of 12b");
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$12\r\na key of 12b\r\n");
    }

    proptest! {
        #[test]
        fn bytes_from_anywhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
            let _ = Scan::of(3).is_over(&bytes);
        }

        #[test]
        fn replies_end_where_they_end_however_they_come(cut in 0usize..60) {
            let reply = b"*2\r\n$3\r\nabc\r\n*2\r\n:1\r\n$-1\r\n+OK\r\n";
            let cut = cut.min(reply.len());
            let mut scan = Scan::of(2);
            prop_assert_eq!(scan.is_over(&reply[..cut]), Ok(cut == reply.len()));
            prop_assert_eq!(scan.is_over(&[&reply[..], b"+next\r\n"].concat()), Ok(true));
            prop_assert_eq!(scan.len(), reply.len());
        }
    }
}
