//! Rows that were answered before. A hot row is answered thousands of times a second; it is written once, told, and
//! from then on a record names it by a number of four bytes. What a record names is told before it, in the queue
//! as in every segment, so each segment can be read alone.
//!
//! A row is what one read of the plan gave to the answer: its outputs' values in one row, as they were answered,
//! defaults included. Rows are the same when the 128 bits that their values are folded into are.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use arrow_buffer::ToByteSlice;
use weir_domain::plan::{OutputSource, Plan};
use weir_domain::{Cell, Column};

use crate::frame::Frame;
use crate::known::{Key, Known};
use crate::record::put_column;
use crate::seal::gather;

/// Reads of fewer outputs are written out: a name saves too little to be worth its upkeep.
const OUTPUTS_MIN: usize = 8;

/// Told rows are repeated at the head of each segment, of which they may be one part in this.
pub(crate) const SEGMENT_SHARE: u64 = 4;

/// For so many records rows are written out, when those told last were seldom met again.
const REST_RECORDS: u32 = 10_000;

/// A row's values folded into 128 bits, under secrets of this process. Nobody can aim at two rows of one name, and
/// chance makes a pair of one name among a trillion rows in less than one of 10^14 tries.
pub(crate) type Name = u128;

/// A read whose rows are named.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Index in the plan's reads.
    pub(crate) read: usize,
    /// Indices in the plan's outputs.
    outputs: Vec<usize>,
}

impl Group {
    pub(crate) fn of(plan: &Plan) -> Vec<Self> {
        let outputs = |read| {
            let own = plan.outputs.iter().enumerate().filter(move |(_, o)| o.source == OutputSource::Read(read));
            own.map(|(i, _)| i).collect()
        };
        let groups = (0..plan.reads.len()).map(|read| Self { read, outputs: outputs(read) });
        groups.filter(|g| g.outputs.len() >= OUTPUTS_MIN).collect()
    }
}

/// Gives rows their names.
#[derive(Debug)]
pub(crate) struct Namer([u64; 5]);

impl Namer {
    pub(crate) fn new() -> Self {
        let random = RandomState::new();
        Self([1, 2, 3, 4, 5].map(|n: u64| random.hash_one(n)))
    }

    /// Appends the names of all rows of a group.
    pub(crate) fn name(&self, schema: u32, group: &Group, cells: &[Cell], rows: usize, names: &mut Vec<Name>) {
        let begin = names.len();
        let seed = u128::from(self.0[4]) << 64 | u128::from(schema) << 32 | group.read as u128;
        names.resize(begin + rows, seed);
        let names = &mut names[begin..];
        let mut columns = group.outputs.iter().map(|o| &cells[*o].column).peekable();
        while let Some(column) = columns.next() {
            let Some(one) = words(column) else {
                self.absorb(names, column);
                continue;
            };
            // Two at a time: half the multiplications.
            match columns.next_if(|next| words(next).is_some()).and_then(words) {
                Some(two) => {
                    for ((name, one), two) in names.iter_mut().zip(one).zip(two) {
                        *name = self.fold(*name, u64::from_le_bytes(*one), u64::from_le_bytes(*two));
                    }
                }
                None => {
                    for (name, one) in names.iter_mut().zip(one) {
                        *name = self.fold(*name, u64::from_le_bytes(*one), 0);
                    }
                }
            }
        }
    }

    /// Two products, each of both words: wyhash's step, twice under different secrets.
    #[inline(always)]
    fn fold(&self, name: Name, one: u64, two: u64) -> Name {
        let [a, b, c, d, _] = self.0;
        let mix = |x: u64, y: u64| {
            let product = u128::from(x) * u128::from(y);
            product as u64 ^ (product >> 64) as u64
        };
        let (low, high) = (name as u64, (name >> 64) as u64);
        u128::from(mix(high ^ one ^ a, two ^ b)) << 64 | u128::from(mix(low ^ one ^ c, two ^ d))
    }

