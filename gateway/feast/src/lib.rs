//! Feast's dialect, as its Python server (0.67) speaks it: what its repository files say, what its references and
//! values mean, and how it answers. Promises: pure (bytes in, bytes out), and an answer or an error is the one that
//! the Python server would have given.

mod answer;
mod coerce;
mod encode;
mod frame;
mod import;
mod json;
mod lookup;
mod order;
mod precomputed;
mod raised;
mod reference;
mod registry;
mod request;
mod rows;
mod search;
mod size;
mod store_file;
mod typed;
mod unicode;
mod wire;
mod zoned;

pub use answer::{Answer, Column, ComputedColumn, Found, Semantics};
pub use coerce::{text, values};
pub use encode::{OutOfRange, cell_value, loaded_as, stored};
pub use frame::{Frame, Target, WriteRow};
pub use import::{Counts, Imported, LeftOut, column_of, import, quoted, weir_name};
pub use jiter::JsonValue;
pub use lookup::{Computed, Lookup, Options, ViewRead, Wanted};
pub use precomputed::{Vector, VectorRow, vectors};
pub use raised::{Class, Raised, repr};
pub use registry::{Entity, Field, OnDemand, Projection, Registry, RegistryError, RowSource, Service, View, ViewKind};
pub use request::{Body, OnlineRequest, field, flag, object, parse, text as string, unprocessable};
pub use rows::{HashNames, Naming, Rows, key_part, no_key, passed};
pub use search::search;
pub use size::{CELLS_MAX, ROWS_MAX, TEXT_BYTES_MAX, check_frame};
pub use store_file::{Online, Repo, Topology};
pub use typed::cell_of;
pub use unicode::encodable_values;
