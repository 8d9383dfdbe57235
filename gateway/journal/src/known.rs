//! Rows known by the reading they are of: the way to a row's number that does not look at its values. Whoever kept the
//! row has numbered the reading, and one plan answers the same values of one reading every time; so what was found once
//! by the values' name is found by this from then on. It only ever leads to where the name would.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use weir_domain::{Answer, Times};

use crate::rows::{Folded, Group};

/// More are not remembered, 4 MiB of them; then all are found by name once more.
const KNOWN_MAX: usize = 1 << 17;

/// A reading as it was answered: the reading's number, the read's index and the plan's number.
pub(crate) type Key = u128;

/// The keys of all rows of these groups, in the order of their names; `false` when not all have one.
pub(crate) fn keys(plan: u32, groups: &[Group], answer: &Answer, keys: &mut Vec<Key>) -> bool {
    keys.clear();
    groups.iter().all(|group| {
        let readings = answer.times.get(group.read).map_or(&[][..], |times| &times.readings);
        let place = u128::from(plan) << 96 | (group.read as u128) << 64;
        let key = |reading: &u64| place | u128::from(*reading);
        match readings {
            [one] => keys.extend(std::iter::repeat_n(key(one), answer.rows)),
            each => keys.extend(each.iter().map(key)),
        }
        let is_each = readings.len() == answer.rows || readings.len() == 1;
        is_each && !readings.contains(&Times::UNNUMBERED)
    })
}

/// The numbers of rows, counted from their generation's first, by key.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<Key, u32, BuildHasherDefault<Folded>>);

impl Known {
    /// Appends numbers for as many rows as are known.
    pub(crate) fn find(&self, keys: &[Key], offsets: &mut Vec<u32>) {
        offsets.extend(keys.iter().map_while(|key| self.0.get(key)));
    }

    pub(crate) fn remember(&mut self, keys: &[Key], offsets: &[u32]) {
        if self.0.len() + keys.len() > KNOWN_MAX {
            self.0.clear();
        }
        self.0.extend(keys.iter().copied().zip(offsets.iter().copied()));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