    /// Values that are no words of eight bytes.
    fn absorb(&self, names: &mut [Name], column: &Column) {
        match column {
            Column::Bool(v) => names.iter_mut().zip(v).for_each(|(n, v)| *n = self.fold(*n, u64::from(*v), 1)),
            Column::F32(v) => {
                names.iter_mut().zip(v).for_each(|(n, v)| *n = self.fold(*n, u64::from(v.to_bits()), 2));
            }
            Column::String(v) | Column::Bytes(v) => {
                names.iter_mut().zip(v.iter()).for_each(|(n, v)| *n = self.bytes(*n, v));
            }
            Column::List(lists) => {
                let mut from = 0;
                let mut item = Vec::new();
                for (name, end) in names.iter_mut().zip(&lists.ends) {
                    let mut list = Column::with_capacity(lists.items.feature_type(), 0);
                    (from..*end as usize).for_each(|i| list.push_from(&lists.items, i));
                    from = *end as usize;
                    item.clear();
                    put_column(&mut item, &list);
                    *name = self.bytes(*name, &item);
                }
            }
            // Words, named above.
            Column::I64(_) | Column::F64(_) | Column::Timestamp(_) => {}
        }
    }

    fn bytes(&self, name: Name, bytes: &[u8]) -> Name {
        let (chunks, rest) = bytes.as_chunks::<8>();
        let name = chunks.iter().fold(name, |n, c| self.fold(n, u64::from_le_bytes(*c), 3));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(name, u64::from_le_bytes(last), bytes.len() as u64)
    }
}

/// A column of words of eight bytes, as it lies in memory.
fn words(column: &Column) -> Option<&[[u8; 8]]> {
    match column {
        Column::I64(v) | Column::Timestamp(v) => Some(v.to_byte_slice().as_chunks().0),
        Column::F64(v) => Some(v.to_byte_slice().as_chunks().0),
        _ => None,
    }
}

/// The rows of one record by number.
#[derive(Debug, Default)]
pub(crate) struct Refs {
    /// What the offsets count from.
    pub(crate) first: u64,
    /// The reads whose rows are named.
    reads: Vec<usize>,
    /// By read and row.
    offsets: Vec<u32>,
}

impl Refs {
    /// Names no row.
    pub(crate) fn clear(&mut self) {
        self.reads.clear();
        self.offsets.clear();
    }

    /// Number of rows named.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Those of a read, if its rows are named: the number they count from, and one offset a row.
    pub(crate) fn of(&self, read: usize, rows: usize) -> Option<(u64, &[u32])> {
        let at = self.reads.iter().position(|r| *r == read)?;
        self.offsets.get(at * rows..(at + 1) * rows).map(|offsets| (self.first, offsets))
    }

    fn begin(&mut self, first: u64, groups: &[Group]) {
        self.clear();
        self.first = first;
        self.reads.extend(groups.iter().map(|g| g.read));
    }
}

/// The rows told, by name.
#[derive(Debug)]
pub(crate) struct Told {
    /// Number of the first row since all were forgotten: a generation. Records name rows of the newest only.
    pub(crate) first: u64,
    /// Number of the next row; none is used twice in a run.
    next: u64,
    /// Numbers, counted from `first`.
    offsets: HashMap<Name, u32, BuildHasherDefault<Folded>>,
    known: Known,
    bytes: u64,
    bytes_max: u64,
    /// Records still to be written out.
    rest: AtomicU32,
}

/// Rows to be told by the record that first names them.
#[derive(Debug, Default)]
pub(crate) struct News {
    offsets: HashMap<Name, u32, BuildHasherDefault<Folded>>,
    /// The bodies of the frames that tell them.
    pub(crate) bodies: Vec<Vec<u8>>,
}

