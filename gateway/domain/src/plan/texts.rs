//! Text that is the same in every answer of a plan: made with the first, copied into all others.

use std::sync::OnceLock;

/// The pieces between what differs from answer to answer, in order.
#[derive(Debug, Default)]
pub struct Texts(OnceLock<Vec<Box<[u8]>>>);

impl Texts {
    /// The pieces; `make` writes them when nobody has yet.
    pub fn get_or_make(&self, make: impl FnOnce() -> Vec<Box<[u8]>>) -> &[Box<[u8]>] {
        self.0.get_or_init(make)
    }
}

/// What was written makes no plan another.
impl PartialEq for Texts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
