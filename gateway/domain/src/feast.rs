//! How Feast writes an entity's features into Redis: the name of the hash, the names of its fields, and the bytes of
//! a value. Promises: byte for byte what Feast 0.67 reads and writes, and bytes that are none of it are `None`,
//! never a panic.
//!
//! One hash per entity key holds the features of all views of that entity:
//! `murmur3(view:feature)` → a serialized `feast.types.Value`, `_ts:view` → a serialized `Timestamp`.

mod wire;

use md5::{Digest, Md5};

use crate::catalog::Freshness;
pub use wire::{Content, ItemWidth, Wire, each_number, push_varint};

/// What the field with a view's event time begins with.
pub const TIME_FIELD: &str = "_ts:";
/// The join key of views without an entity; its value is the empty string.
pub const DUMMY_KEY: &str = "__dummy_id";

/// How entity keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyFormat {
    /// `entity_key_serialization_version: 2`.
    V2,
    /// `entity_key_serialization_version: 3`, which carries lengths.
    V3,
}

/// The value of one join key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyPart<'a> {
    /// BYTES.
    Bytes(&'a [u8]),
    /// STRING.
    String(&'a [u8]),
    /// INT32.
    I32(i32),
    /// INT64.
    I64(i64),
    /// UNIX_TIMESTAMP, in seconds.
    Timestamp(i64),
}

/// Numbers of `ValueType` that keys use.
const BYTES: u32 = 1;
const STRING: u32 = 2;
const INT32: u32 = 3;
const INT64: u32 = 4;
const UNIX_TIMESTAMP: u32 = 8;

impl KeyFormat {
    /// What all keys with these join keys begin with. The names must be sorted by their bytes, as Feast sorts them.
    pub fn push_names<'n>(self, out: &mut Vec<u8>, names: impl ExactSizeIterator<Item = &'n str>) {
        if self == Self::V3 {
            push_u32(out, names.len());
        }
        for name in names {
            push_u32(out, STRING as usize);
            if self == Self::V3 {
                push_u32(out, name.len());
            }
            out.extend_from_slice(name.as_bytes());
        }
    }

    /// One value; values stand in the order of the names, and the project's name ends the key.
    pub fn push_part(out: &mut Vec<u8>, part: KeyPart<'_>) {
        let mut push = |of: u32, bytes: &[u8]| {
            push_u32(out, of as usize);
            push_u32(out, bytes.len());
            out.extend_from_slice(bytes);
        };
        match part {
            KeyPart::Bytes(v) => push(BYTES, v),
            KeyPart::String(v) => push(STRING, v),
            KeyPart::I32(v) => push(INT32, &v.to_le_bytes()),
            KeyPart::I64(v) => push(INT64, &v.to_le_bytes()),
            KeyPart::Timestamp(v) => push(UNIX_TIMESTAMP, &v.to_le_bytes()),
        }
    }
}

fn push_u32(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&(value as u32).to_le_bytes());
}

/// The field of a feature: murmur3 (x86, 32 bits, seed 0) of `view:feature`.
pub fn field(view: &str, feature: &str) -> [u8; 4] {
    let name = format!("{view}:{feature}");
    murmur3(name.as_bytes()).to_le_bytes()
}