impl Told {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let (offsets, known) = (HashMap::default(), Known::default());
        Self { first: 0, next: 0, offsets, known, bytes: 0, bytes_max, rest: AtomicU32::new(0) }
    }

    /// Whether the next record is to be written out.
    pub(crate) fn is_resting(&self) -> bool {
        let left = self.rest.load(Relaxed);
        if left > 0 {
            // Two threads may count one record; nobody counts on the exact number.
            self.rest.store(left - 1, Relaxed);
        }
        left > 0
    }

    /// The numbers of rows by their readings; `false` when some are not known.
    pub(crate) fn recall(&self, groups: &[Group], keys: &[Key], refs: &mut Refs) -> bool {
        refs.begin(self.first, groups);
        self.known.find(keys, &mut refs.offsets);
        refs.offsets.len() == keys.len()
    }

    /// To be recalled: rows whose numbers were found.
    pub(crate) fn remember(&mut self, keys: &[Key], refs: &Refs) {
        if refs.first == self.first && refs.offsets.len() == keys.len() {
            self.known.remember(keys, &refs.offsets);
        }
    }

    /// The numbers of rows; `false` when some have none.
    pub(crate) fn find(&self, groups: &[Group], names: &[Name], refs: &mut Refs) -> bool {
        refs.begin(self.first, groups);
        refs.offsets.extend(names.iter().map_while(|name| self.offsets.get(name)));
        refs.offsets.len() == names.len()
    }

    /// Numbers for rows of which some are new.
    pub(crate) fn tell(&self, schema: u32, groups: &[Group], cells: &[Cell], names: &[Name], refs: &mut Refs) -> News {
        refs.begin(self.first, groups);
        let (mut news, mut next) = (News::default(), self.next);
        let rows = names.len() / groups.len().max(1);
        for (group, names) in groups.iter().zip(names.chunks(rows.max(1))) {
            let (number, mut fresh) = (next, Vec::new());
            for (row, name) in names.iter().enumerate() {
                let known = self.offsets.get(name).or_else(|| news.offsets.get(name)).copied();
                refs.offsets.push(known.unwrap_or_else(|| {
                    let offset = (next - self.first) as u32;
                    next += 1;
                    fresh.push(row);
                    news.offsets.insert(*name, offset);
                    offset
                }));
            }
            if !fresh.is_empty() {
                let mut body = schema.to_le_bytes().to_vec();
                body.extend_from_slice(&(group.read as u32).to_le_bytes());
                body.extend_from_slice(&self.first.to_le_bytes());
                body.extend_from_slice(&number.to_le_bytes());
                body.extend_from_slice(&(fresh.len() as u32).to_le_bytes());
                group.outputs.iter().for_each(|o| put_column(&mut body, &gather(&cells[*o].column, &fresh)));
                news.bodies.push(body);
            }
        }
        news
    }

    /// Whether these may be told beside the others.
    pub(crate) fn has_room(&self, news: &News) -> bool {
        self.bytes + news.bytes() <= self.bytes_max
    }

    /// They are told: records may name them.
    pub(crate) fn keep(&mut self, news: News) {
        self.next += news.offsets.len() as u64;
        self.bytes += news.bytes();
        self.offsets.extend(news.offsets);
    }

    /// Begins a generation. When rows of the last one were `met` seldom, they are written out for a while.
    pub(crate) fn forget(&mut self, met: u64) {
        if met < self.offsets.len() as u64 {
            *self.rest.get_mut() = REST_RECORDS;
        }
        self.offsets.clear();
        self.known.clear();
        self.bytes = 0;
        self.next += 1;
        self.first = self.next;
    }
}

impl News {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    fn bytes(&self) -> u64 {
        self.bodies.iter().map(|body| body.len() as u64).sum()
    }
}

/// Complete frames that tell the rows of the newest generation, for the head of the next segment.
#[derive(Debug, Default)]
pub(crate) struct ToldFrames {
    generation: u64,
    /// By their first number: the head of one segment repeats that of another.
    frames: BTreeMap<u64, Vec<u8>>,
}

impl ToldFrames {
    pub(crate) fn add(&mut self, frame: &Frame<'_>) {
        // Behind schema and read.
        let mut words = frame.body.as_chunks().0.iter().skip(1).map(|word| u64::from_le_bytes(*word));
        let (Some(generation), Some(first)) = (words.next(), words.next()) else { return };
        if generation > self.generation {
            self.frames.clear();
            self.generation = generation;
        }
        if generation == self.generation {
            self.frames.entry(first).or_insert_with(|| frame.raw.to_vec());
        }
    }

    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.frames.values().flatten().copied()
    }
}

/// Names are hashes, and the readings in keys are a count.
#[derive(Debug, Default)]
pub(crate) struct Folded(u64);

/// Odd, and without a pattern: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u128(&mut self, name: u128) {
        // A count has nothing in the bits that a table looks at first.
        self.0 = (name as u64).wrapping_mul(SPREAD);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
