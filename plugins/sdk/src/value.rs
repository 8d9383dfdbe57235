//! The types a column can have, by their Rust names: `f64`, `f32`, `i64`, `bool`, `str`, `[u8]`, `[f32]`
//! and [`Timestamp`]. A closed set: it is the contract's.

use std::fmt::Debug;

use crate::Error;
use crate::flat::{Pieces, Reader, Spans, Writer};
use crate::raw::Kind;

/// A type of column.
#[diagnostic::on_unimplemented(
    message = "a column cannot be of type `{Self}`",
    note = "the types are f64, f32, i64, bool, str, [u8], [f32] and weir_plugin::Timestamp"
)]
pub trait Value: sealed::Sealed {
    /// A value as a transform reads it: `f64`, `&str`, …
    type In<'a>: Copy + Debug + PartialEq;
    /// A value as a transform returns it: `f64`, `String`, …
    type Out: Clone + Debug + PartialEq;

    #[doc(hidden)]
    const KIND: Kind;
    #[doc(hidden)]
    type Block<'a>: Copy;
    #[doc(hidden)]
    type Buffer: Clone + Debug + Default;
    #[doc(hidden)]
    fn take<'a>(from: &mut Reader<'a>) -> Result<Self::Block<'a>, Error>;
    #[doc(hidden)]
    fn get(block: Self::Block<'_>, row: usize) -> Option<Self::In<'_>>;
    #[doc(hidden)]
    fn view(value: &Self::Out) -> Self::In<'_>;
    #[doc(hidden)]
    fn own(value: Self::In<'_>) -> Self::Out;
    /// Appends a value, or the placeholder that stands in a hole.
    #[doc(hidden)]
    fn append(buffer: &mut Self::Buffer, value: Option<Self::In<'_>>);
    #[doc(hidden)]
    fn put(buffer: Self::Buffer, into: &mut Writer) -> Result<(), Error>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for bool {}
    impl Sealed for i64 {}
    impl Sealed for f64 {}
    impl Sealed for f32 {}
    impl Sealed for str {}
    impl Sealed for [u8] {}
    impl Sealed for [f32] {}
    impl Sealed for super::Timestamp {}
}

/// A moment: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(
    /// Microseconds since the Unix epoch.
    pub i64,
);

/// Fixed-width types differ only in how one value is read from what is stored, and written.
macro_rules! fixed {
    ($type:ty, $kind:ident, $list:ident, $stored:ty, $read:expr, $write:expr) => {
        impl Value for $type {
            type In<'a> = $type;
            type Out = $type;
            const KIND: Kind = Kind::$kind;
            type Block<'a> = &'a [$stored];
            type Buffer = Vec<$stored>;

            fn take<'a>(from: &mut Reader<'a>) -> Result<&'a [$stored], Error> {
                from.$list()
            }

            fn get(block: Self::Block<'_>, row: usize) -> Option<Self::In<'_>> {
                block.get(row).copied().map($read)
            }

            fn view(value: &$type) -> $type {
                *value
            }

            fn own(value: Self::In<'_>) -> $type {
                value
            }

            fn append(buffer: &mut Vec<$stored>, value: Option<Self::In<'_>>) {
                buffer.push(value.map($write).unwrap_or_default());
            }

            fn put(buffer: Vec<$stored>, into: &mut Writer) -> Result<(), Error> {
                into.$list(buffer)
            }
        }
    };
}

fixed!(f64, F64, f64s, f64, |v| v, |v| v);
fixed!(f32, F32, f64s, f64, |v| v as f32, f64::from);
fixed!(i64, I64, s64s, i64, |v| v, |v| v);
fixed!(Timestamp, Timestamp, s64s, i64, Timestamp, |v: Timestamp| v.0);
fixed!(bool, Bool, bools, u8, |v| v != 0, u8::from);

/// Types of varying length differ in what is checked of a column and in which items a value consists of.
macro_rules! varying {
    ($type:ty, $kind:ident, $list:ident, $item:ty, $out:ty, $take:expr, $items:expr) => {
        impl Value for $type {
            type In<'a> = &'a $type;
            type Out = $out;
            const KIND: Kind = Kind::$kind;
            type Block<'a> = (Spans<'a>, &'a $type);
            type Buffer = Pieces<$item>;

            fn take<'a>(from: &mut Reader<'a>) -> Result<Self::Block<'a>, Error> {
                let (spans, items) = from.$list()?;
                let check: fn(Spans<'a>, &'a [$item]) -> Result<Self::Block<'a>, Error> = $take;
                check(spans, items)
            }

            fn get((spans, items): Self::Block<'_>, row: usize) -> Option<Self::In<'_>> {
                let (start, end) = spans.get(row)?;
                items.get(start..end)
            }

            fn view(value: &$out) -> &$type {
                value
            }

            fn own(value: Self::In<'_>) -> $out {
                value.to_owned()
            }

            fn append(buffer: &mut Pieces<$item>, value: Option<Self::In<'_>>) {
                buffer.push(value.map($items).unwrap_or_default());
            }

            fn put(buffer: Pieces<$item>, into: &mut Writer) -> Result<(), Error> {
                into.$list(buffer)
            }
        }
    };
}

varying!([u8], Bytes, bytes, u8, Vec<u8>, |spans, data| Ok((spans, data)), |v| v);
varying!([f32], ListF32, items, f32, Vec<f32>, |spans, items| Ok((spans, items)), |v| v);
varying!(str, String, bytes, u8, String, text, str::as_bytes);

/// Checked once a column; a value is then cut out of the text without another look.
fn text<'a>(spans: Spans<'a>, data: &'a [u8]) -> Result<(Spans<'a>, &'a str), Error> {
    let text = std::str::from_utf8(data).map_err(|_| Error::new("a string column is not UTF-8"))?;
    Ok((spans, text))
}
