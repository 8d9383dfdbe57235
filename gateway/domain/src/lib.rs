//! What things *mean* in a feature-serving gateway: catalog, plan, experiments, budget, answer, provenance
//! and refusal. Pure: no I/O, no clock, no async, no logging; same inputs, same answer on every machine.

pub mod catalog;
pub mod experiment;
pub mod feast;
pub mod plan;

mod answer;
mod budget;
mod column;
mod digits;
mod gathered;
mod need;
mod provenance;
mod refusal;
mod request;

pub use answer::{Answer, Record, RequestId, answer};
pub use budget::{Budget, Left, Spent};
pub use column::{Blob, Column, FeatureType, Kind, Lists, Named, Value, WrongType};
pub use digits::{push_f32, push_f64};
pub use gathered::{Cell, Gathered, Times};
pub use need::{Need, Needs};
pub use provenance::Provenance;
pub use refusal::{Refusal, Violation};
pub use request::{ITEMS_MAX, KEY_BYTES_MAX, Request};
