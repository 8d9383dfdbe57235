//! Protobuf's wire format, as far as Feast's values need it. Promises: bytes that are no message are `None`, never a
//! panic, and nothing is copied.

/// Reads the fields of a protobuf message one after another.
pub struct Wire<'a>(pub &'a [u8]);

/// The content of a field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Content<'a> {
    /// int32, int64, bool, enums.
    Varint(u64),
    /// double.
    Fixed64(u64),
    /// float.
    Fixed32(u32),
    /// bytes, strings, messages and packed numbers.
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    /// The next field's number and content; `Some(None)` at the end, `None` when these bytes are no message.
    #[expect(clippy::should_implement_trait, reason = "a malformed message is neither an item nor the end")]
    pub fn next(&mut self) -> Option<Option<(u32, Content<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok()?;
        let content = match tag & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Fixed64(u64::from_le_bytes(*self.take(8)?.first_chunk()?)),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Content::Bytes(self.take(len)?)
            }
            5 => Content::Fixed32(u32::from_le_bytes(*self.take(4)?.first_chunk()?)),
            _ => return None,
        };
        Some(Some((number, content)))
    }

    /// The next varint.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

/// The items of an encoded list of numbers, packed or not: `each` gets every one.
pub fn each_number(list: &[u8], mut each: impl FnMut(Content<'_>), item: ItemWidth) -> Option<()> {
    let mut wire = Wire(list);
    while let Some((number, content)) = wire.next()? {
        match (number, content) {
            (1, Content::Bytes(packed)) => match item {
                ItemWidth::Varint => {
                    let mut items = Wire(packed);
                    while !items.0.is_empty() {
                        each(Content::Varint(items.varint()?));
                    }
                }
                ItemWidth::Four => {
                    let (items, rest) = packed.as_chunks::<4>();
                    items.iter().for_each(|v| each(Content::Fixed32(u32::from_le_bytes(*v))));
                    rest.is_empty().then_some(())?;
                }
                ItemWidth::Eight => {
                    let (items, rest) = packed.as_chunks::<8>();
                    items.iter().for_each(|v| each(Content::Fixed64(u64::from_le_bytes(*v))));
                    rest.is_empty().then_some(())?;
                }
            },
            (1, content) => each(content),
            _ => {}
        }
    }
    Some(())
}

/// How the items of a packed list are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemWidth {
    /// Integers and bools.
    Varint,
    /// Floats.
    Four,
    /// Doubles.
    Eight,
}

/// A base-128 varint.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