/// Austin Appleby's MurmurHash3_x86_32 with seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = blocks.iter().fold(0u32, |hash, block| {
        (hash ^ mix(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    });
    let rest = tail.iter().rev().fold(0u32, |rest, byte| rest << 8 | u32::from(*byte));
    if !tail.is_empty() {
        hash ^= mix(rest);
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// Some features of one view, as fields of the hashes that hold them.
#[derive(Clone, Debug, PartialEq)]
pub struct HashRead {
    /// Digest of everything below but `cache`: rows read for one set of fields are kept apart from those of others.
    pub id: [u8; 16],
    /// The field with the view's event time.
    pub time_field: Vec<u8>,
    /// The features' fields, in the order in which rows have them.
    pub fields: Vec<[u8; 4]>,
    /// How many fields such a hash is thought to have, those of other views of the entity included.
    pub hash_fields: usize,
    /// How long rows may be kept.
    pub cache: Freshness,
}

impl HashRead {
    /// These features of the view. `view` is the name in the store: with its version, where versions are kept apart.
    pub fn new<'f>(
        view: &str,
        features: impl IntoIterator<Item = &'f str>,
        hash_fields: usize,
        cache: Freshness,
    ) -> Self {
        let time_field = format!("{TIME_FIELD}{view}").into_bytes();
        let fields: Vec<[u8; 4]> = features.into_iter().map(|feature| field(view, feature)).collect();
        let mut digest = Md5::new();
        digest.update(&time_field);
        digest.update([0]);
        fields.iter().for_each(|field| digest.update(field));
        Self { id: digest.finalize().into(), time_field, fields, hash_fields, cache }
    }
}

/// Seconds, nanoseconds and the number of fields.
const ROW_HEADER_BYTES: usize = 16;
/// Marks a field that the hash does not have. A value's end is far below: Redis holds 512 MB in one.
const ABSENT: u32 = 1 << 31;
/// A `Value` that is a double: the tag of `double_val`, and eight bytes.
const DOUBLE_TAG: u8 = 5 << 3 | 1;
const DOUBLE_BYTES: usize = 9;

/// The fields of one read of one entity: `[seconds i64][nanos i32][fields u32][end u32 …][values]`, little-endian.
/// Values are serialized `feast.types.Value`s, as they came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HashRow<'a> {
    header: &'a [u8; ROW_HEADER_BYTES],
    /// By field: where its value ends, or would.
    ends: &'a [[u8; 4]],
    values: &'a [u8],
}

impl<'a> HashRow<'a> {
    /// A row, if there are enough bytes for one.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<ROW_HEADER_BYTES>()?;
        let [.., f0, f1, f2, f3] = *header;
        let fields = u32::from_le_bytes([f0, f1, f2, f3]) as usize;
        // Fewer ends than fields: none of the values can be found.
        let (ends, values) = rest.split_at_checked(fields.saturating_mul(4)).unwrap_or_default();
        Some(Self { header, ends: ends.as_chunks().0, values })
    }

    /// The bytes of a row with these values; `None` when the hash has nothing at all of what was asked for: there is
    /// no such entity.
    pub fn pack(time: Option<&[u8]>, values: &[Option<&[u8]>]) -> Option<Vec<u8>> {
        if time.is_none() && values.iter().all(Option::is_none) {
            return None;
        }
        // A time that is none is as if there were none; the values stand for themselves.
        let (seconds, nanos) = time.and_then(read_time).unwrap_or_default();
        let total: usize = values.iter().flatten().map(|v| v.len()).sum();
        let mut bytes = Vec::with_capacity(ROW_HEADER_BYTES + 4 * values.len() + total);
        bytes.extend_from_slice(&seconds.to_le_bytes());
        bytes.extend_from_slice(&nanos.to_le_bytes());
        push_u32(&mut bytes, values.len());
        bytes.resize(ROW_HEADER_BYTES + 4 * values.len(), 0);
        let mut end = 0;
        for (slot, value) in bytes[ROW_HEADER_BYTES..].as_chunks_mut().0.iter_mut().zip(values) {
            end += value.map_or(0, |v| v.len() as u32);
            *slot = (if value.is_some() { end } else { end | ABSENT }).to_le_bytes();
        }
        for value in values.iter().flatten() {
            // A copy whose length is known costs an instruction or two, any other a call.
            match <&[u8; DOUBLE_BYTES]>::try_from(*value) {
                Ok(double) => bytes.extend_from_slice(double),
                Err(_) => bytes.extend_from_slice(value),
            }
        }
        Some(bytes)
    }

    /// The event time: seconds and nanoseconds since the Unix epoch; 0 when the view has written none.
    pub fn time(&self) -> (i64, i32) {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, ..] = *self.header;
        (i64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), i32::from_le_bytes([n0, n1, n2, n3]))
    }

    /// The bytes of the value at this place of the read's fields; `None` when the hash has no such field.
    #[inline]
    pub fn value(&self, index: usize) -> Option<&'a [u8]> {
        let end = u32::from_le_bytes(*self.ends.get(index)?);
        let start = if index == 0 { 0 } else { u32::from_le_bytes(self.ends[index - 1]) & !ABSENT };
        if end & ABSENT != 0 {
            return None;
        }
        self.values.get(start as usize..end as usize)
    }
}

