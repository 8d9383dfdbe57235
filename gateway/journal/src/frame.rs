//! Frames: how bytes stand in the queue and in a segment. A frame says how long it is, carries a checksum over
//! everything in it, and starts with a mark, so that a reader finds the next good one behind a damaged one.
//! Reading never panics, whatever the bytes.

use crc32fast::Hasher;

/// Bytes before a frame's body: mark, body length, checksum, kind (4 bytes each), sequence number (8).
pub(crate) const HEADER: usize = 24;

/// "WEIR", where a frame begins. A reader that has lost its place looks for it; the checksum then decides.
const MARK: [u8; 4] = *b"WEIR";

/// How many times the bytes of a damaged file may be checksummed in search of the next good frame. Damage is
/// rare and local; a file made of false marks must not keep the reader busy for ever.
const SEARCH_EFFORT: usize = 8;

/// What a frame's body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// The shape of the records that name its id.
    Schema = 1,
    /// The same; and no record from here on means an earlier schema without telling it again.
    SchemaReset = 2,
    /// Rows that records behind it name instead of repeating them.
    Rows = 4,
    /// One answered request. (3 was that of version 1, which repeated all.)
    Record = 5,
}

impl FrameKind {
    fn of(number: u32) -> Option<Self> {
        [Self::Schema, Self::SchemaReset, Self::Rows, Self::Record].into_iter().find(|k| *k as u32 == number)
    }
}

/// A frame whose checksum held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: FrameKind,
    /// Counts records within a run, from 1; the schemas at a segment's head have 0.
    pub(crate) seq: u64,
    pub(crate) body: &'a [u8],
    /// Header and body.
    pub(crate) raw: &'a [u8],
}

/// A body with its checksum begun: the long part is done before the queue is locked.
pub(crate) struct Unframed<'a> {
    kind: FrameKind,
    pub(crate) body: &'a [u8],
    sum: Hasher,
}

impl<'a> Unframed<'a> {
    /// `None` when the body is too long for a frame.
    pub(crate) fn new(kind: FrameKind, body: &'a [u8]) -> Option<Self> {
        u32::try_from(body.len()).ok()?;
        let mut sum = Hasher::new();
        sum.update(body);
        Some(Self { kind, body, sum })
    }

    /// Bytes of the whole frame.
    pub(crate) fn len(&self) -> u64 {
        (HEADER + self.body.len()) as u64
    }

    /// The header, once place and run are known.
    pub(crate) fn header(&self, run: u64, seq: u64) -> [u8; HEADER] {
        header(self.kind, self.body.len() as u32, self.sum.clone(), run, seq)
    }
}

/// The run is in the checksum but not in the frame: no frame of another run is ever taken for one of this.
fn header(kind: FrameKind, len: u32, mut sum: Hasher, run: u64, seq: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0..4].copy_from_slice(&MARK);
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[12..16].copy_from_slice(&(kind as u32).to_le_bytes());
    header[16..24].copy_from_slice(&seq.to_le_bytes());
    sum.update(&header[4..8]);
    sum.update(&header[12..24]);
    sum.update(&run.to_le_bytes());
    header[8..12].copy_from_slice(&sum.finalize().to_le_bytes());
    header
}

/// Body length that a frame's header claims; the caller has `HEADER` bytes.
pub(crate) fn claimed_len(header: &[u8; HEADER]) -> u64 {
    u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]))
}

/// The good frames in some bytes, in order, and what stood between them.
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    run: u64,
    effort: usize,
    /// Stretches that were no readable frame.
    pub(crate) corrupt: u64,
    /// Bytes at the end of a frame that was not finished.
    pub(crate) torn_bytes: u64,
}

