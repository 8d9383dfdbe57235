//! Follows the frames of an HTTP/2 connection as its bytes go by: what was begun and not finished yet, and how many ask for
//! nothing. What of HTTP/2 costs memory is bounded where it is kept; a flood of PING, SETTINGS, PRIORITY, RST_STREAM or
//! WINDOW_UPDATE costs only time, which nobody else counts.

use std::time::Duration;

use tokio::time::Instant;

/// What every HTTP/2 connection begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// Frames without a request among them, within a minute, that are still no flood. A client that reads a reply of 64 MiB
/// opens its windows 8,000 times; one that measures its round trips sends a PING with each.
const IDLE_FRAMES_MAX: u32 = 20_000;
const IDLE_WINDOW: Duration = Duration::from_secs(60);

/// What the bytes of a connection turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing yet, or the beginning of a preface.
    Preface,
    Http1,
    Http2 {
        /// What was begun and has to be finished before anything else can be said, by its number: a frame, or headers in
        /// several. A body may take its time: that is for its stream.
        unfinished: Option<usize>,
    },
}

/// What was seen of a connection so far.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface; `None` once the connection turned out to speak HTTP/1.
    preface: Option<usize>,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    payload_left: usize,
    /// The last frame's.
    kind: u8,
    /// Headers go on in the next frame.
    is_amid_headers: bool,
    begun: usize,
    idle: u32,
    since: Instant,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            preface: Some(0),
            head: [0; HEAD_BYTES],
            head_len: 0,
            payload_left: 0,
            kind: DATA,
            is_amid_headers: false,
            begun: 0,
            idle: 0,
            since: Instant::now(),
        }
    }

    /// What the bytes so far are.
    pub(super) fn heard(&self) -> Heard {
        match self.preface {
            None => Heard::Http1,
            Some(seen) if seen < PREFACE.len() => Heard::Preface,
            Some(_) => {
                let is_payload_due = self.payload_left > 0 && self.kind != DATA;
                let is_unfinished = self.head_len > 0 || is_payload_due || self.is_amid_headers;
                Heard::Http2 { unfinished: is_unfinished.then_some(self.begun) }
            }
        }
    }

    /// Follows the next bytes; says whether they are a flood by now.
    pub(super) fn are_a_flood(&mut self, mut bytes: &[u8]) -> bool {
        let Some(seen) = self.preface else { return false };
        if seen < PREFACE.len() {
            let (new, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - seen));
            if !PREFACE[seen..].starts_with(new) {
                self.preface = None;
                return false;
            }
            self.preface = Some(seen + new.len());
            bytes = rest;
        }
        let mut flood = false;
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skipped = bytes.len().min(self.payload_left);
                self.payload_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            if self.head_len == 0 && !self.is_amid_headers {
                self.begun += 1;
            }
            let taken = bytes.len().min(HEAD_BYTES - self.head_len);
            self.head[self.head_len..self.head_len + taken].copy_from_slice(&bytes[..taken]);
            self.head_len += taken;
            bytes = &bytes[taken..];
            if self.head_len == HEAD_BYTES {
                self.head_len = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.kind = kind;
                if matches!(kind, HEADERS | CONTINUATION) {
                    self.is_amid_headers = flags & END_HEADERS == 0;
                }
                flood |= self.is_one_too_many(kind);
            }
        }
        flood
    }

    fn is_one_too_many(&mut self, kind: u8) -> bool {
        match kind {
            // Requests are counted where they are answered, and their pieces are bounded by HTTP/2 itself.
            HEADERS => self.idle = 0,
            DATA | CONTINUATION => {}
            _ => self.idle += 1,
        }
        if self.idle <= IDLE_FRAMES_MAX {
            return false;
        }
        // The clock is read once in so many frames.
        let now = Instant::now();
        let flood = now - self.since < IDLE_WINDOW;
        (self.since, self.idle) = (now, 0);
        flood
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const REQUEST: [u8; 10] = [0, 0, 1, HEADERS, 4, 0, 0, 0, 1, 0x82];

    /// Says after how many of these frames a flood is seen, if they come in pieces of so many bytes.
    fn flood_after(frame: &[u8], most: usize, piece: usize) -> Option<usize> {
        let mut frames = Frames::new();
        assert!(!frames.are_a_flood(PREFACE));
        (1..=most).find(|_| frame.chunks(piece).fold(false, |flood, bytes| frames.are_a_flood(bytes) | flood))
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_seen_however_its_bytes_come() {
        for piece in [1, 3, 9, 17] {
            assert_eq!(flood_after(&PING, 30_000, piece), Some(IDLE_FRAMES_MAX as usize + 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_something_may_ping_as_well() {
        let busy = [REQUEST.as_slice(), &PING.repeat(100)].concat();
        assert_eq!(flood_after(&busy, 1_000, 64), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_life_is_no_flood() {
        let mut frames = Frames::new();
        assert!(!frames.are_a_flood(PREFACE));
        for _ in 0..3 * IDLE_FRAMES_MAX {
            tokio::time::advance(Duration::from_millis(10)).await;
            assert!(!frames.are_a_flood(&PING));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_begun_is_unfinished_until_its_last_byte() {
        let mut frames = Frames::new();
        let mut hear = |bytes: &[u8]| {
            frames.are_a_flood(bytes);
            frames.heard()
        };
        let (nothing, nth) = (Heard::Http2 { unfinished: None }, |n| Heard::Http2 { unfinished: Some(n) });
        assert_eq!((hear(&PREFACE[..9]), hear(&PREFACE[9..])), (Heard::Preface, nothing));
        assert_eq!(
            (hear(&PING[..1]), hear(&PING[1..9]), hear(&PING[9..16]), hear(&PING[16..])),
            (nth(1), nth(1), nth(1), nothing)
        );
        // The end of one and the beginning of the next in one piece.
        assert_eq!(
            (hear(&PING[..9]), hear(&[&PING[9..], &PING[..3]].concat()), hear(&PING[3..])),
            (nth(2), nth(3), nothing)
        );
        // Headers in three frames are one thing.
        let [mut headers, mut more] = [REQUEST, REQUEST];
        (headers[4], more[3], more[4]) = (0, CONTINUATION, 0);
        assert_eq!((hear(&headers), hear(&more[..4]), hear(&more[4..])), (nth(4), nth(4), nth(4)));
        more[4] = END_HEADERS;
        assert_eq!((hear(&more[..9]), hear(&more[9..])), (nth(4), nothing));
        // A body is unfinished only while nobody knows that it is one.
        let data = [0, 0, 9, DATA, 0, 0, 0, 0, 1];
        assert_eq!(
            (hear(&data[..5]), hear(&data[5..]), hear(&[7; 8]), hear(&[7])),
            (nth(5), nothing, nothing, nothing)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn http1_has_no_frames() {
        let mut frames = Frames::new();
        assert_eq!(frames.heard(), Heard::Preface);
        assert!(!frames.are_a_flood(b"POST / HTTP/1.1\r\n"));
        assert_eq!(frames.heard(), Heard::Http1);
        assert!(!frames.are_a_flood(&PING.repeat(30_000)));
    }
}