/// A value as it lies in the store, not yet taken apart further than its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Raw<'a> {
    /// Nothing is set: how nulls are written.
    Null,
    /// `bytes_val`.
    Bytes(&'a [u8]),
    /// `string_val`.
    String(&'a str),
    /// `int32_val`.
    I32(i32),
    /// `int64_val`.
    I64(i64),
    /// `double_val`.
    F64(f64),
    /// `float_val`.
    F32(f32),
    /// `bool_val`.
    Bool(bool),
    /// `unix_timestamp_val`, in seconds.
    Timestamp(i64),
    /// Any other, by its field number: a list, a set or a map as an encoded message; JSON, UUIDs and decimals as text.
    Other(u32, &'a [u8]),
}

impl<'a> Raw<'a> {
    /// Reads a serialized `feast.types.Value`.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        // What most values are.
        match *bytes {
            [DOUBLE_TAG, b0, b1, b2, b3, b4, b5, b6, b7] => {
                Some(Self::F64(f64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7])))
            }
            _ => Self::read_any(bytes),
        }
    }

    fn read_any(bytes: &'a [u8]) -> Option<Self> {
        let mut value = Self::Null;
        let mut wire = Wire(bytes);
        while let Some((number, content)) = wire.next()? {
            value = match (number, content) {
                (1, Content::Bytes(v)) => Self::Bytes(v),
                (2, Content::Bytes(v)) => Self::String(str::from_utf8(v).ok()?),
                (3, Content::Varint(v)) => Self::I32(v as i32),
                (4, Content::Varint(v)) => Self::I64(v as i64),
                (5, Content::Fixed64(v)) => Self::F64(f64::from_bits(v)),
                (6, Content::Fixed32(v)) => Self::F32(f32::from_bits(v)),
                (7, Content::Varint(v)) => Self::Bool(v != 0),
                (8, Content::Varint(v)) => Self::Timestamp(v as i64),
                (19, Content::Varint(_)) => Self::Null,
                (11..=18 | 20..=29 | 32..=48, Content::Bytes(v)) => Self::Other(number, v),
                // A field of a later version is passed over, as every protobuf reader does.
                _ => value,
            };
        }
        Some(value)
    }
}

/// The event time of a row: seconds and nanoseconds since the Unix epoch, from a serialized `Timestamp`.
pub fn read_time(bytes: &[u8]) -> Option<(i64, i32)> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut wire = Wire(bytes);
    while let Some((number, content)) = wire.next()? {
        match (number, content) {
            (1, Content::Varint(v)) => seconds = v as i64,
            (2, Content::Varint(v)) => nanos = v as i32,
            _ => {}
        }
    }
    Some((seconds, nanos))
}

