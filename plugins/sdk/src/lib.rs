//! What a transform is written with: name the columns, write a function, build for Wasm.
//!
//! ```
//! weir_plugin::transform! {
//!     inputs: { wind_speed_mph: f64, gust_mph: f64 },
//!     outputs: { gust_factor: f64 },
//!     row: gust_factor,
//! }
//!
//! fn gust_factor(row: Inputs) -> Outputs {
//!     Outputs { gust_factor: row.gust_mph.zip(row.wind_speed_mph).map(|(gust, wind)| gust / wind) }
//! }
//! # fn main() {}
//! ```
//!
//! Everything that crosses the border is hidden behind [`Column`] and [`Output`]; a column that is missing,
//! misspelt or of another type does not compile. The function is plain Rust: call it in a `#[test]`, or run
//! whole tables through the border's format with [`testing::Table`].
//!
//! A transform has no clock, no randomness, no files and no network, and its instance may be discarded
//! between any two calls: compute from the inputs and from nothing else.

mod column;
mod flat;
mod macros;
pub mod testing;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;

pub use column::{Column, Output};
pub use value::{Timestamp, Value};

/// The contract as generated from `wit/transform.wit`, for whoever wants the flat batch itself.
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::indexing_slicing)]
pub mod raw {
    wit_bindgen::generate!({
        path: "../wit",
        world: "transform",
        pub_export_macro: true,
        export_macro_name: "export_guest",
        default_bindings_module: "weir_plugin::raw",
        additional_derives: [PartialEq],
    });

    pub use weir::transform::types::{Field, Kind};
}

/// What the macro's expansion names; not for authors.
#[doc(hidden)]
pub mod expansion {
    pub use crate::flat::{Reader, Writer, field};

    use crate::raw::{Batch, Guest, Schema};

    /// Makes the component's exports out of a transform.
    pub struct Export<T>(std::marker::PhantomData<T>);

    impl<T: crate::Transform> Guest for Export<T> {
        fn describe() -> Schema {
            T::schema()
        }

        fn transform(input: Batch) -> Result<Batch, String> {
            T::call(&input).map_err(|error| error.to_string())
        }
    }
}

/// A transform as the gateway sees it. [`transform!`] writes the implementation.
pub trait Transform {
    /// Its columns, in order.
    #[doc(hidden)]
    fn schema() -> raw::Schema;

    /// Computes one flat batch.
    #[doc(hidden)]
    fn call(input: &raw::Batch) -> Result<raw::Batch, Error>;
}

/// Why a transform gave no answer. The gateway then serves the default of every output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// An error with a message for the operator's log. Put no feature values in it.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}
