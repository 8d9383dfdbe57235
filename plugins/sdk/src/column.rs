//! A column as a transform reads it and a column as it writes it. Both know their holes.

use std::fmt;

use crate::Value;
use crate::flat::mask_bytes;

/// One input column.
pub struct Column<'a, K: Value + ?Sized> {
    rows: usize,
    mask: &'a [u8],
    block: K::Block<'a>,
}

impl<'a, K: Value + ?Sized> Column<'a, K> {
    pub(crate) fn new(rows: usize, mask: &'a [u8], block: K::Block<'a>) -> Self {
        Self { rows, mask, block }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is a value in this row.
    pub fn has(&self, row: usize) -> bool {
        self.mask.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
    }

    /// The value in this row; `None` where there is a hole, and past the last row.
    pub fn get(&self, row: usize) -> Option<K::In<'a>> {
        if self.has(row) { K::get(self.block, row) } else { None }
    }

    /// The values in order, holes included.
    pub fn iter(&self) -> impl Iterator<Item = Option<K::In<'a>>> {
        (0..self.rows).map(|row| self.get(row))
    }
}

impl<'a> Column<'a, f64> {
    /// All values at once, for loops that the compiler can vectorise; 0 stands in a hole.
    pub fn values(&self) -> &'a [f64] {
        self.block
    }
}

impl<'a> Column<'a, i64> {
    /// All values at once, for loops that the compiler can vectorise; 0 stands in a hole.
    pub fn values(&self) -> &'a [i64] {
        self.block
    }
}

impl<K: Value + ?Sized> Clone for Column<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Value + ?Sized> Copy for Column<'_, K> {}

impl<K: Value + ?Sized> fmt::Debug for Column<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One output column: push a value or a hole for every row, or collect it from an iterator of options.
pub struct Output<K: Value + ?Sized> {
    rows: usize,
    mask: Vec<u8>,
    buffer: K::Buffer,
}

impl<K: Value + ?Sized> Output<K> {
    /// A column without rows.
    pub fn new() -> Self {
        Self { rows: 0, mask: Vec::new(), buffer: K::Buffer::default() }
    }

    /// Appends a value, or a hole.
    pub fn push(&mut self, value: Option<K::In<'_>>) {
        let bit = self.rows % 8;
        if bit == 0 {
            self.mask.push(0);
        }
        if let (true, Some(byte)) = (value.is_some(), self.mask.last_mut()) {
            *byte |= 1 << bit;
        }
        self.rows += 1;
        K::append(&mut self.buffer, value);
    }

    /// Number of rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn into_parts(self) -> (usize, Vec<u8>, K::Buffer) {
        (self.rows, self.mask, self.buffer)
    }
}

impl<K: Value + ?Sized> Clone for Output<K> {
    fn clone(&self) -> Self {
        Self { rows: self.rows, mask: self.mask.clone(), buffer: self.buffer.clone() }
    }
}

impl<K: Value + ?Sized> Default for Output<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Value + ?Sized> FromIterator<Option<K::Out>> for Output<K> {
    fn from_iter<I: IntoIterator<Item = Option<K::Out>>>(values: I) -> Self {
        let mut column = Self::new();
        for value in values {
            column.push(value.as_ref().map(K::view));
        }
        column
    }
}

/// A column without holes, without a copy.
impl From<Vec<f64>> for Output<f64> {
    fn from(values: Vec<f64>) -> Self {
        Self { rows: values.len(), mask: full_mask(values.len()), buffer: values }
    }
}

/// A column without holes, without a copy.
impl From<Vec<i64>> for Output<i64> {
    fn from(values: Vec<i64>) -> Self {
        Self { rows: values.len(), mask: full_mask(values.len()), buffer: values }
    }
}

/// Bits behind the last row are never read.
fn full_mask(rows: usize) -> Vec<u8> {
    vec![0xFF; mask_bytes(rows)]
}