/// A serialized `Timestamp`.
pub fn push_time(out: &mut Vec<u8>, seconds: i64, nanos: i32) {
    for (tag, value) in [(0x08, seconds), (0x10, i64::from(nanos))] {
        if value != 0 {
            out.push(tag);
            push_varint(out, value as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn key(format: KeyFormat, parts: &[(&str, KeyPart<'_>)]) -> String {
        let mut out = Vec::new();
        format.push_names(&mut out, parts.iter().map(|(name, _)| *name));
        parts.iter().for_each(|(_, part)| KeyFormat::push_part(&mut out, *part));
        out.extend_from_slice(b"gwbench");
        hex(&out)
    }

    // The hex of this test and the next was made by Feast 0.67 itself.
    #[test]
    fn keys_are_feasts() {
        let driver = [("driver_id", KeyPart::I64(1001))];
        let v3 = "0100000002000000090000006472697665725f69640400000008000000e903000000000000677762656e6368";
        let v2 = "020000006472697665725f69640400000008000000e903000000000000677762656e6368";
        assert_eq!(key(KeyFormat::V3, &driver), v3);
        assert_eq!(key(KeyFormat::V2, &driver), v2);
        let both = [("driver_id", KeyPart::I64(1001)), ("user_id", KeyPart::String(b"u000042"))];
        let v3 = "0200000002000000090000006472697665725f69640200000007000000757365725f69640400000008000000e903000000000000020000000700000075303030303432677762656e6368";
        assert_eq!(key(KeyFormat::V3, &both), v3);
        let dummy = [(DUMMY_KEY, KeyPart::String(b""))];
        let v3 = "01000000020000000a0000005f5f64756d6d795f69640200000000000000677762656e6368";
        assert_eq!(key(KeyFormat::V3, &dummy), v3);
    }

    #[test]
    fn fields_and_values_are_feasts() {
        for (view, feature, wanted) in [
            ("driver_stats", "conv_rate", "fa731014"),
            ("driver_stats", "acc_rate", "5956e084"),
            ("a", "b", "436844a2"),
            ("é", "✓", "ae530f42"),
        ] {
            assert_eq!(hex(&field(view, feature)), wanted);
        }
        assert_eq!(Raw::read(b""), Some(Raw::Null));
        assert_eq!(Raw::read(&[0x98, 1, 0]), Some(Raw::Null));
        assert_eq!(Raw::read(&[0x20, 5]), Some(Raw::I64(5)));
        assert_eq!(Raw::read(&[0x20, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), Some(Raw::I64(-1)), "ten bytes");
        assert_eq!(Raw::read(&[0x29, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f]), Some(Raw::F64(0.5)));
        assert_eq!(Raw::read(b"\x12\x04gold"), Some(Raw::String("gold")));
        let list = [0x82, 1, 10, 10, 8, 0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0];
        let Some(Raw::Other(16, items)) = Raw::read(&list) else { panic!("a float list") };
        let mut floats = Vec::new();
        let take = |item: Content<'_>| {
            if let Content::Fixed32(bits) = item {
                floats.push(f32::from_bits(bits));
            }
        };
        assert_eq!(each_number(items, take, ItemWidth::Four), Some(()));
        assert_eq!(floats, [1.0, -2.5]);
    }

    #[test]
    fn a_row_gives_back_values_nulls_and_what_was_not_there() {
        let bytes = HashRow::pack(Some(&[8, 5]), &[Some(b"abc"), None, Some(b""), Some(b"d")]).unwrap();
        let row = HashRow::parse(&bytes).unwrap();
        assert_eq!(row.time(), (5, 0));
        assert_eq!(row.value(0), Some(&b"abc"[..]));
        assert_eq!(row.value(1), None);
        assert_eq!(row.value(2), Some(&b""[..]));
        assert_eq!(row.value(3), Some(&b"d"[..]));
        assert_eq!(row.value(4), None, "past the last field");
        assert_eq!(HashRow::pack(None, &[None, None]), None);
    }

    #[test]
    fn event_times_are_feasts() {
        let mut out = Vec::new();
        push_time(&mut out, 1_795_333_823, 123_456_000);
        assert_eq!(hex(&out), "08bfbd8ad806108094ef3a");
        assert_eq!(read_time(&out), Some((1_795_333_823, 123_456_000)));
        assert_eq!(read_time(b""), Some((0, 0)));
    }

    #[test]
    fn cut_or_wrong_bytes_are_none() {
        let whole = b"\x12\x04gold";
        for cut in 1..whole.len() {
            assert_eq!(Raw::read(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Raw::read(b"\x12\x02\xff\xfe"), None, "not UTF-8");
        assert_eq!(Raw::read(&[0xff; 12]), None);
    }
}