enum Looked<'a> {
    Good(Frame<'a>),
    Bad,
    /// The bytes end before the frame does.
    Short,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(bytes: &'a [u8], run: u64) -> Self {
        Self { bytes, at: 0, run, effort: bytes.len().saturating_mul(SEARCH_EFFORT), corrupt: 0, torn_bytes: 0 }
    }

    fn look(&mut self, at: usize) -> Looked<'a> {
        let rest = &self.bytes[at..];
        let Some(head) = rest.first_chunk::<HEADER>() else { return Looked::Short };
        if head[0..4] != MARK {
            return Looked::Bad;
        }
        let total = HEADER + claimed_len(head) as usize;
        let Some(raw) = rest.get(..total) else { return Looked::Short };
        let kind = FrameKind::of(u32::from_le_bytes([head[12], head[13], head[14], head[15]]));
        let Some(kind) = kind else { return Looked::Bad };
        let mut word = [0; 8];
        word.copy_from_slice(&head[16..24]);
        let seq = u64::from_le_bytes(word);
        let body = &raw[HEADER..];
        self.effort = self.effort.saturating_sub(total);
        let mut sum = Hasher::new();
        sum.update(body);
        match header(kind, body.len() as u32, sum, self.run, seq) == *head {
            true => Looked::Good(Frame { kind, seq, body, raw }),
            false => Looked::Bad,
        }
    }

    /// The next good frame behind the damaged one at `self.at`.
    fn search(&mut self) -> Option<usize> {
        for at in self.at + 1..self.bytes.len().saturating_sub(HEADER) + 1 {
            if self.effort == 0 {
                return None;
            }
            if self.bytes[at..].starts_with(&MARK) && matches!(self.look(at), Looked::Good(_)) {
                return Some(at);
            }
        }
        None
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        while self.at < self.bytes.len() {
            let looked = self.look(self.at);
            if let Looked::Good(frame) = looked {
                self.at += frame.raw.len();
                return Some(frame);
            }
            let rest = &self.bytes[self.at..];
            // A power cut may leave the file's new length without its new bytes: zeros, and nothing behind them.
            if rest.iter().all(|b| *b == 0) {
                self.torn_bytes += rest.len() as u64;
                self.at = self.bytes.len();
                return None;
            }
            match self.search() {
                Some(next) => {
                    self.corrupt += 1;
                    self.at = next;
                }
                None => {
                    match looked {
                        Looked::Short => self.torn_bytes += rest.len() as u64,
                        _ => self.corrupt += 1,
                    }
                    self.at = self.bytes.len();
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 7;

    fn frames(bodies: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (i, body) in bodies.iter().enumerate() {
            bytes.extend(Unframed::new(FrameKind::Record, body).unwrap().header(RUN, i as u64 + 1));
            bytes.extend(*body);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn sample() -> (Vec<u8>, Vec<usize>) {
        frames(&[b"first", b"", b"a WEIR mark inside", &[0; 40], b"last"])
    }

    #[test]
    fn frames_are_read_in_order() {
        let (bytes, _) = sample();
        let mut scan = Scan::new(&bytes, RUN);
        let seqs: Vec<u64> = scan.by_ref().map(|f| f.seq).collect();
        assert_eq!(seqs, [1, 2, 3, 4, 5]);
        assert_eq!((scan.corrupt, scan.torn_bytes), (0, 0));
    }

    #[test]
    fn every_cut_keeps_the_frames_before_it_and_is_no_corruption() {
        let (bytes, ends) = sample();
        for cut in 0..=bytes.len() {
            let mut scan = Scan::new(&bytes[..cut], RUN);
            let whole = ends.iter().filter(|e| **e <= cut).count();
            assert_eq!(scan.by_ref().count(), whole, "cut at {cut}");
            assert_eq!(scan.corrupt, 0, "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_costs_one_frame_and_no_other() {
        let (bytes, ends) = sample();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut scan = Scan::new(&bad, RUN);
            let seqs: Vec<u64> = scan.by_ref().map(|f| f.seq).collect();
            let hit = ends.iter().position(|e| bit / 8 < *e).unwrap() as u64 + 1;
            let want: Vec<u64> = (1..=5).filter(|s| *s != hit).collect();
            assert_eq!(seqs, want, "bit {bit}");
            assert!(scan.corrupt == 1 || scan.torn_bytes > 0, "bit {bit}");
        }
    }

    #[test]
    fn zeros_behind_the_last_frame_are_its_end() {
        let (mut bytes, _) = sample();
        bytes.resize(bytes.len() + 4096, 0);
        let mut scan = Scan::new(&bytes, RUN);
        assert_eq!(scan.by_ref().count(), 5);
        assert_eq!((scan.corrupt, scan.torn_bytes), (0, 4096));
    }

    #[test]
    fn frames_of_another_run_are_not_read() {
        let (bytes, _) = sample();
        assert_eq!(Scan::new(&bytes, RUN + 1).count(), 0);
    }
}
