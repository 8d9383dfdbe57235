//! Bytes in and out: the little that the record codec needs. Numbers are little-endian, columns are copied as
//! one piece. Reading checks every length against what is there.

use arrow_buffer::{ArrowNativeType, ToByteSlice};

#[cfg(target_endian = "big")]
compile_error!("columns are copied as they lie in memory, and the journal's files are little-endian");

/// Bytes that passed their checksum and still make no sense: written by another program, or by a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame does not hold {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Marks an absent text, where its length would stand.
const NO_TEXT: u32 = u32::MAX;

pub(crate) fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.extend_from_slice(&NO_TEXT.to_le_bytes()),
        Some(text) => {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// A column's buffer, as it lies in memory.
pub(crate) fn put_slice<T: ArrowNativeType>(out: &mut Vec<u8>, values: &[T]) {
    out.extend_from_slice(values.to_byte_slice());
}

/// What is left to read.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|a| a[0])
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.array(what).map(i64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self, what: &'static str) -> Result<u128, Malformed> {
        self.array(what).map(u128::from_le_bytes)
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<Option<&'a str>, Malformed> {
        match self.u32(what)? {
            NO_TEXT => Ok(None),
            len => {
                let bytes = self.take(len as usize, what)?;
                std::str::from_utf8(bytes).map(Some).map_err(|_| Malformed(what))
            }
        }
    }

    /// `count` numbers of `N` bytes each; nothing is reserved before the bytes are known to be there.
    pub(crate) fn numbers<T, const N: usize>(
        &mut self,
        count: usize,
        read: fn([u8; N]) -> T,
        what: &'static str,
    ) -> Result<Vec<T>, Malformed> {
        let bytes = self.take(count.checked_mul(N).ok_or(Malformed(what))?, what)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|c| read(*c)).collect())
    }
}
